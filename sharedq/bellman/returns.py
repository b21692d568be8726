"""Rewards summed over several steps, with the end of an episode in the right place."""

import jax
import jax.numpy as jnp


def discount(terminated: jax.Array, gamma: float, steps: jax.Array | int = 1) -> jax.Array:
    """What the value of the state after so many steps counts: nothing if the world ended, and only then."""
    return jnp.where(terminated, 0, gamma**steps)


def n_step(
    reward: jax.Array, terminated: jax.Array, truncated: jax.Array, gamma: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The n-step return that stops at the first end of an episode.

    Takes n consecutive steps on the last axis, [..., n]. Returns the discounted sum of rewards up to and with the
    first end, the discount of what follows (gamma^m after m steps; 0 if the world ended, and only then), and the
    index m-1 of the last step used, whose successor is bootstrapped on.
    """
    ended = terminated | truncated
    n = reward.shape[-1]
    before = jnp.concatenate([jnp.zeros_like(ended[..., :1]), ended[..., :-1]], axis=-1)
    alive = jnp.cumsum(before, axis=-1) == 0  # no end strictly before this step
    powers = gamma ** jnp.arange(n, dtype=reward.dtype)
    total = jnp.sum(jnp.where(alive, reward * powers, 0), axis=-1)
    last = alive.sum(axis=-1) - 1
    died = jnp.any(alive & terminated, axis=-1)
    return total, discount(died, gamma, (last + 1).astype(reward.dtype)), last
