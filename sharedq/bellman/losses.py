"""Elementwise losses of an error, which is prediction minus target, and a penalty on values."""

import jax
import jax.numpy as jnp
import optax

from sharedq.bellman.shapes import check_equal


def squared(error: jax.Array) -> jax.Array:
    return jnp.square(error)


def half_squared(error: jax.Array) -> jax.Array:
    return 0.5 * jnp.square(error)


def huber(error: jax.Array, bend: float = 1.0) -> jax.Array:
    """Half the square up to `bend`, and beyond it a straight line of slope `bend`."""
    return optax.losses.huber_loss(error, delta=bend)


NAMED = {"squared": squared, "half_squared": half_squared, "huber": huber}  # those of a scalar value's error


def expectile(error: jax.Array, tau: float) -> jax.Array:
    """The square, times tau below the target and 1 - tau above it (Newey & Powell, 1987).

    Its minimum is the tau-expectile of the targets, which is their mean for 0.5 and goes to their maximum for 1.
    """
    return jnp.where(error > 0, 1 - tau, tau) * jnp.square(error)


def conservative(values: jax.Array, value: jax.Array) -> jax.Array:
    """log(sum_b exp(Q(s, b))) - Q(s, a), for values [..., n] and the value [...] of the data's action (Kumar, 2020)."""
    check_equal("value", value.shape, "values without their last axis", values.shape[:-1])
    return jax.nn.logsumexp(values, axis=-1) - value
