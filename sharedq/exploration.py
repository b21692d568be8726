"""How a policy strays from the greedy action."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp


def linear_schedule(start: float, end: float, steps: int, step: jax.Array) -> jax.Array:
    """From `start` at step 0 to `end` at `steps`, and there it stays."""
    return start + (end - start) * jnp.clip(step / max(steps, 1), 0.0, 1.0)


def still_exploring(steps: int, falls: int, end: float) -> Iterator[str]:
    """A remark if the share of random actions is still high when a training of so many steps is over."""
    if falls > 2 * steps and end < 0.5:
        yield (
            f"most actions will be random: their share falls over {falls:,} steps, and there are {steps:,}; "
            "lower --algorithm.epsilon_steps"
        )


def greedy(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """values [B, A] -> the best actions [B], and the values."""
    return values.argmax(axis=-1).astype(jnp.int32), values


def epsilon_greedy(key: jax.Array, values: Callable[[], jax.Array], epsilon: jax.Array | float) -> jax.Array:
    """values() [B, A] -> actions [B]: with probability epsilon any action, else the best.

    The values are computed only if one of the actions depends on them.
    """
    chance_key, action_key = jax.random.split(key)
    count, actions = jax.eval_shape(values).shape
    explores = jax.random.uniform(chance_key, (count,)) < epsilon
    any_action = jax.random.randint(action_key, (count,), 0, actions)

    def some_best() -> jax.Array:
        return jnp.where(explores, any_action, greedy(values())[0])

    return jax.lax.cond(explores.all(), lambda: any_action, some_best)
