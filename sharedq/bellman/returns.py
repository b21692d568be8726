"""Sums of rewards over several steps, which stop at the end of an episode."""

import jax
import jax.numpy as jnp

from sharedq.bellman.shapes import check_equal


def discount(terminated: jax.Array, gamma: float, steps: jax.Array | int = 1) -> jax.Array:
    """The discount of the value after so many steps. It is 0 if the episode terminated, and only then."""
    return jnp.where(terminated, 0, gamma**steps)


def n_step(
    reward: jax.Array, terminated: jax.Array, truncated: jax.Array, gamma: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The n-step return that stops at the first end of an episode.

    The arguments are n consecutive steps on the last axis, [..., n]. The function returns three arrays: the discounted
    sum of the m rewards up to and with the first end, the discount of the value that follows (gamma^m; 0 if the episode
    terminated, and only then), and the index m-1 of the last step used, on whose successor the return bootstraps.
    """
    check_equal("terminated", terminated.shape, "reward", reward.shape)
    check_equal("truncated", truncated.shape, "reward", reward.shape)
    ended = terminated | truncated
    n = reward.shape[-1]
    before = jnp.concatenate([jnp.zeros_like(ended[..., :1]), ended[..., :-1]], axis=-1)
    alive = jnp.cumsum(before, axis=-1) == 0  # no end strictly before this step
    powers = gamma ** jnp.arange(n, dtype=reward.dtype)
    total = jnp.sum(jnp.where(alive, reward * powers, 0), axis=-1)
    last = alive.sum(axis=-1) - 1
    died = jnp.any(alive & terminated, axis=-1)
    return total, discount(died, gamma, (last + 1).astype(reward.dtype)), last
