"""How a policy strays from the greedy action."""

import jax
import jax.numpy as jnp


def linear_schedule(start: float, end: float, steps: int, step: jax.Array) -> jax.Array:
    """From `start` at step 0 to `end` at `steps`, and there it stays."""
    return start + (end - start) * jnp.clip(step / max(steps, 1), 0.0, 1.0)


def epsilon_greedy(key: jax.Array, values: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """values [B, A] -> actions [B]: with probability epsilon any action, else the best."""
    chance_key, action_key = jax.random.split(key)
    chance = jax.random.uniform(chance_key, values.shape[:1])
    any_action = jax.random.randint(action_key, values.shape[:1], 0, values.shape[-1])
    return jnp.where(chance < epsilon, any_action, values.argmax(axis=-1).astype(jnp.int32))
