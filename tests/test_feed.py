"""Batches of a data set: what online replay would give for the same steps, drawn by seed and number alone."""

import functools
import itertools
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_replay import assert_equally_often, compiled

from sharedq.datasets.data_set import DataSet
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.feed import AS_STORED, Raw, Rewards, StoreFeed, begins_of, chosen_part
from sharedq.datasets.manifest import Description
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec
from sharedq.replay import FrameStacks, Transitions
from sharedq.training.learning import step_like
from sharedq.transitions import Batch, Step

KEY, GAMMA = jax.random.key(4), 0.5  # gamma is exact in float32, as are the rewards below
STEPS = 30  # of an example
GOES_ON, TERMINATED, TRUNCATED = 0, 1, 2


class World(NamedTuple):
    """A form of observations and actions. Every action is another one, so that it tells which step it was."""

    spec: EnvironmentSpec
    stack: int | None = None

    @property
    def description(self) -> Description:
        return Description("tests", "tests", self.spec, self.stack)

    def action(self, step: int) -> np.ndarray:
        if isinstance(self.spec.actions, Discrete):
            return np.array(step, np.int32)
        return np.array([step / 1024, -step / 1024], np.float32)

    def step_of(self, action: np.ndarray) -> int:
        return int(action) if isinstance(self.spec.actions, Discrete) else int(action[0] * 1024)


def world(shape: tuple[int, ...], dtype, actions=None, stack: int | None = None) -> World:
    stacks = None if stack is None else "black"
    return World(EnvironmentSpec("made", jax.ShapeDtypeStruct(shape, dtype), actions or Discrete(1_000), stacks), stack)


ONES = np.ones(2, np.float32)
WORLDS = {
    "packed booleans": world((3, 3), jnp.bool_),
    "three booleans": world((3,), jnp.bool_),
    "floats and continuous actions": world((3,), jnp.float32, Continuous(-ONES, ONES)),
    "stacks of frames": world((2, 2, 4), jnp.uint8, stack=4),
}


def played(world: World, ends: np.ndarray, groups: np.ndarray | None = None) -> tuple[Step, list[Episode]]:
    """Steps [T, ...] of episodes that end as `ends` [T] says, and the episodes; the last one is cut."""
    draw, (shape, dtype) = np.random.default_rng(0), world.description.stored
    steps: list[Step] = []
    episodes: list[Episode] = []
    edges = [0, *(np.flatnonzero(ends[:-1]) + 1), len(ends)]
    for start, stop in itertools.pairwise(edges):
        rows = draw.integers(0, 2 if dtype == jnp.bool_ else 200, (stop - start + 1, *shape)).astype(dtype)
        whole = rows if world.stack is None else stacked(rows, world.stack)
        action = np.stack([world.action(step) for step in range(start, stop)])
        reward = draw.integers(-8, 8, stop - start).astype(np.float32)
        end = End.TERMINATED if ends[stop - 1] == TERMINATED else End.TRUNCATED
        group = 0 if groups is None else int(groups[start])
        episodes.append(Episode(rows, action, reward, end, group))
        for at in range(stop - start):
            last = start + at == stop - 1
            died, cut = (np.bool_(last and ends[stop - 1] == kind) for kind in (TERMINATED, TRUNCATED))
            steps.append(Step(whole[at], action[at], reward[at], died, cut, whole[at + 1]))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *steps), episodes


def stacked(frames: np.ndarray, depth: int) -> np.ndarray:
    """Whole stacks [T, ..., depth] of the frames [T, ...] of an episode, black before it."""
    padded = np.concatenate([np.zeros((depth - 1, *frames.shape[1:]), frames.dtype), frames])
    return np.stack([np.moveaxis(padded[at : at + depth], 0, -1) for at in range(len(frames))])


def written(folder: Path, world: World, episodes: list[Episode]) -> Store:
    with StoreWriter(folder, world.description) as writer:
        for number, episode in enumerate(episodes):
            writer.add(episode, f"episode {number}")
        return writer.finish()


def feed_of(store: Store, n_step: int = 1, size: int = 512, part=None, rewards=AS_STORED) -> StoreFeed:
    part = chosen_part(store, 1.0, "first") if part is None else part
    return StoreFeed(store, part, size, n_step, GAMMA, End.TRUNCATED, rewards)


def one(raw: Raw) -> Raw:
    """The first batch of the first seed."""
    return jax.tree.map(lambda x: x[0, 0], raw)


def transitions(world: World, batch: Batch) -> dict[int, tuple]:
    """The transitions of a batch by the step that they begin with."""
    found: dict[int, tuple] = {}
    leaves = [np.asarray(leaf) for leaf in batch.transition]
    for row in zip(*leaves, strict=True):
        found[world.step_of(row[1])] = row
    return found


@functools.cache
def drawn_online(kind: str, n_step: int):
    """Steps [T, ...] -> batches of the replay of a run that has room for all of them and for every final frame."""
    chosen = FrameStacks if WORLDS[kind].stack else Transitions
    more = {"truncations": STEPS} if WORLDS[kind].stack else {}
    replay = compiled(chosen(STEPS, STEPS, n_step, **more).build(step_like(WORLDS[kind].spec), GAMMA, 1))

    def drawn(steps: Step) -> Batch:
        def add(data, step):
            return replay.add(data, step[0], jax.tree.map(lambda x: x[None], step[1])), None

        data, _ = jax.lax.scan(add, replay.init(), (jnp.arange(STEPS), steps))
        return jax.lax.map(lambda key: replay.sample(data, jnp.int32(STEPS), key), jax.random.split(KEY, 6))

    return jax.jit(drawn)


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """Hundreds of small stores need not outlive a crash of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda number: None)
        yield


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("kind", WORLDS)
@settings(max_examples=12)
@given(ends=arrays(np.int8, STEPS, elements=st.sampled_from([GOES_ON] * 5 + [TERMINATED, TRUNCATED])))
def test_a_feed_gives_what_the_replay_of_a_run_gives_for_the_same_steps(tmp_path_factory, kind, n_step, ends):
    steps, episodes = played(WORLDS[kind], ends)
    batches = drawn_online(kind, n_step)(steps)
    assert batches.weights.all()
    theirs = transitions(WORLDS[kind], jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches))
    assert len(theirs) > STEPS / 2
    feed = feed_of(written(tmp_path_factory.mktemp("data") / "store", WORLDS[kind], episodes), n_step)
    batch = feed.decode(one(feed.batches([0], 1, 1)))
    ours = transitions(WORLDS[kind], batch)
    assert (batch.weights == 1).all() and batch.weights.shape == (512,)
    assert ours.keys() == set(range(STEPS))  # a run waits for the steps that follow, and of data there are none to come
    for step, (*wanted, next_obs) in theirs.items():
        for leaf, other in zip(ours[step], wanted, strict=False):
            np.testing.assert_array_equal(leaf, other)
            assert leaf.dtype == other.dtype
        if wanted[3] or WORLDS[kind].stack is None:  # a run keeps no frame of after the world ended
            np.testing.assert_array_equal(ours[step][4], next_obs)


# Draws


def test_a_draw_depends_on_the_seed_and_the_number_of_the_update_and_on_nothing_else(tmp_path):
    store = written(tmp_path / "store", WORLDS["packed booleans"], played(WORLDS["packed booleans"], np.zeros(900))[1])
    feed = feed_of(store, n_step=3, size=6)
    whole = feed.batches([3, 0, 4], 1, 20)
    for first, count in ((1, 1), (1, 7), (8, 13), (20, 1)):
        for place, seed in enumerate([3, 0, 4]):
            part, at = feed.batches([seed], first, count), slice(first - 1, first - 1 + count)
            for leaf, all_of_it in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
                np.testing.assert_array_equal(leaf[0], all_of_it[place, at])
    again = feed_of(Store(tmp_path / "store"), n_step=3, size=6)
    jax.tree.map(np.testing.assert_array_equal, again.batches([3, 0, 4], 1, 20), whole)
    batches = whole.action.reshape(60, 6)
    assert len(np.unique(batches, axis=0)) == 60  # seeds and updates draw different batches
    assert feed.batches([2**31 - 1], 2**40, 2).action.shape == (1, 2, 6)  # as far as a run can ask


@pytest.mark.parametrize("size", [1, 5, 32])
def test_every_step_is_drawn_equally_often(tmp_path, size):
    world = WORLDS["three booleans"]
    store = written(tmp_path / "store", world, played(world, np.arange(37) % 5 == 4)[1])
    drawn = feed_of(store, size=size).batches([0, 1], 1, 20_000 // size).action
    assert_equally_often(drawn, cells=37)


def grouped(folder: Path) -> tuple[World, Store]:
    """Three groups of 20, 10 and 7 steps, in episodes of 5 or fewer. A step's action is its number."""
    groups = np.repeat([0, 1, 2], [20, 10, 7])
    ends = np.where(np.arange(37) % 5 == 4, TERMINATED, GOES_ON)
    world = WORLDS["three booleans"]
    return world, written(folder, world, played(world, ends, groups)[1])


@pytest.mark.parametrize(
    ("fraction", "wanted"),
    [
        (0.1, [0, 1, 20, 30]),
        (0.55, [*range(11), *range(20, 26), *range(30, 34)]),
        (1.0, range(37)),
    ],
)
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_first_part_of_each_group_is_drawn_and_no_reward_behind_it(tmp_path, fraction, wanted, n_step):
    world, store = grouped(tmp_path / "store")
    part = chosen_part(store, fraction, "first")
    assert part.steps == len(wanted)
    feed = feed_of(store, n_step, part=part)
    raw = feed.batches([0], 1, 40)
    assert_equally_often(raw.action, cells=len(wanted))
    assert set(np.unique(raw.action)) == set(wanted)
    found = transitions(world, feed.decode(one(raw)))
    ends, rewards = np.arange(37) % 5 == 4, np.asarray(store.rewards)
    for step, (_, _, reward, discount, next_obs) in found.items():
        last = step
        while last < step + n_step - 1 and not ends[last] and last + 1 in wanted:
            last += 1
        assert reward == (GAMMA ** np.arange(last + 1 - step) * rewards[step : last + 1]).sum()
        assert discount == (0 if ends[last] else GAMMA ** (last + 1 - step))
        np.testing.assert_array_equal(next_obs, store.observations[last + 1 + last // 5])


def test_a_share_of_a_group_is_rounded_to_whole_steps(tmp_path):
    world = WORLDS["three booleans"]
    store = written(tmp_path / "store", world, played(world, np.arange(100) % 10 == 9)[1])
    for percent in range(1, 100):
        assert chosen_part(store, percent / 100, "first").steps == percent
    assert chosen_part(store, 1e-9, "first").steps == 1  # something is left of every group


def test_a_group_may_have_any_number(tmp_path):
    world = WORLDS["three booleans"]
    groups = np.repeat([-1, 7], [20, 20])
    store = written(tmp_path / "store", world, played(world, np.arange(40) % 10 == 9, groups)[1])
    assert chosen_part(store, 0.5, "first").first.tolist() == [0, 20]


def test_random_episodes_are_drawn_whole_and_are_the_same_for_all_seeds(tmp_path):
    world, store = grouped(tmp_path / "store")
    taken: set[int] = set()
    for fraction in (0.01, 0.3, 0.5, 0.99):
        part = chosen_part(store, fraction, "episodes")
        assert fraction * 37 <= part.steps < fraction * 37 + 5
        feed = feed_of(store, n_step=3, part=part)
        drawn = feed.batches([0, 1, 2], 1, 20).action
        episodes = set(np.unique(drawn) // 5)
        assert taken <= episodes  # a larger share has all of a smaller one
        assert_equally_often(drawn, cells=sum(int(store.episodes["length"][number]) for number in episodes))
        for step, row in transitions(world, feed.decode(one(feed.batches([0], 1, 1)))).items():
            inside = min(5 - step % 5, 37 - step)
            assert row[3] == (GAMMA ** min(3, inside) if step >= 35 or inside > 3 else 0)
        taken = episodes


# Rewards


def test_rewards_are_changed_then_clipped_then_summed(tmp_path):
    world, store = grouped(tmp_path / "store")
    feed = feed_of(store, n_step=3, rewards=Rewards(shift=-1.0, scale=0.5))
    raw = one(feed.batches([0], 1, 1))
    rewards = (np.asarray(store.rewards) - 1) / 2
    for bound in (None, 1.5):
        found = transitions(world, feed.decode(raw, bound))
        assert found.keys() == set(range(37))
        for step, row in found.items():
            each = rewards[step : min(step + 3, step - step % 5 + 5, 37)]
            each = each if bound is None else each.clip(-bound, bound)
            assert row[2] == (each * GAMMA ** np.arange(len(each))).sum()
    first = store.episodes["first"]
    wanted = [
        (rewards[start : start + length] * GAMMA ** np.arange(length)).sum()
        for start, length in zip(first, store.episodes["length"], strict=True)
    ]
    np.testing.assert_allclose(feed.discounted_returns(), wanted)


def test_a_range_of_returns_scales_the_rewards_by_the_spread_of_the_datas_returns(tmp_path):
    world, store = grouped(tmp_path / "store")
    settings = DataSet(str(store.path), batch_size=512, reward_shift=-1.0, return_range=10.0, unknown_ends="truncated")
    feed = settings.build(step_like(world.spec), GAMMA, 1)
    feed.open(world.spec)
    found = transitions(world, feed.decode(one(feed.batches([0], 1, 1))))
    scale = 10 / (store.returns.max() - store.returns.min())
    rewards = (np.asarray(store.rewards) - 1) * np.float32(scale)
    np.testing.assert_allclose([found[step][2] for step in range(37)], rewards, rtol=1e-6)


def test_the_first_observations_of_episodes_are_as_an_agent_sees_them(tmp_path):
    ends = np.arange(30) % 7 == 6
    for kind, world in WORLDS.items():
        steps, episodes = played(world, ends)
        begins = np.concatenate(list(begins_of(written(tmp_path / kind, world, episodes))))
        np.testing.assert_array_equal(begins, steps.obs[::7])
        assert begins.dtype == steps.obs.dtype


# Memory


def peak_of_reading(path: Path) -> int:
    """The most bytes that Python holds while a store is opened and read from."""
    tracemalloc.start()
    try:
        feed = feed_of(Store(path), n_step=3, size=64)
        for first in range(1, 201, 50):
            feed.batches([0, 1], first, 50)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_data(tmp_path):
    shape = (64,)
    wide, zeros = world(shape, jnp.float32), np.zeros(1_000)
    episode = Episode(
        np.zeros((1_001, *shape), np.float32), zeros.astype(np.int32), zeros.astype(np.float32), End.TRUNCATED
    )
    small, large = (written(tmp_path / str(count), wide, [episode] * count).path for count in (4, 40))
    peak_of_reading(small)  # whatever is only made once
    peaks = [peak_of_reading(path) for path in (small, large)]
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < (large / "observations.npy").stat().st_size
