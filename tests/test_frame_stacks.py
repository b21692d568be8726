"""Frames stored once: every transition drawn is, bit for bit, what whole stacks would have given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_replay
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_replay import assert_equally_often

from sharedq.errors import SharedqError
from sharedq.recipes import recipe
from sharedq.replay import FrameStacks, Transitions
from sharedq.transitions import Batch, Step

pytestmark = pytest.mark.usefixtures("hasty")

KEY = jax.random.key(5)
ENVIRONMENTS, ROWS, DEPTH, ROOM = 3, 8, 4, 2  # ROOM for final frames, fewer than environments
CAPACITY = ROWS * ENVIRONMENTS
GOES_ON, TERMINATED, TRUNCATED, LIFE_LOST = 0, 1, 2, 3  # a lost life is learned as an end, but frames go on
GAMMA = 0.5  # exact in float32, as are the rewards below


def shapes(*obs: int) -> Step:
    stack, number, flag = jax.ShapeDtypeStruct(obs, jnp.uint8), jnp.float32, jnp.bool_
    scalar = jax.ShapeDtypeStruct
    return Step(stack, scalar((), jnp.int32), scalar((), number), scalar((), flag), scalar((), flag), stack)


STEP = shapes(2, 3, DEPTH)


def played(ends: np.ndarray) -> Step:
    """Steps [T, N, ...] with whole stacks of random frames, of episodes that end as `ends` [T, N] says.

    The action tells when and where a step was made: time * N + environment.
    """
    times, environments = ends.shape
    frames = np.random.default_rng(0)

    def push(stack):
        return np.concatenate([stack[..., 1:], frames.integers(1, 256, (2, 3, 1), np.uint8)], axis=-1)

    empty = np.zeros((2, 3, DEPTH), np.uint8)
    obs, next_obs = (np.zeros((times, environments, *empty.shape), np.uint8) for _ in range(2))
    for where in range(environments):
        stack = push(empty)
        for time in range(times):
            obs[time, where], next_obs[time, where] = stack, push(stack)
            stack = next_obs[time, where] if ends[time, where] in (GOES_ON, LIFE_LOST) else push(empty)
    action = np.arange(ends.size, dtype=np.int32).reshape(ends.shape)
    reward = frames.integers(-8, 8, ends.shape).astype(np.float32)
    terminated = (ends == TERMINATED) | (ends == LIFE_LOST)
    return Step(obs, action, reward, terminated, ends == TRUNCATED, next_obs)


def at(steps: Step, time) -> Step:
    return jax.tree.map(lambda leaf: leaf[time], steps)


@functools.cache
def compiled(n: int):
    return test_replay.compiled(FrameStacks(CAPACITY, CAPACITY, n, ROOM).build(STEP, GAMMA, ENVIRONMENTS))


def filled(replay, steps: Step, written: int):
    data = replay.init()
    for time in range(written):
        data = replay.add(data, jnp.int32(time), at(steps, time))
    return data


def drawn(replay, steps: Step, written: int, draws: int) -> Batch:
    """So many batches, one after the other, after so many steps."""
    data = filled(replay, steps, written)
    batches = [replay.sample(data, jnp.int32(written), jax.random.fold_in(KEY, draw)) for draw in range(draws)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)


def check_against_whole_stacks(batch: Batch, steps: Step, written: int, n: int) -> None:
    truncated = [(t, w) for t in range(written) for w in range(ENVIRONMENTS) if steps.truncated[t, w]]
    have_final_frames = set(truncated[-ROOM:])
    seen = batch.transition
    for i, action in enumerate(seen.action):
        first, where = divmod(int(action), ENVIRONMENTS)
        assert max(0, written - ROWS) <= first <= written - n
        reward, last = steps.reward[first, where], first
        while last < first + n - 1 and not (steps.terminated[last, where] or steps.truncated[last, where]):
            last += 1
            reward += GAMMA ** (last - first) * steps.reward[last, where]
        died = steps.terminated[last, where]
        lost = steps.truncated[last, where] and (last, where) not in have_final_frames
        np.testing.assert_array_equal(seen.obs[i], steps.obs[first, where])
        assert seen.reward[i] == reward
        assert seen.discount[i] == (0 if died else GAMMA ** (last - first + 1))
        assert batch.weights[i] == (0 if lost else 1)
        assert (batch.ids.time[i], batch.ids.environment[i]) == (-1 if lost else first, where)  # nothing is credited
        if died:  # the last frame stands still
            np.testing.assert_array_equal(seen.next_obs[i, ..., :-1], steps.obs[last, where][..., 1:])
            np.testing.assert_array_equal(seen.next_obs[i, ..., -1], steps.obs[last, where][..., -1])
        elif not lost:
            np.testing.assert_array_equal(seen.next_obs[i], steps.next_obs[last, where])


ANY_ENDS = arrays(  # episodes of one step and of many, most of them shorter than the ring
    np.int8, (3 * ROWS + 5, ENVIRONMENTS), elements=st.sampled_from([GOES_ON] * 5 + [TERMINATED, TRUNCATED, LIFE_LOST])
)


@pytest.mark.parametrize("n", [1, 3])
@settings(max_examples=40)
@given(ANY_ENDS, st.integers(3, 3 * ROWS + 5))
def test_what_is_drawn_equals_what_whole_stacks_would_give(n, ends, written):
    steps = played(ends)
    check_against_whole_stacks(drawn(compiled(n), steps, written, 3), steps, written, n)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("written", [3, ROWS - 1, ROWS, ROWS + 1, ROWS + DEPTH, 3 * ROWS + 5])
def test_only_what_is_complete_is_drawn_and_all_of_it(n, written):
    batch = drawn(compiled(n), played(np.zeros((written, ENVIRONMENTS), np.int8)), written, 20)
    complete = range(max(0, written - ROWS), written - n + 1)
    expected = {time * ENVIRONMENTS + where for time in complete for where in range(ENVIRONMENTS)}
    assert set(batch.transition.action.tolist()) == expected


@pytest.mark.parametrize("n", [1, 3])
def test_it_draws_what_uniform_replay_draws(n):
    """With room for every final frame, and the same key: the same transitions with the same numbers."""
    ends = np.random.default_rng(1).choice(4, (3 * ROWS, ENVIRONMENTS), p=[0.7, 0.1, 0.1, 0.1]).astype(np.int8)
    steps, replays = played(ends), []
    for kind in (FrameStacks, Transitions):
        replays.append(test_replay.compiled(kind(CAPACITY, CAPACITY, n).build(STEP, 0.99, ENVIRONMENTS)))
    ours, theirs = (drawn(replay, steps, len(ends), 3) for replay in replays)
    goes_on = theirs.transition.discount > 0
    assert 0 < goes_on.sum() < len(goes_on)

    def compared(batch: Batch) -> Batch:  # after the end of the world the next observation means nothing
        return batch._replace(transition=batch.transition._replace(next_obs=batch.transition.next_obs[goes_on]))

    jax.tree.map(np.testing.assert_array_equal, compared(ours), compared(theirs))


def test_a_final_frame_that_was_overwritten_gives_weight_0():
    """Three episodes are truncated at once where two final frames have room; then a fourth takes the older one's."""
    ends = np.zeros((6, ENVIRONMENTS), np.int8)
    ends[2], ends[4, 0] = TRUNCATED, TRUNCATED
    steps = played(ends)
    for written, kept in ((4, {(2, 1), (2, 2)}), (6, {(2, 2), (4, 0)})):
        batch = drawn(compiled(1), steps, written, 20)
        check_against_whole_stacks(batch, steps, written, 1)
        weights = dict(zip(batch.transition.action.tolist(), batch.weights.tolist()))
        lost = {divmod(action, ENVIRONMENTS) for action, weight in weights.items() if weight == 0}
        assert len(weights) == written * ENVIRONMENTS  # all were drawn
        assert lost == {(time, where) for time, where in np.argwhere(ends[:written]).tolist()} - kept


@pytest.mark.parametrize(("n", "written"), [(1, 3 * ROWS + 5), (1, 5), (3, 2 * ROWS)])
def test_every_complete_step_is_drawn_equally_often(n, written):
    actions = drawn(compiled(n), played(np.zeros((written, ENVIRONMENTS), np.int8)), written, 1000).transition.action
    assert_equally_often(actions, cells=ENVIRONMENTS * (min(written, ROWS) - n + 1))


def test_seeds_side_by_side_are_each_as_alone():
    rng = np.random.default_rng(2)
    written = 2 * ROWS + 3
    seeds = [played(rng.choice(3, (written, ENVIRONMENTS), p=[0.7, 0.1, 0.2]).astype(np.int8)) for _ in range(2)]
    both = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *seeds)  # [T, S, N, ...]
    replay, keys = compiled(3), jax.random.split(KEY, 2)
    data = filled(
        replay._replace(
            init=jax.vmap(replay.init, axis_size=2), add=jax.jit(jax.vmap(replay.add, in_axes=(0, None, 0)))
        ),
        both,
        written,
    )
    together = jax.jit(jax.vmap(replay.sample, in_axes=(0, None, 0)))(data, jnp.int32(written), keys)
    for seed, steps in enumerate(seeds):
        alone = replay.sample(filled(replay, steps, written), jnp.int32(written), keys[seed])
        jax.tree.map(np.testing.assert_array_equal, at(together, seed), alone)


@pytest.mark.parametrize("seeds", [None, 2])
def test_a_donated_scan_writes_and_draws_in_place_and_compiles_once(seeds):
    replay = test_replay.compiled(FrameStacks(capacity=2000, batch_size=2).build(shapes(32, 32, DEPTH), 0.9, 2))
    step = jax.tree.map(lambda leaf: jnp.ones((2, *leaf.shape), leaf.dtype), shapes(32, 32, DEPTH))

    def train(data, written):
        def once(carry, time):
            data = replay.add(carry[0], time, step)
            return (data, replay.sample(data, time + 1, jax.random.fold_in(KEY, time))), None

        data = replay.add(data, written, step)
        return jax.lax.scan(once, (data, replay.sample(data, written + 1, KEY)), written + 1 + jnp.arange(9))[0]

    init = replay.init
    if seeds:
        train, init = jax.vmap(train, in_axes=(0, None)), jax.vmap(init, axis_size=seeds)
    data = init()
    ring, final_frames, _ = data.storage
    frames = [ring.frame.unsafe_buffer_pointer(), final_frames.unsafe_buffer_pointer()]
    train = jax.jit(train, donate_argnums=0)
    scratch = train.lower(data, jnp.int32(0)).compile().memory_analysis().temp_size_in_bytes
    assert scratch < ring.frame.nbytes / 10
    for written in (0, 10, 20):
        data, _ = train(data, jnp.int32(written))
    ring, final_frames, _ = data.storage
    assert [ring.frame.unsafe_buffer_pointer(), final_frames.unsafe_buffer_pointer()] == frames
    assert train._cache_size() == 1


def test_a_million_steps_of_atari_take_7_1_gigabytes():
    data = jax.eval_shape(FrameStacks().build(shapes(84, 84, 4), 0.99, 1).init)
    assert 7.05e9 < sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(data)) < 7.1e9


@pytest.mark.parametrize(
    ("obs", "kind"),
    [
        (jax.ShapeDtypeStruct((10, 10, 4), jnp.bool_), "bool[10, 10, 4]"),  # MinAtar: the last axis is not time
        (jax.ShapeDtypeStruct((4,), jnp.uint8), "uint8[4]"),
        ({"screen": jax.ShapeDtypeStruct((84, 84, 4), jnp.uint8)}, "dict"),
    ],
)
def test_what_is_no_stack_of_frames_is_refused(obs, kind):
    with pytest.raises(SharedqError) as refusal:
        FrameStacks().build(STEP._replace(obs=obs, next_obs=obs), 0.99, 1)
    message = f"replay 'frame_stacks' needs uint8 stacks of frames [..., time], not {kind}: use --replay transitions"
    assert str(refusal.value) == message


def test_an_environment_has_to_say_that_it_shows_stacks_of_frames():
    with pytest.raises(SharedqError, match=r"^replay 'frame_stacks' is for .* cartpole does not say"):
        recipe("cartpole").replace(replay="frame_stacks").build()


def test_settings_are_checked_as_those_of_uniform_replay_and_its_own():
    with pytest.raises(SharedqError, match=r"^replay.truncations must be at least 1, not 0$"):
        FrameStacks(truncations=0)
    with pytest.raises(SharedqError, match=r"^replay.batch_size 32 is larger than replay.capacity 10: lower it$"):
        FrameStacks(capacity=10)
