"""How the weights of a layer are drawn; kernels are [..., outputs], and all axes but the last are inputs."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import xavier_uniform

Init = Literal["xavier", "sparse"]

SPARSITY = 0.9  # share of each unit's inputs that are 0 (Elsayed et al., 2024)


def sparse(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Uniform within 1 / sqrt(inputs), then nine tenths of each unit's inputs are set to 0, rounded up.

    One input of each unit stays, which is ours: with fewer than ten inputs the paper's rule leaves a layer of zeros.
    """
    inputs, outputs = math.prod(shape[:-1]), shape[-1]
    draw_key, order_key = jax.random.split(key)
    bound = 1 / math.sqrt(inputs)
    drawn = jax.random.uniform(draw_key, (inputs, outputs), dtype, -bound, bound)
    places = jnp.broadcast_to(jnp.arange(inputs)[:, None], (inputs, outputs))
    order = jax.random.permutation(order_key, places, axis=0, independent=True)
    zeros = min(math.ceil(SPARSITY * inputs), inputs - 1)
    return jnp.where(order < zeros, 0, drawn).reshape(shape)


INITS = {"xavier": xavier_uniform(), "sparse": sparse}
