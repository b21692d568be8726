"""Kernels whose columns have length 1, at initialisation and again after every gradient step.

They are recognised by their name among the parameters of a network, with any leading axes of heads, critics or
networks: [..., inputs, outputs]. What a source keeps outside the parameters is not changed.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.heads import Compute, cast, linear
from sharedq.networks.initialisation import orthogonal

NAME = "unit_kernel"


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """x divided by its length; a length below 1e-8 counts as 1e-8."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-16))


def project(params: Any) -> Any:
    """The same parameters, with every column of every unit kernel scaled to length 1."""

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        return unit(leaf, axis=-2) if path and getattr(path[-1], "key", None) == NAME else leaf

    return jax.tree_util.tree_map_with_path(one, params)


def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return unit(orthogonal(key, shape), axis=-2)


class UnitDense(nn.Module):
    """A dense layer without a bias, whose kernel's columns have length 1."""

    features: int
    compute: Compute = "float32"

    @nn.compact
    def __call__(self, x):
        kernel = self.param(NAME, draw, (x.shape[-1], self.features))
        return (cast(x, self.compute) @ cast(kernel, self.compute)).astype(kernel.dtype)


def unit_linear(outputs: int, compute: Compute = "float32") -> tuple[Callable, Callable]:
    """The functions `init_heads` and `heads` of linear heads with unit kernels and free biases, drawn independently."""
    _, heads = linear(outputs, compute=compute)

    def init_heads(key, features, count):
        keys = jax.random.split(key, count)
        kernel = jax.vmap(lambda key: draw(key, (features.shape[-1], outputs)))(keys)
        return {NAME: kernel, "bias": jnp.zeros((count, outputs))}

    def named_heads(params, features):
        return heads({"kernel": params[NAME], "bias": params["bias"]}, features)

    return init_heads, named_heads
