"""Running statistics: of observations, to bring them to mean 0 and deviation 1, and of returns, to scale rewards.

All of it is explicit state, so that it is saved and resumed with the agent. Shape letter: N environments.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-8  # under the root, so that what never changes is divided by 1e-4


class Moments(NamedTuple):
    """Mean and variance of all that was seen so far; the variance is the population's, divided by the count."""

    count: jax.Array  # a float, because a start may count less than one observation; above 2^24 one more is none
    mean: jax.Array
    variance: jax.Array
    lost: tuple[jax.Array, jax.Array]  # by rounding, from mean and variance: after millions, more than what is new


def no_moments(shape: tuple[int, ...] = (), count: float = 0.0) -> Moments:
    """Nothing seen; with a `count`, mean 0 and variance 1 as if so many observations had said so."""
    return Moments(jnp.float32(count), jnp.zeros(shape), jnp.ones(shape), (jnp.zeros(shape), jnp.zeros(shape)))


def with_more(moments: Moments, x: jax.Array, counted: jax.Array | bool = True) -> Moments:
    """The moments when the whole of x [..., *shape] is seen too (Chan, Golub & LeVeque, 1979; of one x: Welford's).

    Where it is not `counted` they stay as they are; those of nothing must count.
    """
    axes = tuple(range(x.ndim - moments.mean.ndim))
    x = x.astype(moments.mean.dtype)
    more = (x.size // max(moments.mean.size, 1)) * jnp.float32(counted)
    count = moments.count + more
    share = more / count
    apart = x.mean(axes) - moments.mean - moments.lost[0]
    grown = x.var(axes) - moments.variance + (1 - share) * apart**2
    mean, of_mean = _sum(moments.mean, share * apart + moments.lost[0])
    variance, of_variance = _sum(moments.variance, share * grown + moments.lost[1])
    return Moments(count, mean, variance, (of_mean, of_variance))


def _sum(total: jax.Array, more: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum, and what rounding lost of `more` (Kahan, 1965)."""
    rounded = total + more
    return rounded, more - (rounded - total)


def sample_variance(moments: Moments) -> jax.Array:
    """The unbiased estimate; 1 before there are two observations."""
    count = moments.count
    return jnp.where(count < 2, 1.0, moments.variance * count / jnp.maximum(count - 1, 1))


def normalised(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """Mean 0 and deviation 1, for the variance that the caller takes; not clipped."""
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON)


class Returns(NamedTuple):
    """The discounted rewards of the running episodes, and what they have been like so far."""

    running: jax.Array  # [N]
    moments: Moments
    largest: jax.Array  # the largest size that a running return had


def no_returns(environments: int, count: float = 0.0) -> Returns:
    return Returns(jnp.zeros(environments), no_moments((), count), jnp.float32(0))


def with_rewards(returns: Returns, reward: jax.Array, ended: jax.Array, gamma: float) -> Returns:
    """G <- gamma (1 - ended) G + r, all [N]. The step that ends an episode already counts its own reward alone."""
    running = gamma * jnp.where(ended, 0, returns.running) + reward
    largest = jnp.maximum(returns.largest, jnp.abs(running).max())
    return Returns(running, with_more(returns.moments, running), largest)


def scaled(reward: jax.Array, returns: Returns) -> jax.Array:
    """By the deviation of the running return, not centred (streaming: Elsayed et al., 2024)."""
    return reward * jax.lax.rsqrt(sample_variance(returns.moments) + EPSILON)


def scaled_within(reward: jax.Array, returns: Returns, bound: float) -> jax.Array:
    """As SimbaV2 (Lee et al., 2025): the more cautious of the deviation and of the largest return over `bound`."""
    deviation = jnp.sqrt(returns.moments.variance + EPSILON)
    return reward / jnp.maximum(deviation, returns.largest / bound)
