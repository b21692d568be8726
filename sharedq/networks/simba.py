"""SimbaV2 (Lee et al., ICML 2025): features on the unit sphere, kernels with unit columns, and separate learned gains.

Options add batch normalisation, which the paper does not use: at the input, and in every block before or after its
ReLU. A projection to the sphere removes a common scale, so batch normalisation only centres and scales each feature
by itself.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import constant, zeros

from sharedq.networks.activation import ActivationLayer
from sharedq.networks.convolution import as_features
from sharedq.networks.heads import Compute
from sharedq.networks.network import Network, of_flax
from sharedq.networks.normalisation import flat
from sharedq.networks.policies import Kind, Policy, of_body, squashed
from sharedq.networks.unit_kernels import UnitDense, unit, unit_linear
from sharedq.settings import LAYERS, WIDTH, check_count

SHIFT = 3.0  # a constant extra input, so that the projection does not lose the scale of the other inputs
EXPANSION = 4  # ratio of a block's hidden width to its feature width

Norm = Literal["none", "batch_input", "batch_before", "batch_after"]


class Scaler(nn.Module):
    """A learned gain for every feature. It starts at `first`; `scale` sets how fast Adam changes it."""

    first: float
    scale: float

    @nn.compact
    def __call__(self, x):
        gain = self.param("gain", constant(self.scale), (x.shape[-1],))
        return x * gain * (self.first / self.scale)


class Block(nn.Module):
    """Moves the features part of the way to the output of a hidden layer, then projects them to the sphere."""

    blocks: int  # number of blocks in the whole body
    norm: Norm
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        width = x.shape[-1]
        gain = sqrt(2 / (EXPANSION * width))
        hidden = Scaler(gain, gain)(UnitDense(EXPANSION * width, self.compute)(x))
        if self.norm == "batch_before":
            hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        hidden = ActivationLayer()(hidden) + 1e-8
        if self.norm == "batch_after":
            hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        proposed = unit(UnitDense(width, self.compute)(hidden))
        return unit(x + Scaler(1 / (self.blocks + 1), 1 / sqrt(width))(proposed - x))


class Body(nn.Module):
    """Maps inputs to features on the unit sphere."""

    width: int
    blocks: int
    norm: Norm
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        x = flat(as_features(x))
        if self.norm != "none":
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = unit(jnp.concatenate([x, jnp.full_like(x[:, :1], SHIFT)], axis=-1))
        gain = sqrt(2 / self.width)
        x = unit(Scaler(gain, gain)(UnitDense(self.width, self.compute)(x)))
        for _ in range(self.blocks):
            x = Block(self.blocks, self.norm, self.compute)(x, train)
        return x


class Trunk(nn.Module):
    """The body and the hidden layer of the value head. The last layer belongs to the heads."""

    width: int
    blocks: int
    norm: Norm
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        x = Body(self.width, self.blocks, self.norm, self.compute)(x, train)
        return Scaler(1.0, 1.0)(UnitDense(self.width, self.compute)(x))


class Branch(nn.Module):
    """One output of the policy: a hidden layer and a linear one, with no ReLU between."""

    actions: int
    compute: Compute

    @nn.compact
    def __call__(self, x):
        hidden = Scaler(1.0, 1.0)(UnitDense(x.shape[-1], self.compute)(x))
        outputs = UnitDense(self.actions, self.compute)(hidden)
        return outputs + self.param("bias", zeros, (self.actions,))


@dataclass(frozen=True)
class SimbaV2:
    """SimbaV2: unit features, unit kernels and learned gains. The defaults are those of its critic."""

    width: int = 512  # number of features between the blocks
    blocks: int = 2  # number of residual blocks; each has a hidden layer of four times the width
    norm: Norm = "none"  # BatchNorm of the inputs (batch_input), or also before or after each block's ReLU
    compute: Compute = "float32"  # precision of matrix products in layers and heads; parameters stay float32

    def __post_init__(self):
        check_count("network.width", self.width, most=WIDTH)
        check_count("network.blocks", self.blocks, least=0, most=LAYERS)

    def build(self, outputs: int) -> Network:
        trunk = Trunk(self.width, self.blocks, self.norm, self.compute)
        network = of_flax(trunk, *unit_linear(outputs, self.compute))
        return network._replace(normalises_batch=self.norm != "none")

    def policy(self, actions: int, width: int, depth: int, kind: Kind = "squashed_gaussian") -> Policy:
        """An actor with its own body of `depth` blocks."""
        body = Body(width, depth, self.norm, self.compute)
        return of_body(kind, body, lambda outputs: Branch(outputs, self.compute), actions, squashed(-10.0, 2.0))
