"""Noisy linear layers, whose noise explores in place of random actions (Fortunato et al., 2018).

    y = (W + S * f(u) f(v)^T) x + b + s * f(v)         f(x) = sign(x) sqrt(|x|), u and v are standard normal

The weights W, b, S and s are learned. The noise is drawn once for a batch, and without a key there is none: then the
layer is W x + b.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.heads import Compute, cast
from sharedq.networks.network import NOISE

SIGMA = 0.5  # S and s begin at SIGMA / sqrt(inputs)


def draw(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
    """Weights drawn uniformly within 1 / sqrt(inputs)."""
    bound = 1 / math.sqrt(inputs)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def scaled(key: jax.Array, size: int) -> jax.Array:
    """The noise f(x) of so many inputs or outputs."""
    x = jax.random.normal(key, (size,))
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))


class NoisyDense(nn.Module):
    features: int
    compute: Compute = "float32"

    @nn.compact
    def __call__(self, x):
        inputs = x.shape[-1]
        level = nn.initializers.constant(SIGMA / math.sqrt(inputs))
        kernel = self.param("kernel", lambda key, shape: draw(key, shape, inputs), (inputs, self.features))
        bias = self.param("bias", lambda key, shape: draw(key, shape, inputs), (self.features,))
        kernel_noise = self.param("kernel_noise", level, (inputs, self.features))
        bias_noise = self.param("bias_noise", level, (self.features,))
        y = cast(x, self.compute) @ cast(kernel, self.compute) + bias
        if not self.has_rng(NOISE):
            return y
        of_inputs, of_outputs = (
            scaled(key, n)
            for key, n in zip(jax.random.split(self.make_rng(NOISE)), (inputs, self.features), strict=True)
        )
        return y + of_outputs * (cast(x * of_inputs, self.compute) @ cast(kernel_noise, self.compute) + bias_noise)


def noisy_linear(outputs: int, compute: Compute = "float32") -> tuple[Callable, Callable]:
    """The functions `init_heads` and `heads` of noisy heads. `heads` takes a key as its last argument.

    All heads have the same noise, so that the noise of a head is that of its target if both are read with one key.
    """

    def init_heads(key, features, count):
        inputs = features.shape[-1]
        keys, level = jax.random.split(key), SIGMA / math.sqrt(inputs)
        shapes = {"kernel": (count, inputs, outputs), "bias": (count, outputs)}
        weights = {name: draw(key, shape, inputs) for (name, shape), key in zip(shapes.items(), keys, strict=True)}
        return weights | {f"{name}_noise": jnp.full(shape, level) for name, shape in shapes.items()}

    def product(x, kernel):
        return jnp.einsum("bf,hfa->hba", cast(x, compute), cast(kernel, compute)).astype(kernel.dtype)

    def heads(params, features, key=None):
        y = product(features, params["kernel"]) + params["bias"][:, None]
        if key is None:
            return y
        of_inputs, of_outputs = (
            scaled(key, n) for key, n in zip(jax.random.split(key), (features.shape[-1], outputs), strict=True)
        )
        noise = product(features * of_inputs, params["kernel_noise"]) + params["bias_noise"][:, None]
        return y + of_outputs * noise

    return init_heads, heads
