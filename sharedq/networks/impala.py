"""The residual network of IMPALA (Espeholt et al., 2018), as the public iS-DQN code uses it on Atari."""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
from jax.nn.initializers import lecun_normal

from sharedq.networks.activation import ActivationLayer
from sharedq.networks.convolution import as_images, max_pool
from sharedq.networks.heads import Compute
from sharedq.networks.network import Network
from sharedq.networks.normalisation import Norm, activate, normalised_input
from sharedq.networks.trunks import Convolution, dense_layers, with_linear_heads
from sharedq.settings import check_layers, require


class Stack(nn.Module):
    """A convolution, a pooling that halves the sides, and two residual blocks."""

    filters: int
    norm: Norm
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        convolution = partial(Convolution, self.filters, 3, 1, "SAME", self.compute)
        x = max_pool(convolution()(x), size=3, stride=2)
        for _ in range(2):
            inside = convolution(lecun_normal())(activate(x, self.norm, train))
            x = x + convolution(lecun_normal())(ActivationLayer()(inside))
        return x


class ImpalaTrunk(nn.Module):
    filters: tuple[int, ...]
    hidden: tuple[int, ...]
    norm: Norm
    compute: Compute

    @nn.compact
    def __call__(self, x, train: bool):
        x = normalised_input(as_images(x), self.norm, train)
        for filters in self.filters:
            x = Stack(filters, self.norm, self.compute)(x, train)
        x = activate(x, self.norm, train, flatten=True)
        return dense_layers(x, self.hidden, self.norm, train, self.compute)


@dataclass(frozen=True)
class Impala:
    """Stacks of residual blocks, then dense layers. The defaults are the paper's on Atari; the paper adds LayerNorm."""

    filters: tuple[int, ...] = (32, 64, 64)  # filters of each stack; each stack halves the sides of the image
    hidden: tuple[int, ...] = (512,)  # width of each dense layer after the stacks
    norm: Norm = "none"  # layer*: LayerNorm before each ReLU; batch*: BatchNorm after it; see docs/algorithms.md
    compute: Compute = "float32"  # precision of matrix products in layers and heads; parameters stay float32

    def __post_init__(self):
        require(bool(self.filters), "network.filters needs a number for at least one stack")
        require(min((*self.filters, *self.hidden)) > 0, "every layer of the network needs at least one unit")
        check_layers("network.filters", self.filters)
        check_layers("network.hidden", self.hidden)

    def build(self, outputs: int) -> Network:
        return with_linear_heads(ImpalaTrunk(self.filters, self.hidden, self.norm, self.compute), outputs)
