"""Where normalisation sits in a layer: LayerNorm before the activation, BatchNorm after it, as in the public code."""

from typing import Literal

import flax.linen as nn
import jax

Norm = Literal["none", "layer", "batch"]


def activate(x: jax.Array, norm: Norm, train: bool) -> jax.Array:
    """ReLU with its normalisation; over features, so over channels only after a convolution. Call inside a module."""
    if norm == "layer":
        x = nn.LayerNorm()(x)
    x = nn.relu(x)
    if norm == "batch":
        x = nn.BatchNorm(use_running_average=not train)(x)
    return x
