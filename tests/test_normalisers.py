"""Running statistics: numpy's on the whole data, whatever the pieces, and rewards scaled by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq import normalisers
from sharedq.normalisers import no_moments, no_returns, normalised, sample_variance, scaled, scaled_within

with_more = jax.jit(normalisers.with_more)
with_rewards = jax.jit(normalisers.with_rewards, static_argnums=3)

DATA = np.random.default_rng(0).normal([3.0, -200.0], [0.1, 30.0], (60, 2)).astype(np.float32)


@pytest.mark.parametrize("cuts", [[], [1], [20, 40], range(1, 60)])
def test_moments_are_numpys_whatever_the_pieces(cuts):
    moments = no_moments((2,))
    for piece in np.split(DATA, cuts):
        moments = with_more(moments, jnp.asarray(piece))
    assert moments.count == len(DATA)
    np.testing.assert_allclose(moments.mean, DATA.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, DATA.var(0), rtol=2e-4)
    np.testing.assert_allclose(sample_variance(moments), DATA.var(0, ddof=1), rtol=2e-4)


def test_leading_axes_are_all_seen_and_none_is_one_observation():
    whole = with_more(no_moments((2,)), jnp.asarray(DATA))
    jax.tree.map(np.testing.assert_allclose, with_more(no_moments((2,)), jnp.asarray(DATA.reshape(3, 20, 2))), whole)
    one = with_more(no_moments((2,)), jnp.asarray(DATA[0]))
    assert one.count == 1
    np.testing.assert_array_equal(one.mean, DATA[0])


def test_after_ten_million_observations_small_changes_still_count():
    """A pixel about 200, whose mean and variance move by less than a rounding with each: against float64."""
    count, size = 10_000_000, 100_000
    draws = 201 + 0.3 * np.random.default_rng(0).normal(size=size).astype(np.float32)
    start = no_moments()._replace(count=jnp.float32(count), mean=jnp.float32(200), variance=jnp.float32(4))
    moments, _ = jax.jit(partial(jax.lax.scan, lambda moments, x: (with_more(moments, x), None)))(start, draws)
    share, exact = size / (count + size), draws.astype(np.float64)
    mean = 200 + share * (exact.mean() - 200)
    variance = 4 + share * (exact.var() - 4 + (1 - share) * (exact.mean() - 200) ** 2)
    assert moments.count == count + size
    assert moments.mean == pytest.approx(mean, rel=1e-7)  # 200.01
    assert moments.variance == pytest.approx(variance, rel=1e-6)  # 3.97


def test_the_first_observation_has_variance_one_and_a_constant_is_zero():
    moments = with_more(no_moments((2,)), jnp.array([4.0, 0.0]))
    np.testing.assert_array_equal(sample_variance(moments), [1, 1])
    for _ in range(5):
        moments = with_more(moments, jnp.array([4.0, 0.0]))
    of_the_same = normalised(jnp.array([4.0, 0.0]), moments.mean, sample_variance(moments))
    np.testing.assert_array_equal(of_the_same, [0, 0])


def test_what_is_not_counted_changes_nothing():
    moments = with_more(no_moments((2,)), jnp.asarray(DATA))
    jax.tree.map(np.testing.assert_array_equal, with_more(moments, jnp.asarray(DATA[0]), jnp.bool_(False)), moments)


def test_a_start_counts_what_it_is_told():
    moments = with_more(no_moments((), count=1.0), jnp.array([2.0]))
    assert (moments.count, moments.mean, moments.variance) == (2, 1, 1.5)  # of 0 +- 1 and of 2


def test_booleans_and_bytes_are_numbers():
    moments = with_more(no_moments((1,)), jnp.array([[True], [False]]))
    assert (moments.mean, moments.variance) == (0.5, 0.25)
    assert with_more(no_moments((1,)), jnp.array([[200], [100]], jnp.uint8)).mean == 150


def test_normalised_by_hand():
    np.testing.assert_allclose(normalised(jnp.array([7.0]), jnp.array([1.0]), jnp.array([4.0])), [3.0], rtol=1e-6)


def test_returns_run_by_hand_and_stop_at_the_end_of_an_episode():
    returns, seen = no_returns(2), []
    rewards, ended = [[1.0, 0.0], [2.0, -8.0], [4.0, 1.0]], [[False, False], [True, False], [False, False]]
    for reward, end in zip(rewards, ended, strict=True):
        returns = with_rewards(returns, jnp.array(reward), jnp.array(end), 0.5)
        seen.append(returns.running)
    np.testing.assert_array_equal(seen, [[1, 0], [2, -8], [5, -3]])
    assert returns.largest == 8
    assert returns.moments.variance == pytest.approx(np.var(seen), rel=1e-6)
    reward = jnp.array([3.0])
    np.testing.assert_allclose(scaled(reward, returns), 3 / np.std(seen, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(scaled_within(reward, returns, bound=5.0), 3 / np.std(seen), rtol=1e-6)
    np.testing.assert_allclose(scaled_within(reward, returns, bound=1.0), 3 / 8, rtol=1e-6)


def test_the_first_reward_is_not_scaled():
    returns = with_rewards(no_returns(1), jnp.array([3.0]), jnp.array([False]), 0.99)
    np.testing.assert_allclose(scaled(jnp.array([3.0]), returns), [3.0], rtol=1e-6)
