"""Linear heads, any number of them at once: [heads, features, outputs] and [heads, outputs]."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, xavier_uniform

Compute = Literal["float32", "bfloat16"]  # the type that sums of products are made in; parameters are float32


def cast(x: jax.Array, compute: Compute) -> jax.Array:
    """As it enters a product. float32 is the parameters' own type, and so not cast to: tests compute in float64."""
    return x if compute == "float32" else x.astype(compute)


def linear(
    outputs: int, kernel_init: Initializer = xavier_uniform(), use_bias: bool = True, compute: Compute = "float32"
) -> tuple[Callable, Callable]:
    """`init_heads` and `heads` of a network whose heads are linear. Their values are float32.

    Several heads are drawn as the columns of one dense layer, as the public iS-DQN code does, so with Xavier's
    rule the scale of the draw shrinks as heads are added. A source that wants equal heads draws one and repeats it.
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
