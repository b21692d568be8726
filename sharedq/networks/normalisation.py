"""Normalisation in a layer: LayerNorm before the activation, BatchNorm after it, as in the public code.

`layer` and `batch` normalise over features, so after a convolution only over channels. `batch_pixel` is BatchNorm as
the public iS-DQN code uses it on images. It also normalises the input. Its statistics of an image are per pixel
position, over the batch and the channels. The last map is normalised after it is flattened, with statistics per
feature.

`layer_whole` and `layer_channels` have no parameters. Streaming learning (Elsayed et al., 2024) applies LayerNorm to
the whole activation of an input, over all pixels and channels together. Its JAX ports differ; one of them normalises
over the channels of each pixel. `batch_renorm` is that of CrossQ: batch renormalisation of the input and after each
activation.

Parameters, statistics and arithmetic of all of them are float32, in whatever dtype a network computes. All functions
here are called inside a module.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.activation import Activation, ActivationLayer
from sharedq.networks.batch_renormalisation import BatchRenorm
from sharedq.networks.convolution import as_features

Norm = Literal["none", "layer", "layer_whole", "layer_channels", "batch", "batch_pixel", "batch_renorm"]


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def normalised_input(x: jax.Array, norm: Norm, train: bool) -> jax.Array:
    """The input of the first layer: images [B, height, width, channels] or vectors [B, features]."""
    if norm == "batch_renorm" or (norm == "batch_pixel" and x.ndim == 4):
        return _by_batch(as_features(x), norm, train)
    return x


def activate(
    x: jax.Array, norm: Norm, train: bool, flatten: bool = False, activation: Activation = "relu"
) -> jax.Array:
    """The activation with its normalisation; `flatten` flattens a map to features."""
    if norm == "layer":
        x = nn.LayerNorm()(x)
    elif norm == "layer_whole":
        x = standardised(x, tuple(range(1, x.ndim)), 1e-5)
    elif norm == "layer_channels":
        x = standardised(x, (-1,), 1e-6)
    x = ActivationLayer(activation)(x)
    if norm in ("batch", "batch_renorm"):
        x = _by_batch(x, norm, train)
    if flatten:
        x = flat(x)
    return _by_batch(x, norm, train) if norm == "batch_pixel" else x


def standardised(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Mean 0 and deviation 1 over some axes; LayerNorm without parameters."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + epsilon)


def _by_batch(x: jax.Array, norm: Norm, train: bool) -> jax.Array:
    if norm == "batch_renorm":
        return BatchRenorm(use_running_average=not train)(x)
    axis: Any = (1, 2) if norm == "batch_pixel" and x.ndim == 4 else -1  # the axes that keep separate statistics
    return nn.BatchNorm(use_running_average=not train, axis=axis)(x)
