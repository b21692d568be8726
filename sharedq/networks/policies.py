"""Policies: how an action is drawn in a state, how likely an action is, and which one is taken without chance.

A policy is a record of pure functions. Two of them are a network, which computes the parameters `d` of a distribution
over actions. Three of them belong to the distribution, of which there are three kinds:

- `squashed_gaussian`: tanh of a Gaussian, whose mean and deviation depend on the state. This is SAC's.
- `gaussian`: a Gaussian whose mean is squashed to -1 .. 1 and whose deviation is the same in all states. This is IQL's.
- categorical, over discrete actions. Any network can be one.

Shape letters: B batch, A dimensions of an action, or number of discrete actions.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros

from sharedq.bellman.backups import of_action
from sharedq.networks import network as networks
from sharedq.networks.network import Network, functions_of

Kind = Literal["squashed_gaussian", "gaussian"]
Bound = Callable[[jax.Array], jax.Array]

EDGE = 1 - 1e-5  # a stored action counts as at most this large where tanh is inverted, as in public code
STD = -5.0, 2.0  # bounds of the logarithm of the Gaussian's deviation, as in the public IQL code


class Init(Protocol):
    def __call__(self, key: jax.Array, obs: Any, /) -> tuple[Any, Any]:
        """Parameters and running statistics for observations like `obs` [B, ...]."""


class DistributionOf(Protocol):
    def __call__(self, params: Any, batch_stats: Any, obs: Any, train: bool, /) -> tuple[Any, Any]:
        """The parameters `d` of the distribution for each observation, and the new running statistics."""


class Sample(Protocol):
    def __call__(self, key: jax.Array, d: Any) -> tuple[jax.Array, jax.Array]:
        """Actions [B, ...] within the space of actions, and their log densities [B]."""


class LogDensity(Protocol):
    def __call__(self, d: Any, action: jax.Array) -> jax.Array:
        """The log density [B] of actions [B, ...]; of discrete actions, the logarithm of the probability."""


class Mode(Protocol):
    def __call__(self, d: Any) -> jax.Array:
        """The actions [B, ...] that are taken if nothing is drawn: the mean before it is squashed, or the likeliest."""


class Policy(NamedTuple):
    init: Init
    distribution: DistributionOf
    sample: Sample
    log_density: LogDensity
    mode: Mode


class Gaussian(nn.Module):
    """A mean and a log deviation, each computed from the features of one body."""

    body: nn.Module  # (obs, train) -> features [B, F]
    mean: nn.Module
    log_std: nn.Module
    bound: Bound  # bounds the logarithm of the deviation

    @nn.compact
    def __call__(self, obs, train: bool):
        features = self.body(obs, train)
        return self.mean(features), self.bound(self.log_std(features))


class InAllStates(nn.Module):
    """Outputs that are learned and do not depend on the features. They start at 0."""

    outputs: int

    @nn.compact
    def __call__(self, features):
        value = self.param("value", zeros, (self.outputs,))
        return jnp.broadcast_to(value, (*features.shape[:-1], self.outputs))


def of_body(kind: Kind, body: nn.Module, branch: Callable[[int], nn.Module], actions: int, bound: Bound) -> Policy:
    """A policy over vectors of so many dimensions, on a body. `branch(outputs)` makes the layers behind it.

    `bound` bounds a logarithm of the deviation that depends on the state.
    """
    if kind == "squashed_gaussian":
        module = Gaussian(body, branch(actions), branch(actions), bound)
        return Policy(*functions_of(module), sample_squashed, log_density_squashed, mode_of_mean)
    module = Gaussian(body, branch(actions), InAllStates(actions), clipped(*STD))
    return Policy(*functions_of(module), sample_gaussian, log_density_gaussian, mode_of_mean)


def categorical(network: Network) -> Policy:
    """A policy over the network's outputs, which are the logits of discrete actions."""

    def init(key: jax.Array, obs: Any) -> tuple[Any, Any]:
        trunk, heads, batch_stats = networks.init(network, key, obs, 1)
        return {"trunk": trunk, "heads": heads}, batch_stats

    def logits(params: Any, batch_stats: Any, obs: Any, train: bool) -> tuple[jax.Array, Any]:
        features, batch_stats = network.trunk(params["trunk"], batch_stats, obs, train)
        return network.heads(params["heads"], features)[0], batch_stats

    return Policy(init, logits, sample_categorical, log_density_categorical, mode_categorical)


def clipped(low: float, high: float) -> Bound:
    """Clips to the bounds. Outputs near 0 stay near 0, so training starts with a deviation near 1."""
    return lambda x: jnp.clip(x, low, high)


def squashed(low: float, high: float) -> Bound:
    """Squashes smoothly to the bounds. Outputs near 0 are mapped to the middle of the bounds."""
    return lambda x: low + 0.5 * (high - low) * (1 + jnp.tanh(x))


# The tanh of a Gaussian: d is the Gaussian's mean and log deviation, both [B, A]

MeanAndStd = tuple[jax.Array, jax.Array]


def sample_squashed(key: jax.Array, d: MeanAndStd) -> tuple[jax.Array, jax.Array]:
    """The actions are differentiable in mean and deviation. Densities stay finite where tanh is rounded to 1."""
    mean, log_std = d
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    raw = mean + jnp.exp(log_std) * noise
    return jnp.tanh(raw), jnp.sum(_normal(noise, log_std) - _log_slope(raw), axis=-1)


def log_density_squashed(d: MeanAndStd, action: jax.Array) -> jax.Array:
    mean, log_std = d
    raw = jnp.arctanh(jnp.clip(action, -EDGE, EDGE))
    return jnp.sum(_normal((raw - mean) * jnp.exp(-log_std), log_std) - _log_slope(raw), axis=-1)


def mode_of_mean(d: MeanAndStd) -> jax.Array:
    """The squashed mean, of both Gaussians."""
    return jnp.tanh(d[0])


def _normal(noise: jax.Array, log_std: jax.Array) -> jax.Array:
    """The log density of a Gaussian, so many deviations away from its mean."""
    return -0.5 * jnp.square(noise) - log_std - 0.5 * jnp.log(2 * jnp.pi)


def _log_slope(raw: jax.Array) -> jax.Array:
    """The logarithm of the slope of tanh: log(1 - tanh(raw)^2)."""
    return 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))


# A Gaussian around a squashed mean: d is the mean before it is squashed and the log deviation, both [B, A]


def sample_gaussian(key: jax.Array, d: MeanAndStd) -> tuple[jax.Array, jax.Array]:
    """A draw beyond -1 .. 1 is clipped, and its log density is that of the Gaussian there."""
    mean, log_std = mode_of_mean(d), d[1]
    action = jnp.clip(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype), -1, 1)
    return action, log_density_gaussian(d, action)


def log_density_gaussian(d: MeanAndStd, action: jax.Array) -> jax.Array:
    log_std = d[1]
    return jnp.sum(_normal((action - mode_of_mean(d)) * jnp.exp(-log_std), log_std), axis=-1)


# Discrete actions: d are logits [B, A]


def sample_categorical(key: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    action = jax.random.categorical(key, d).astype(jnp.int32)
    return action, log_density_categorical(d, action)


def log_density_categorical(d: jax.Array, action: jax.Array) -> jax.Array:
    return of_action(jax.nn.log_softmax(d), action)


def mode_categorical(d: jax.Array) -> jax.Array:
    return d.argmax(axis=-1).astype(jnp.int32)
