"""Sums of rewards over several steps, which stop at the end of an episode."""

import jax
import jax.numpy as jnp

from sharedq.bellman.shapes import check_aligned, check_equal


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


def lambda_returns(
    reward: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    next_value: jax.Array,
    gamma: float,
    trace_decay: float,
) -> jax.Array:
    """The lambda-returns [..., T, N] of T consecutive steps of N environments (Sutton, 1988; Peng & Williams, 1996).

        G_t = r_t + discount_t ( (1 - lambda) V(s'_t) + lambda G_(t+1) )        lambda is `trace_decay`

    The first three arguments are [T, N]. `next_value` [..., T, N] has the values of the true successors. At the end of
    an episode and at the last step there is no next return, and V(s') takes its place. So a termination has no
    bootstrap, and a time limit has one.
    """
    check_equal("terminated", terminated.shape, "reward", reward.shape)
    check_equal("truncated", truncated.shape, "reward", reward.shape)
    check_aligned("reward", reward.shape, "next_value", next_value.shape)
    follows = ~(terminated | truncated).at[-1].set(True)  # whether the next step belongs to the same episode
    share = jnp.where(follows, trace_decay, 0)

    def back(after: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
        reward, discount, share, value = step
        found = reward + discount * (value + share * (after - value))
        return found, found

    by_time = jnp.moveaxis(next_value, -2, 0)
    steps = (reward, discount(terminated, gamma), share, by_time)
    _, found = jax.lax.scan(back, jnp.zeros_like(by_time[0]), steps, reverse=True)
    return jnp.moveaxis(found, 0, -2)
