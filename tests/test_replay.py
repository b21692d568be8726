"""The ring and uniform replay: written in place, packed without loss, and drawn from only where something is stored."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sharedq.replay import Storage, Transitions, ring_storage, uniform_replay
from sharedq.transitions import Step

KEY = jax.random.key(3)
CAPACITY, ENVIRONMENTS = 24, 2
ROWS = CAPACITY // ENVIRONMENTS
STEP = Step(
    *(jax.ShapeDtypeStruct((), d) for d in (jnp.int32, jnp.int32, jnp.float32, jnp.bool_, jnp.bool_, jnp.int32))
)


def at_time(time: int, ends=lambda when, environment: (False, False)) -> Step:
    """A step of every environment that carries when and where it was made: obs is 100 * time + environment."""
    where = np.arange(ENVIRONMENTS)
    obs = jnp.array(100 * time + where, jnp.int32)
    terminated, truncated = (jnp.array([ends(time, w)[i] for w in where]) for i in (0, 1))
    return Step(obs, obs + 1, obs + 0.5, terminated, truncated, obs + 100)


class Compiled(NamedTuple):
    """The functions of a replay. `sample(data, written, key)` gives a batch."""

    init: Callable
    add: Callable
    sample: Callable


def compiled(storage: Storage) -> Compiled:
    """The replay that draws uniformly from a storage."""
    replay = uniform_replay(storage)

    def sample(data, written, key):
        return replay.sample(data, written, None, 1, key)[1]

    return Compiled(replay.init, jax.jit(replay.add), jax.jit(sample))


def filled(replay: Compiled, written: int, **keywords):
    data = replay.init()
    for time in range(written):
        data = replay.add(data, jnp.int32(time), at_time(time, **keywords))
    return data


# The ring


def test_a_donated_ring_is_written_in_place():
    item = {"big": jax.ShapeDtypeStruct((1000,), jnp.float32), "bits": jax.ShapeDtypeStruct((80,), jnp.bool_)}
    ring = ring_storage.init(item, 50)
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(ring)]
    write = jax.jit(ring_storage.write, donate_argnums=0)
    items = {"big": jnp.ones((2, 1000)), "bits": jnp.ones((2, 80), bool)}
    old = ring
    for start in (0, 2, 48):
        ring = write(ring, jnp.int32(start), items)
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(ring)] == places
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert np.flatnonzero(ring["big"].any(axis=1)).tolist() == [0, 1, 2, 3, 48, 49]


def test_replay_adds_in_place():
    replay = uniform_replay(Transitions(CAPACITY, 4).build(STEP, 0.9, ENVIRONMENTS))
    data = replay.init()
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(data)]
    data = jax.jit(replay.add, donate_argnums=0)(data, jnp.int32(0), at_time(0))
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(data)] == places


@settings(max_examples=30)
@given(arrays(np.bool_, st.lists(st.integers(1, 5), min_size=1, max_size=4)))
def test_what_is_packed_into_bits_comes_back(items):
    like = jax.ShapeDtypeStruct(items.shape[1:], jnp.bool_)
    ring = ring_storage.write(ring_storage.init(like, 7), 2, jnp.array(items))
    entries = int(np.prod(like.shape))
    packed = entries >= ring_storage.PACKED_FROM
    assert ring.nbytes == 7 * (-(-entries // 8) if packed else entries)
    back = ring_storage.read(ring, 2 + jnp.arange(len(items)), like)
    assert back.dtype == jnp.bool_
    np.testing.assert_array_equal(back, items)
    pairs = ring_storage.read(ring, jnp.array([[2, 0], [0, 2]]), like)  # places of any shape
    np.testing.assert_array_equal(pairs[0, 0], items[0])
    np.testing.assert_array_equal(pairs[0, 1], np.zeros(like.shape, bool))


# Sampling


@pytest.mark.parametrize("written", [1, 5, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
def test_only_what_is_stored_is_drawn_and_all_of_it(written):
    replay = compiled(Transitions(CAPACITY, batch_size=CAPACITY).build(STEP, 0.9, ENVIRONMENTS))
    data, drawn = filled(replay, written), set()
    for draw in range(20):
        batch = replay.sample(data, jnp.int32(written), jax.random.fold_in(KEY, draw))
        seen = batch.transition
        drawn |= set(seen.obs.tolist())
        np.testing.assert_array_equal(seen.action, seen.obs + 1)
        np.testing.assert_array_equal(seen.reward, seen.obs + 0.5)
        np.testing.assert_array_equal(seen.next_obs, seen.obs + 100)
        np.testing.assert_array_equal(seen.discount, np.full(CAPACITY, np.float32(0.9)))
        np.testing.assert_array_equal(batch.weights, np.ones(CAPACITY))
    stored = range(max(0, written - ROWS), written)
    assert drawn == {100 * time + w for time in stored for w in range(ENVIRONMENTS)}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("written", [3, ROWS, ROWS + 1, 2 * ROWS - 1, 4 * ROWS + 7])
def test_n_steps_never_cross_the_seam_of_the_ring(written, n):
    replay = compiled(Transitions(CAPACITY, batch_size=CAPACITY, n_step=n).build(STEP, 1.0, ENVIRONMENTS))
    data, first = filled(replay, written), set()
    for draw in range(20):
        seen = replay.sample(data, jnp.int32(written), jax.random.fold_in(KEY, draw)).transition
        np.testing.assert_array_equal(seen.next_obs, seen.obs + 100 * n)  # n steps later in the same environment
        np.testing.assert_array_equal(seen.reward, n * (seen.obs + 0.5) + 100 * n * (n - 1) / 2)
        first |= set(seen.obs.tolist())
    begun = range(max(0, written - ROWS), written - n + 1)
    assert first == {100 * time + w for time in begun for w in range(ENVIRONMENTS)}


def test_n_steps_end_where_the_episode_ends():
    """Environment 0 terminates at times 3, 8, 13, ...; environment 1 is truncated there."""
    gamma, n, written = 0.5, 3, 2 * ROWS + 3

    def ends(when, environment):
        ended = when % 5 == 3
        return ended and environment == 0, ended and environment == 1

    replay = compiled(Transitions(CAPACITY, batch_size=CAPACITY, n_step=n).build(STEP, gamma, ENVIRONMENTS))
    data, keys = filled(replay, written, ends=ends), jax.random.split(KEY, 20)
    seen = jax.jit(jax.vmap(lambda key: replay.sample(data, jnp.int32(written), key).transition))(keys)
    columns = (np.asarray(x).ravel() for x in (seen.obs, seen.reward, seen.discount, seen.next_obs))
    cases = set()
    for obs, reward, discount, next_obs in zip(*columns):
        time, environment = divmod(int(obs), 100)
        used = min(n, 1 + (3 - time) % 5)  # steps up to and with the end
        ended = (time + used - 1) % 5 == 3
        rewards = [gamma**i * (100 * (time + i) + environment + 0.5) for i in range(used)]
        np.testing.assert_allclose(reward, sum(rewards), rtol=1e-6)
        assert discount == (0 if ended and environment == 0 else gamma**used)
        assert next_obs == 100 * (time + used) + environment
        cases.add((environment, used, ended))
    assert len(cases) == 8  # 1, 2, 3 steps to an end and 3 steps without one, in both environments


def assert_equally_often(drawn: np.ndarray, cells: int):
    """Each of `cells` values was drawn, and none more often than chance allows."""
    _, times = np.unique(drawn, return_counts=True)
    assert len(times) == cells
    expected = drawn.size / cells
    chi_square = ((times - expected) ** 2 / expected).sum()
    assert chi_square < cells - 1 + 4 * np.sqrt(2 * (cells - 1))  # four standard deviations above its mean


@pytest.mark.parametrize(("n", "written"), [(1, 3 * ROWS + 5), (1, 7), (2, 2 * ROWS)])
def test_every_stored_step_is_drawn_equally_often(n, written):
    replay = compiled(Transitions(CAPACITY, batch_size=CAPACITY, n_step=n).build(STEP, 0.9, ENVIRONMENTS))
    data, keys = filled(replay, written), jax.random.split(KEY, 1000)
    obs = jax.jit(jax.vmap(lambda key: replay.sample(data, jnp.int32(written), key).transition.obs))(keys).ravel()
    assert_equally_often(obs, cells=ENVIRONMENTS * (min(written, ROWS) - n + 1))
