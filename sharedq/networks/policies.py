"""Policies over bounded continuous actions: a Gaussian, squashed by tanh to -1 .. 1 in every dimension.

Shape letters: B batch, A dimensions of an action.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.network import functions_of

LARGEST_LOG_STD = 2.0


class Policy(NamedTuple):
    init: Callable  # (key, obs [B, ...]) -> params, statistics
    gaussian: Callable  # (params, statistics, obs [B, ...], train) -> (mean [B, A], log_std [B, A]), statistics


class Gaussian(nn.Module):
    """A mean and a deviation, each read from one body's features."""

    body: nn.Module  # (obs, train) -> features [B, F]
    mean: nn.Module
    log_std: nn.Module
    smallest_log_std: float

    @nn.compact
    def __call__(self, obs, train: bool):
        features = self.body(obs, train)
        return self.mean(features), bounded(self.log_std(features), self.smallest_log_std, LARGEST_LOG_STD)


def policy_of(module: Gaussian) -> Policy:
    return Policy(*functions_of(module))


def bounded(x: jax.Array, low: float, high: float) -> jax.Array:
    """Every number between two bounds, smoothly."""
    return low + 0.5 * (high - low) * (1 + jnp.tanh(x))


def sample(key: jax.Array, mean: jax.Array, log_std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Actions [B, A] in -1 .. 1, differentiable by mean and deviation, and the logarithms [B] of their densities."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    raw = mean + jnp.exp(log_std) * noise
    return jnp.tanh(raw), _log_density(raw, noise, log_std)


def log_density(raw: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """The logarithm [B] of the density of the action tanh(raw). It stays finite where tanh(raw) is rounded to 1."""
    return _log_density(raw, (raw - mean) * jnp.exp(-log_std), log_std)


def _log_density(raw: jax.Array, noise: jax.Array, log_std: jax.Array) -> jax.Array:
    normal = -0.5 * jnp.square(noise) - log_std - 0.5 * jnp.log(2 * jnp.pi)
    log_slope = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))  # of tanh: log(1 - tanh(raw)^2)
    return jnp.sum(normal - log_slope, axis=-1)
