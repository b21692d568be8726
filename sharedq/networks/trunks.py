"""The plain trunks: a table, dense layers, convolutions for MinAtar- and Atari-like images, and a user's own module.

Each is a frozen dataclass of settings whose `build(outputs)` gives the network with that many outputs per head.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, xavier_uniform, zeros

from sharedq.errors import SharedqError
from sharedq.imports import own_errors, references, resolve
from sharedq.networks.activation import Activation
from sharedq.networks.convolution import Padding, as_features, as_images, convolve
from sharedq.networks.dueling import Streams, dueling
from sharedq.networks.heads import Compute, cast, linear
from sharedq.networks.initialisation import INITS, Init
from sharedq.networks.network import Network, of_flax
from sharedq.networks.noisy import NoisyDense, noisy_linear
from sharedq.networks.normalisation import Norm, activate, flat, normalised_input
from sharedq.networks.policies import Kind, Policy, clipped, of_body
from sharedq.settings import check_layers, require

PIXELS = 1_000  # ours: from this number on, bytes with at least two axes count as an image
KERNEL = 100  # ours: the largest side and stride of a convolution's kernel


def dense_layers(
    x: jax.Array,
    hidden: tuple[int, ...],
    norm: Norm,
    train: bool,
    compute: Compute,
    activation: Activation = "relu",
    init: Init = "xavier",
    noisy: bool = False,
) -> jax.Array:
    """Called inside a module."""
    dtype = None if compute == "float32" else compute  # None: the dtype of the parameters
    for width in hidden:
        layer = NoisyDense(width, compute) if noisy else nn.Dense(width, dtype=dtype, kernel_init=INITS[init])
        x = activate(layer(x), norm, train, activation=activation)
    return x


def features_of_heads(x: jax.Array, hidden: tuple[int, ...], layers: Callable, dueling: bool) -> Any:
    """The features of dense layers, of which the last is doubled for dueling heads. Called inside a module.

    `layers` is `dense_layers` with its settings.
    """
    if not dueling:
        return layers(x, hidden)
    x = layers(x, hidden[:-1])
    return Streams(*(layers(x, hidden[-1:]) for _ in Streams._fields))


class DenseTrunk(nn.Module):
    hidden: tuple[int, ...]
    norm: Norm
    compute: Compute
    activation: Activation
    draw: Init
    noisy: bool = False
    dueling: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        x = normalised_input(flat(as_features(x)), self.norm, train)
        settings = self.norm, train, self.compute, self.activation, self.draw, self.noisy
        return features_of_heads(x, self.hidden, lambda x, hidden: dense_layers(x, hidden, *settings), self.dueling)


class Convolution(nn.Module):
    filters: int
    size: int
    stride: int
    padding: Padding
    compute: Compute
    kernel_init: Initializer = xavier_uniform()

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.filters))
        bias = self.param("bias", zeros, (self.filters,))
        kernel, bias = cast(kernel, self.compute), cast(bias, self.compute)
        return convolve(x, kernel, self.stride, self.padding) + bias


class ConvolutionalTrunk(nn.Module):
    filters: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding
    hidden: tuple[int, ...]
    norm: Norm
    compute: Compute
    activation: Activation
    draw: Init
    noisy: bool = False
    dueling: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        x = normalised_input(as_images(x), self.norm, train)
        last = len(self.filters) - 1
        for number, layer in enumerate(zip(self.filters, self.sizes, self.strides, strict=True)):
            x = Convolution(*layer, self.padding, self.compute, INITS[self.draw])(x)
            x = activate(x, self.norm, train, flatten=number == last, activation=self.activation)
        settings = self.norm, train, self.compute, self.activation, self.draw, self.noisy
        return features_of_heads(
            flat(x), self.hidden, lambda x, hidden: dense_layers(x, hidden, *settings), self.dueling
        )


def with_linear_heads(module: Any, outputs: int, init: Init = "xavier", each: int = 1) -> Network:
    """A network whose trunk is a module with the fields `norm` and `compute`, and perhaps `noisy` and `dueling`.

    A value has `each` of the outputs, which only dueling heads have to know.
    """
    noisy = getattr(module, "noisy", False)
    if noisy:
        heads_of = partial(noisy_linear, compute=module.compute)
    else:
        heads_of = partial(linear, kernel_init=INITS[init], compute=module.compute)
    init_heads, heads = dueling(heads_of, outputs, each) if getattr(module, "dueling", False) else heads_of(outputs)
    network = of_flax(module, init_heads, heads)._replace(normalises_batch=module.norm.startswith("batch"))
    return network._replace(with_noise=partial(noise_of, network)) if noisy else network


def noise_of(network: Any, key: jax.Array) -> Network:
    """The `with_noise` of a network whose trunk and heads take a key as their last argument."""
    trunk_key, heads_key = jax.random.split(key)

    def trunk(params, batch_stats, inputs, train):
        return network.trunk(params, batch_stats, inputs, train, trunk_key)

    return network._replace(trunk=trunk, heads=lambda params, features: network.heads(params, features, heads_key))


@dataclass(frozen=True)
class Table:
    """No trunk: one number per observation entry and action. On one-hot observations it is a table of Q-values."""

    def build(self, outputs: int) -> Network:
        return Network(
            lambda key, example: ({}, {}),
            lambda params, batch_stats, x, train: (flat(as_features(x)), batch_stats),
            *linear(outputs, kernel_init=zeros, use_bias=False),
        )


@dataclass(frozen=True)
class Dense:
    """Dense layers, with ReLU or another activation."""

    hidden: tuple[int, ...] = (64, 64)  # width of each hidden layer
    norm: Norm = "none"  # layer*: LayerNorm before activations; batch*: BatchNorm after; see docs/algorithms.md
    activation: Activation = "relu"  # activation of hidden layers; leaky_relu has slope 0.01 below 0
    init: Init = "xavier"  # initialisation of weights; sparse sets nine tenths of each unit's inputs to 0
    compute: Compute = "float32"  # precision of matrix products in layers and heads; parameters stay float32
    dueling: bool = False  # heads add the value of a state to the advantage of each action; the last layer is doubled
    noisy: bool = False  # dense layers and heads have learned noise, which explores (set --algorithm.epsilon_start 0)

    def __post_init__(self):
        require(bool(self.hidden) and min(self.hidden) > 0, "network.hidden needs layers of at least one unit")
        check_layers("network.hidden", self.hidden)

    def remarks(self, experiment: Any, spec: Any) -> Iterator[str]:
        seen, discrete = spec.observation, spec.actions.one.dtype == jnp.int32  # SAC reads all its inputs as vectors
        if discrete and seen.dtype == jnp.uint8 and len(seen.shape) >= 2 and math.prod(seen.shape) >= PIXELS:
            yield (
                f"the network is dense, and the observations of '{spec.name}' are images {list(seen.shape)}: "
                "--network convolutional learns more from images; the recipe atari-cnn has settings for large ones"
            )

    def build(self, outputs: int, each: int = 1) -> Network:
        layers = self.hidden, self.norm, self.compute, self.activation, self.init
        return with_linear_heads(DenseTrunk(*layers, self.noisy, self.dueling), outputs, self.init, each)

    def policy(self, actions: int, width: int, depth: int, kind: Kind = "squashed_gaussian") -> Policy:
        """An actor with its own `depth` layers of equal width."""
        body = DenseTrunk((width,) * depth, self.norm, self.compute, self.activation, self.init)
        return of_body(kind, body, nn.Dense, actions, clipped(-20.0, 2.0))


@dataclass(frozen=True)
class Convolutional:
    """Convolutions with ReLU, then dense layers. The defaults are the MinAtar network (Young & Tian, 2019)."""

    filters: tuple[int, ...] = (16,)  # number of filters of each convolution
    sizes: tuple[int, ...] = (3,)  # kernel size of each convolution
    strides: tuple[int, ...] = (1,)  # stride of each convolution
    padding: Padding = "VALID"  # SAME pads the border of the image with zeros, VALID does not
    hidden: tuple[int, ...] = (128,)  # width of each dense layer after the convolutions
    norm: Norm = "none"  # layer*: LayerNorm before activations; batch*: BatchNorm after; see docs/algorithms.md
    activation: Activation = "relu"  # activation of hidden layers; leaky_relu has slope 0.01 below 0
    init: Init = "xavier"  # initialisation of weights; sparse sets nine tenths of each unit's inputs to 0
    compute: Compute = "float32"  # precision of matrix products in layers and heads; parameters stay float32
    dueling: bool = False  # heads add the value of a state to the advantage of each action; the last layer is doubled
    noisy: bool = False  # dense layers and heads have learned noise, which explores (set --algorithm.epsilon_start 0)

    def __post_init__(self):
        layers = {len(self.filters), len(self.sizes), len(self.strides)}
        require(len(layers) == 1, "network.filters, network.sizes and network.strides need one number per convolution")
        numbers = (*self.filters, *self.sizes, *self.strides, *self.hidden)
        require(min(numbers, default=0) > 0, "every layer of the network needs at least one unit, and a stride of 1")
        check_layers("network.filters", self.filters)
        check_layers("network.sizes", self.sizes, KERNEL)
        check_layers("network.strides", self.strides, KERNEL)
        check_layers("network.hidden", self.hidden)
        require(
            bool(self.hidden) or not self.dueling, "network.dueling doubles the last dense layer: add --network.hidden"
        )

    def build(self, outputs: int, each: int = 1) -> Network:
        layers = (self.filters, self.sizes, self.strides, self.padding, self.hidden)
        settings = self.norm, self.compute, self.activation, self.init
        module = ConvolutionalTrunk(*layers, *settings, noisy=self.noisy, dueling=self.dueling)
        return with_linear_heads(module, outputs, self.init, each)


@dataclass(frozen=True)
class FlaxTrunk:
    """A user's own flax module as the trunk: it takes a batch of observations and returns features [B, F].

    A module with batch normalisation takes the keyword `train` and keeps its statistics in `batch_stats`.
    """

    module: str = ""  # import string of the module: package.module:ClassOrInstance

    @staticmethod
    def of(module: nn.Module | type[nn.Module]) -> "FlaxTrunk":
        """The settings for a given module. It must be importable, so that the run can be resumed."""
        kind = module if isinstance(module, type) else type(module)
        if not isinstance(module, type):
            own = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
            require(not own, f"{kind.__name__} has settings ({', '.join(own)}): name an instance or subclass instead")
        return FlaxTrunk(f"{kind.__module__}:{kind.__qualname__}")

    def imports(self) -> list[str]:
        """The import strings that building runs."""
        return references(self.module)

    def build(self, outputs: int) -> Network:
        found: Any = resolve(self.module, "network.module")
        source = getattr(found if isinstance(found, type) else type(found), "__module__", "")
        with own_errors(f"network.module '{self.module}'", source):
            module = found() if isinstance(found, type) and issubclass(found, nn.Module) else found
        if not isinstance(module, nn.Module):
            raise SharedqError(f"network.module {self.module} is not a flax.linen module")
        network = of_flax(module, *linear(outputs))

        def init_trunk(key, example):
            with own_errors(f"network.module '{self.module}', given inputs of shape {example.shape},", source):
                return network.init_trunk(key, example)

        def trunk(params, batch_stats, inputs, train):
            with own_errors(f"network.module '{self.module}', given inputs of shape {inputs.shape},", source):
                features, batch_stats = network.trunk(params, batch_stats, inputs, train)
            form = getattr(features, "shape", type(features).__name__)
            right = isinstance(form, tuple) and len(form) == 2 and form[0] == inputs.shape[0]
            require(
                right,
                f"network.module '{self.module}' must return features [B, F], one row for each input, and returned "
                f"{form} for inputs of shape {inputs.shape}",
            )
            return features, batch_stats

        return network._replace(init_trunk=init_trunk, trunk=trunk)
