"""Elementwise losses of an error, which is prediction minus target."""

import jax
import jax.numpy as jnp
import optax


def squared(error: jax.Array) -> jax.Array:
    return jnp.square(error)


def huber(error: jax.Array, bend: float = 1.0) -> jax.Array:
    """Half the square up to `bend`, and beyond it a straight line of slope `bend`."""
    return optax.losses.huber_loss(error, delta=bend)
