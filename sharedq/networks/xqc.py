"""XQC (Palenicek et al., 2025): dense layers with unit columns, and BatchNorm of the input and before every ReLU."""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn

from sharedq.networks.activation import ActivationLayer
from sharedq.networks.convolution import as_features
from sharedq.networks.heads import Compute
from sharedq.networks.network import Network, of_flax
from sharedq.networks.normalisation import flat
from sharedq.networks.policies import Kind, Policy, clipped, of_body
from sharedq.networks.unit_kernels import UnitDense, unit_linear
from sharedq.settings import LAYERS, WIDTH, check_count

BatchNorm = partial(nn.BatchNorm, momentum=0.99, epsilon=1e-3)  # the paper's numbers


class Body(nn.Module):
    """Normalises the inputs, then repeats a layer: dense without a bias, BatchNorm, ReLU."""

    width: int
    depth: int
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        x = BatchNorm(use_running_average=not train)(flat(as_features(x)))
        for _ in range(self.depth):
            x = UnitDense(self.width, self.compute)(x)
            x = ActivationLayer()(BatchNorm(use_running_average=not train)(x))
        return x


@dataclass(frozen=True)
class XQC:
    """XQC: BatchNorm and unit kernels, which keep a critic well conditioned. The defaults are those of its critic."""

    width: int = 512  # width of each hidden layer
    depth: int = 4  # number of hidden layers
    compute: Compute = "float32"  # precision of matrix products in layers and heads; parameters stay float32

    def __post_init__(self):
        check_count("network.width", self.width, most=WIDTH)
        check_count("network.depth", self.depth, least=0, most=LAYERS)

    def build(self, outputs: int) -> Network:
        return of_flax(Body(self.width, self.depth, self.compute), *unit_linear(outputs, self.compute))

    def policy(self, actions: int, width: int, depth: int, kind: Kind = "squashed_gaussian") -> Policy:
        """An actor with its own `depth` layers of equal width."""
        branch = partial(UnitDense, compute=self.compute, use_bias=True)
        return of_body(kind, Body(width, depth, self.compute), branch, actions, clipped(-10.0, 2.0))
