"""A network cut in two where heads can be added: a trunk, and heads with a leading axis.

The trunk is any pair of functions, or any flax module; the heads are ours, one array per weight with the head axis
in front, so that moving heads along a chain is a slice and never surgery on named layers.

Shape letters: B batch, F features, H heads, A outputs of one head.
"""

import inspect
import math
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

from sharedq.bellman.readings import SCALAR, Reading
from sharedq.networks.activation import ActivationLayer

NOISE = "noise"  # the name by which noisy layers ask flax for a key

Params = Any
BatchStats = Any  # running statistics of batch normalisation; an empty dict if there are none


class InitTrunk(Protocol):
    def __call__(self, key: jax.Array, example: Any, /) -> tuple[Params, BatchStats]:
        """Parameters and running statistics of a trunk for inputs like `example` [B, ...]."""


class Trunk(Protocol):
    def __call__(self, params: Params, batch_stats: BatchStats, inputs: Any, train: bool, /) -> tuple[Any, BatchStats]:
        """Features [B, F] (or a tree, whose last leaf is the last layer) of inputs [B, ...], and the new statistics."""


class InitHeads(Protocol):
    def __call__(self, key: jax.Array, features: Any, count: int, /) -> Params:
        """Parameters of `count` heads for such features. The first axis of every leaf is the head."""


class Heads(Protocol):
    def __call__(self, params: Params, features: Any, /) -> Any:
        """The outputs [H, B, A] (or a tree of them) of all heads."""


class Activations(Protocol):
    def __call__(self, params: Params, batch_stats: BatchStats, inputs: Any, train: bool, /) -> list[jax.Array]:
        """What each layer of the trunk gives behind its activation: [B, ...] each."""


class WithNoise(Protocol):
    def __call__(self, key: jax.Array, /) -> "Network":
        """The same network, whose noisy layers have the noise that is drawn with this key."""


class Network(NamedTuple):
    init_trunk: InitTrunk
    trunk: Trunk
    init_heads: InitHeads
    heads: Heads
    normalises_batch: bool = False  # whether the trunk's output for an input depends on the rest of the batch
    activations: Activations | None = None  # None: the trunk does not show its layers
    reading: Reading = SCALAR  # how outputs are read as values
    with_noise: WithNoise | None = None  # None: no layer is noisy; without it, noisy layers have no noise

    def noisy(self, key: jax.Array | None) -> "Network":
        """The network with the noise of a key; without a key, or without noisy layers, the network as it is."""
        return self if self.with_noise is None or key is None else self.with_noise(key)


def functions_of(module: nn.Module) -> tuple[InitTrunk, Trunk]:
    """The functions `init(key, example)` and `apply(params, batch_stats, inputs, train)` of a flax module.

    Both also return the running statistics. A module with batch normalisation takes the argument `train`. `apply` takes
    a key as its last argument, with which noisy layers draw their noise.
    """
    takes_train = _takes_train(module)

    def call(variables, inputs, train, **keywords):
        arguments = {"train": train} if takes_train else {}
        return module.apply(variables, inputs, **arguments, **keywords)

    def init(key, example):
        arguments: dict[str, Any] = {"train": True} if takes_train else {}
        variables = module.init(key, example, **arguments)
        return variables.get("params", {}), variables.get("batch_stats", {})

    def apply(params, batch_stats, inputs, train, noise=None):
        rngs = {} if noise is None else {"rngs": {NOISE: noise}}
        if not (train and batch_stats):
            return call({"params": params, "batch_stats": batch_stats}, inputs, False, **rngs), batch_stats
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, moved = call(variables, inputs, True, mutable=["batch_stats"], **rngs)
        return outputs, moved["batch_stats"]

    return init, apply


def of_flax(module: nn.Module, init_heads: InitHeads, heads: Heads) -> Network:
    """A network whose trunk is a flax module."""
    return Network(*functions_of(module), init_heads, heads, _takes_train(module), activations_of(module))


def read_as(network: Network, reading: Reading, *shape: int) -> Network:
    """The network, whose heads return values of this shape, read in this way: [H, B, ..., *shape, *reading.shape].

    It is built with an output for each of these numbers.
    """

    def heads(params, features):
        outputs = network.heads(params, features)
        return outputs.reshape(*outputs.shape[:-1], *shape, *reading.shape)

    noise = network.with_noise
    read = network._replace(heads=heads, reading=reading)
    return read if noise is None else read._replace(with_noise=lambda key: read_as(noise(key), reading, *shape))


def outputs_of(reading: Reading, *shape: int) -> int:
    """The number of outputs that a head needs for values of this shape, read in this way."""
    return math.prod((*shape, *reading.shape))


def activations_of(module: nn.Module) -> Activations:
    """The outputs of every `ActivationLayer` in a flax module. There are none if the module uses other activations."""
    takes_train = _takes_train(module)

    def activations(params, batch_stats, inputs, train):
        arguments: dict[str, Any] = {"train": train} if takes_train else {}
        _, found = module.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            capture_intermediates=lambda one, _: isinstance(one, ActivationLayer),
            mutable=["intermediates", "batch_stats"],
            **arguments,
        )
        return jax.tree.leaves(found.get("intermediates", {}))

    return activations


def _takes_train(module: nn.Module) -> bool:
    return "train" in inspect.signature(type(module).__call__).parameters


def init(network: Network, key: jax.Array, example: Any, count: int) -> tuple[Params, Params, BatchStats]:
    """Parameters of the trunk and of `count` heads, and running statistics. The trunk does not depend on `count`."""
    trunk_key, heads_key = jax.random.split(key)
    trunk, batch_stats = network.init_trunk(trunk_key, example)
    features = jax.eval_shape(lambda t, s, x: network.trunk(t, s, x, False)[0], trunk, batch_stats, example)
    return trunk, network.init_heads(heads_key, features, count), batch_stats
