"""The tree of sums: its levels are plain sums after any writes, and places are drawn in proportion to their numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sharedq.samplers import block_sums

KEY = jax.random.key(1)
WIDTH = block_sums.WIDTH
FINEST = 2.0**-23  # the samplers' random numbers are its multiples
SIZES = (1, WIDTH, WIDTH + 1, 250, WIDTH**2 + 1, 5_000)
BATCH = 64

build, write = jax.jit(block_sums.build), jax.jit(block_sums.write)


@functools.partial(jax.jit, static_argnames="batch")
def draws(levels, keys, batch: int = BATCH):
    """A batch of places with each key."""
    shape = len(levels), batch
    return jax.vmap(lambda key: block_sums.draw(levels, jax.random.uniform(key, shape)))(keys)


def drawn(numbers: np.ndarray, batches: int, batch: int = BATCH) -> np.ndarray:
    levels = build(jnp.array(numbers, jnp.float32))
    return np.asarray(draws(levels, jax.random.split(KEY, batches), batch=batch))


def fits(places: np.ndarray, numbers: np.ndarray) -> float:
    """The probability that independent draws fit the shares worse. Stratified draws fit better than independent ones.

    Places that are expected less than five times are counted together.
    """
    count = np.bincount(places.ravel(), minlength=len(numbers)).astype(float)
    expected = places.size * numbers.astype(np.float64) / numbers.astype(np.float64).sum()
    rare = expected < 5
    if rare.any():
        count, expected = (np.append(x[~rare], x[rare].sum()) for x in (count, expected))
    return scipy.stats.chi2.sf(((count - expected) ** 2 / np.maximum(expected, 1e-9)).sum(), max(len(count) - 1, 1))


def plain_sums(numbers: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """What every level should hold, in 64 bits and without the levels between."""
    found = []
    for level, (blocks, width) in enumerate(shapes):
        below = WIDTH**level
        padded = np.zeros(blocks * width * below)
        padded[: len(numbers)] = numbers
        found.append(padded.reshape(blocks, width, below).sum(axis=2))
    return found


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("size", SIZES)
def test_every_place_is_drawn_as_often_as_its_share(size):
    rng = np.random.default_rng(size)
    numbers = (rng.gamma(0.5, size=size) * (rng.random(size) < 0.7)).astype(np.float32)
    numbers[rng.integers(size)] = 3
    places = drawn(numbers, 10_000)
    assert numbers[places].all()
    assert fits(places, numbers) > 0.01
    assert size == 1 or fits(places, numbers**1.1) < 1e-6  # so the test would see shares that are a little different


@pytest.mark.parametrize("size", [WIDTH, 5_000])
def test_the_draws_of_a_batch_are_spread_over_the_shares(size):
    """The numbers of the highest level are drawn as often as their share says, give or take less than two."""
    numbers = np.random.default_rng(1).random(size)
    levels = build(jnp.array(numbers, jnp.float32))
    highest = np.asarray(levels[-1][0], np.float64)
    each = WIDTH ** (len(levels) - 1)
    for places in drawn(numbers, 50, batch=256):
        counts = np.bincount(places // each, minlength=WIDTH)
        assert (np.diff(places // each) >= 0).all()
        assert (np.abs(counts - 256 * highest / highest.sum()) < 2).all()


NUMBERS = (0.0, 1e-30, 1e-12, 1e-6, 1.0, 3.0, 1e6, 1e30)


@settings(max_examples=40)
@given(st.sampled_from(SIZES), st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4), st.integers(0, 2**31))
@example(5_000, [0.0], 0)
@example(5_000, [0.0, 1e-30], 1)
@example(WIDTH + 1, [1e30, 1e-30, 0.0], 2)
def test_a_zero_is_never_drawn_whatever_stands_beside_it(size, kinds, seed):
    """The numbers lie 60 orders of magnitude apart, and single ones are not zero among thousands that are."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(kinds, size).astype(np.float32)
    numbers[rng.integers(size)] = rng.choice(NUMBERS[1:])
    levels = build(jnp.array(numbers))
    places = np.asarray(draws(levels, jax.random.split(jax.random.key(seed), 4)))
    assert (places >= 0).all()
    assert (places < size).all()
    assert numbers[places].all()
    np.testing.assert_allclose(block_sums.total(levels), numbers.astype(np.float64).sum(), rtol=1e-5)
    same(block_sums.numbers(levels, size), numbers)


@pytest.mark.parametrize("random", [0.0, 1 - FINEST])
@pytest.mark.parametrize("size", [1, 3, 40, 5_000])
def test_the_ends_of_the_random_numbers_lead_to_numbers_too(size, random):
    """(31 + 1 - 2^-23) / 32 is rounded to 1, which is beyond the last number."""
    numbers = np.zeros(size, np.float32)
    numbers[[size // 3, size // 2]] = 0.1, 0.7
    levels = build(jnp.array(numbers))
    places = np.asarray(block_sums.draw(levels, jnp.full((len(levels), 32), random, jnp.float32)))
    assert numbers[places].all()
    assert places[0 if random == 0 else -1] == (size // 3 if random == 0 else size // 2)


def test_after_a_million_writes_every_level_is_the_sum_of_the_numbers_and_nothing_is_left_of_the_past():
    size, calls, each = 70_000, 1_000, 1_000

    def written(place, call):  # a hash, so that a place that is written twice in a call gets one number
        mixed = (place * 7919 + call * 104_729) % 65_536
        return jnp.where(mixed % 5 == 0, 0, mixed * 2.0**-10)

    def once(levels, given):
        places, call = given
        return block_sums.write(levels, places, written(places, call)), None

    places = np.random.default_rng(2).integers(0, size, (calls, each)).astype(np.int32)
    scan = jax.jit(lambda levels: jax.lax.scan(once, levels, (places, jnp.arange(calls)))[0])
    levels = scan(block_sums.zeros(size))
    last = np.full(size, -1)
    for call in range(calls):
        last[places[call]] = call
    numbers = np.where(last >= 0, written(np.arange(size), last), 0)
    same(block_sums.numbers(levels, size), numbers)
    for level, plain in zip(levels, plain_sums(numbers, [x.shape for x in levels]), strict=True):
        np.testing.assert_allclose(level, plain, rtol=2e-6)
    same(scan(levels), levels)  # the same numbers at the end, with another past
    same(block_sums.read(levels, places[0]), numbers[places[0]])


@pytest.mark.parametrize("size", [1, 40, 5_000])
def test_a_write_changes_its_places_and_their_sums_only_and_nothing_beyond_the_end(size):
    before = build(jnp.array(np.random.default_rng(3).random(size), jnp.float32))
    end = before[0].size
    nowhere = jnp.array([end, end + 1, 10 * end, jnp.iinfo(jnp.int32).max], jnp.int32)
    same(write(before, nowhere, jnp.full(4, 7.0)), before)
    beside = write(before, jnp.array([size - 1, *nowhere[1:]]), jnp.full(4, 7.0))
    same(beside, write(before, jnp.full(4, size - 1), jnp.full(4, 7.0)))
    for level, plain in enumerate(plain_sums(np.asarray(block_sums.numbers(beside, size)), [x.shape for x in beside])):
        np.testing.assert_allclose(beside[level], plain, rtol=2e-6)
        changed = np.flatnonzero((beside[level] != before[level]).reshape(-1))
        assert changed.tolist() == [(size - 1) // WIDTH**level]


def test_writes_in_a_donated_scan_need_no_second_tree():
    levels = jax.eval_shape(lambda: block_sums.zeros(200_000))
    places, numbers = jax.ShapeDtypeStruct((9, 32), jnp.int32), jax.ShapeDtypeStruct((9, 32), jnp.float32)

    def once(levels, given):
        return block_sums.write(levels, *given), None

    scan = jax.jit(lambda *x: jax.lax.scan(once, x[0], x[1:])[0], donate_argnums=0)
    scratch = scan.lower(levels, places, numbers).compile().memory_analysis().temp_size_in_bytes
    assert scratch < 200_000 * 4 / 4


def test_a_millionth_of_the_largest_number_is_drawn_from_a_million():
    """A running sum in 32 bits would lose the numbers behind the largest one."""
    size = 1_000_000
    numbers = np.full(size, 1e-6, np.float32)
    numbers[123_456] = 1
    places = drawn(numbers, 300)
    small = places[places != 123_456]
    assert abs(len(small) / places.size - 0.5) < 0.01
    assert fits(small // 10_000, np.ones(100)) > 0.01
    assert small.max() > 990_000
    assert len(np.unique(small)) > 0.98 * len(small)


@pytest.mark.parametrize("place", [0, 7, 15])
@pytest.mark.parametrize("level", [0, 1])
def test_a_millionth_of_the_largest_number_beside_it_has_its_share_of_the_random_numbers(place, level):
    """It lies in the block of the largest number, or has a block of its own. It has 8 of the 2^23 random numbers."""
    numbers = np.zeros(WIDTH ** (level + 1), np.float32)
    numbers[place * WIDTH**level], numbers[8 * WIDTH**level] = 1e-6, 1
    levels = build(jnp.array(numbers))
    nearest = np.arange(20) if place < 8 else 2**23 - 1 - np.arange(20)  # the random numbers at its end of the block
    random = jnp.zeros((20, level + 1, 1)).at[:, 0, 0].set(nearest * FINEST)
    places = jax.vmap(lambda one: block_sums.draw(levels, one))(random)[:, 0]
    assert set(places.tolist()) == {place * WIDTH**level, 8 * WIDTH**level}
    assert 8 <= (places == place * WIDTH**level).sum() <= 9
