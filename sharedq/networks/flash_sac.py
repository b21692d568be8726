"""FlashSAC (Kim et al., 2026): residual blocks with BatchNorm, in which all weights but biases have fixed lengths."""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.activation import ActivationLayer
from sharedq.networks.convolution import as_features
from sharedq.networks.heads import Compute
from sharedq.networks.network import Network, of_flax
from sharedq.networks.normalisation import flat
from sharedq.networks.policies import Kind, Policy, of_body, squashed
from sharedq.networks.unit_kernels import GAINS, UnitDense, unit_linear
from sharedq.settings import LAYERS, WIDTH, check_count

EXPANSION = 4  # ratio of a block's hidden width to its feature width


class UnitBatchNorm(nn.Module):
    """BatchNorm whose gains and shifts together have the length of as many gains of 1."""

    @nn.compact
    def __call__(self, x, train: bool):
        def first(key, features):
            return jnp.stack([jnp.ones(features), jnp.zeros(features)])

        gain, shift = self.param(GAINS, first, x.shape[-1])
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-5, use_scale=False, use_bias=False)
        return norm(x) * gain + shift


class UnitRMSNorm(nn.Module):
    """Division by the root mean square of the features, and gains that have the length of as many gains of 1."""

    @nn.compact
    def __call__(self, x):
        (gain,) = self.param(GAINS, nn.initializers.ones, (1, x.shape[-1]))
        return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6) * gain


class Block(nn.Module):
    """Adds the output of two layers, of which the first is wider, to the features."""

    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        y, width = x, x.shape[-1]
        for features in (EXPANSION * width, width):
            y = UnitDense(features, self.compute)(y)
            y = ActivationLayer()(UnitBatchNorm()(y, train))
        return x + y


class Body(nn.Module):
    """Maps inputs to features whose mean square is 1, but for the gains of the last layer."""

    width: int
    blocks: int
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        x = UnitBatchNorm()(flat(as_features(x)), train)
        x = UnitDense(self.width, self.compute)(x)
        for _ in range(self.blocks):
            x = Block(self.compute)(x, train)
        return UnitRMSNorm()(x)


@dataclass(frozen=True)
class FlashSAC:
    """FlashSAC: residual blocks with BatchNorm and weights of fixed length. The defaults are those of its critic."""

    width: int = 256  # number of features between the blocks
    blocks: int = 2  # number of residual blocks; each has a hidden layer of four times the width
    compute: Compute = "float32"  # precision of matrix products in layers and heads; parameters stay float32

    def __post_init__(self):
        check_count("network.width", self.width, most=WIDTH)
        check_count("network.blocks", self.blocks, least=0, most=LAYERS)

    def build(self, outputs: int) -> Network:
        return of_flax(Body(self.width, self.blocks, self.compute), *unit_linear(outputs, self.compute))

    def policy(self, actions: int, width: int, depth: int, kind: Kind = "squashed_gaussian") -> Policy:
        """An actor with its own body of `depth` blocks."""
        branch = partial(UnitDense, compute=self.compute, use_bias=True)
        return of_body(kind, Body(width, depth, self.compute), branch, actions, squashed(-10.0, 2.0))
