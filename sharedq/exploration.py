"""Exploration: schedules, and greedy and epsilon-greedy actions."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp


def linear_schedule(start: float, end: float, steps: int, step: jax.Array) -> jax.Array:
    """A straight line from `start` at step 0 to `end` at step `steps`, and constant after it."""
    return start + (end - start) * jnp.clip(step / max(steps, 1), 0.0, 1.0)


def cosine_schedule(start: float, end: float, steps: int, step: jax.Array) -> jax.Array:
    """Half a cosine from `start` at step 0 to `end` at step `steps`, and constant after it."""
    return end + (start - end) * 0.5 * (1 + jnp.cos(linear_schedule(0.0, jnp.pi, steps, step)))


def still_exploring(training: Any, falls: int, end: float) -> Iterator[str]:
    """A remark if the share of random actions is still high at the end of a training in which the agent acts."""
    if getattr(training, "actors_explore", False):  # each of them with a share of its own
        return
    steps = training.steps
    if falls > 2 * steps and end < 0.5 and training.learns_from != "data":
        yield (
            f"most actions will be random: their share falls over {falls:,} steps, and there are {steps:,}; "
            "lower --algorithm.epsilon_steps"
        )


def greedy(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best actions [B] for values [B, A], and the values."""
    return values.argmax(axis=-1).astype(jnp.int32), values


def epsilon_greedy(key: jax.Array, values: Callable[[], jax.Array], epsilon: jax.Array | float) -> jax.Array:
    """Actions [B]: with probability epsilon any action, else the best one for `values()` [B, A].

    `values` is called only if at least one action depends on the values.
    """
    chance_key, action_key = jax.random.split(key)
    count, actions = jax.eval_shape(values).shape
    explores = jax.random.uniform(chance_key, (count,)) < epsilon
    any_action = jax.random.randint(action_key, (count,), 0, actions)

    def some_best() -> jax.Array:
        return jnp.where(explores, any_action, greedy(values())[0])

    return jax.lax.cond(explores.all(), lambda: any_action, some_best)
