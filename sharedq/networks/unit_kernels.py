"""Kernels with columns of length 1, and gains of fixed length, at initialisation and after every gradient step.

The gains belong to normalisation layers. Together with the shifts of their layer, the gains of n features have length
sqrt(n), which n gains of 1 have.

Both are recognised by their names among the parameters of a network, with any leading axes of heads, critics or
networks: kernels are [..., inputs, outputs], and gains [..., 1 or 2, features], where the second row has the shifts.
What a source keeps outside the parameters is not changed.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros

from sharedq.networks.heads import Compute, cast, linear
from sharedq.networks.initialisation import orthogonal

NAME = "unit_kernel"
GAINS = "unit_gains"


def unit(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """x divided by its length; a length below 1e-8 counts as 1e-8."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-16))


def project(params: Any) -> Any:
    """The same parameters, with every column of every unit kernel scaled to length 1, and gains to their length."""

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        name = getattr(path[-1], "key", None) if path else None
        if name == NAME:
            return unit(leaf, axis=-2)
        return sqrt(leaf.shape[-1]) * unit(leaf, axis=(-2, -1)) if name == GAINS else leaf

    return jax.tree_util.tree_map_with_path(one, params)


def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return unit(orthogonal(key, shape), axis=-2)


class UnitDense(nn.Module):
    """A dense layer whose kernel's columns have length 1. A bias is free."""

    features: int
    compute: Compute = "float32"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        kernel = self.param(NAME, draw, (x.shape[-1], self.features))
        outputs = (cast(x, self.compute) @ cast(kernel, self.compute)).astype(kernel.dtype)
        return outputs + self.param("bias", zeros, (self.features,)) if self.use_bias else outputs


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
