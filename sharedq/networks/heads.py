"""Linear heads, several at once: kernels [heads, features, outputs] and biases [heads, outputs]."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, xavier_uniform

Compute = Literal["float32", "bfloat16"]  # the dtype of matrix products; parameters are float32


def cast(x: jax.Array, compute: Compute) -> jax.Array:
    """The input of a matrix product. With float32 nothing is cast, because tests compute in float64."""
    return x if compute == "float32" else x.astype(compute)


def linear(
    outputs: int, kernel_init: Initializer = xavier_uniform(), use_bias: bool = True, compute: Compute = "float32"
) -> tuple[Callable, Callable]:
    """The functions `init_heads` and `heads` of a network with linear heads. Their outputs are float32.

    Several heads are initialised as the columns of one dense layer, as in the public iS-DQN code. So with Xavier's rule
    the scale shrinks as heads are added. A source that needs equal heads initialises one and repeats it.
    """

    def init_heads(key, features, count):
        width = features.shape[-1]
        kernel = kernel_init(key, (width, count * outputs), jnp.float32).reshape(width, count, outputs)
        heads = {"kernel": kernel.transpose(1, 0, 2)}  # [H, F, A]
        return {**heads, "bias": jnp.zeros((count, outputs))} if use_bias else heads

    def heads(params, features):
        count, width, outputs = params["kernel"].shape
        columns = params["kernel"].transpose(1, 0, 2).reshape(width, count * outputs)
        values = (cast(features, compute) @ cast(columns, compute)).astype(columns.dtype)  # one product for all heads
        values = values.reshape(*features.shape[:-1], count, outputs)
        if use_bias:
            values = values + params["bias"]
        return jnp.moveaxis(values, -2, 0)  # [H, B, A]

    return init_heads, heads
