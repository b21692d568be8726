"""How the weights of a layer are drawn; kernels are [..., outputs], and all axes but the last are inputs."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import xavier_uniform

Init = Literal["xavier", "sparse"]

SPARSITY = 0.9  # share of each unit's inputs that are 0 (Elsayed et al., 2024)


def sparse(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Draws uniformly within 1 / sqrt(inputs), then sets nine tenths of each unit's inputs, rounded up, to 0.

    One input of each unit always stays. This is ours: with fewer than ten inputs the paper's rule gives only zeros.
    """
    inputs, outputs = math.prod(shape[:-1]), shape[-1]
    draw_key, order_key = jax.random.split(key)
    bound = 1 / math.sqrt(inputs)
    drawn = jax.random.uniform(draw_key, (inputs, outputs), dtype, -bound, bound)
    places = jnp.broadcast_to(jnp.arange(inputs)[:, None], (inputs, outputs))
    order = jax.random.permutation(order_key, places, axis=0, independent=True)
    zeros = min(math.ceil(SPARSITY * inputs), inputs - 1)
    return jnp.where(order < zeros, 0, drawn).reshape(shape)


def orthogonal(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """A matrix [inputs, outputs] with orthonormal columns (or rows, if there are fewer rows), drawn uniformly.

    It is the orthonormal matrix nearest to a Gaussian one, computed by the Newton-Schulz iteration. A QR decomposition
    would also work, but on CPUs JAX's implementation waits in a thread of the pool for other threads of the same pool.
    Several decompositions at a time, of two seeds or of two layers, then wait for each other for ever.
    """
    longer, shorter = max(shape), min(shape)
    drawn = jax.random.normal(key, (longer, shorter)) / (math.sqrt(longer) + math.sqrt(shorter))

    def unlike(x: jax.Array) -> jax.Array:
        return jnp.eye(shorter) - jnp.matmul(x.T, x, precision="highest")

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, rest, turn = state
        return (jnp.abs(rest).max() > 1e-5) & (turn < 100)  # each turn raises small singular values by half

    def nearer(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, rest, turn = state
        x = x + 0.5 * jnp.matmul(x, rest, precision="highest")
        return x, unlike(x), turn + 1

    x, _, _ = jax.lax.while_loop(unfinished, nearer, (drawn, unlike(drawn), jnp.int32(0)))
    return x if shape[0] >= shape[1] else x.T


INITS = {"xavier": xavier_uniform(), "sparse": sparse}
