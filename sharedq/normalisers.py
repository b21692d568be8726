"""Running statistics of observations, which bring them to mean 0 and deviation 1, and of returns, which scale rewards.

The statistics are explicit state, so they are saved and resumed with the agent. Shape letter: N environments.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-8  # added under the root, so that a constant observation is divided by 1e-4


class Moments(NamedTuple):
    """Mean and variance of all observations so far. The variance is the population's, the sum divided by the count."""

    count: jax.Array  # a float: the start may count less than one observation; at 2^24 it stops growing by 1
    mean: jax.Array
    variance: jax.Array
    lost: tuple[jax.Array, jax.Array]  # what rounding lost: after millions, more than is new


def no_moments(shape: tuple[int, ...] = (), count: float = 0.0) -> Moments:
    """The moments before any observation: mean 0 and variance 1, which weigh as much as `count` observations."""
    return Moments(jnp.float32(count), jnp.zeros(shape), jnp.ones(shape), (jnp.zeros(shape), jnp.zeros(shape)))


def with_more(moments: Moments, x: jax.Array, counted: jax.Array | bool = True) -> Moments:
    """The moments with all of x [..., *shape] added (Chan, Golub & LeVeque, 1979; for a single x, Welford).

    If `counted` is false they stay as they are. It must be true for the first observation.
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
    """The sum, and the part of `more` that was lost by rounding (Kahan, 1965)."""
    rounded = total + more
    return rounded, more - (rounded - total)


def sample_variance(moments: Moments) -> jax.Array:
    """The unbiased estimate of the variance. It is 1 before there are two observations."""
    count = moments.count
    return jnp.where(count < 2, 1.0, moments.variance * count / jnp.maximum(count - 1, 1))


def normalised(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """x, shifted by the mean and divided by the root of the variance; not clipped."""
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON)


class Returns(NamedTuple):
    """The discounted returns of the current episodes, and their statistics so far."""

    running: jax.Array  # [N] discounted sum of the rewards of each environment's episode
    moments: Moments  # of the running returns
    largest: jax.Array  # the largest absolute value of a running return


def no_returns(environments: int, count: float = 0.0) -> Returns:
    return Returns(jnp.zeros(environments), no_moments((), count), jnp.float32(0))


def with_rewards(returns: Returns, reward: jax.Array, ended: jax.Array, gamma: float) -> Returns:
    """G <- gamma (1 - ended) G + r, all [N]. At the step that ends an episode, G is that step's reward alone."""
    running = gamma * jnp.where(ended, 0, returns.running) + reward
    largest = jnp.maximum(returns.largest, jnp.abs(running).max())
    return Returns(running, with_more(returns.moments, running), largest)


def scaled(reward: jax.Array, returns: Returns) -> jax.Array:
    """The reward divided by the deviation of the running return, not centred (as in Stream Q: Elsayed et al., 2024)."""
    return reward * jax.lax.rsqrt(sample_variance(returns.moments) + EPSILON)


def scaled_within(reward: jax.Array, returns: Returns, bound: float) -> jax.Array:
    """The reward divided by the larger of the deviation and largest return / `bound` (as SimbaV2: Lee et al., 2025)."""
    deviation = jnp.sqrt(returns.moments.variance + EPSILON)
    return reward / jnp.maximum(deviation, returns.largest / bound)
