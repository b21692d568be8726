"""Policies over bounded continuous actions: a Gaussian, squashed by tanh to -1 .. 1 in every dimension.

Shape letters: B batch, A dimensions of an action.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.network import functions_of

Bound = Callable[[jax.Array], jax.Array]


class Policy(NamedTuple):
    init: Callable  # (key, obs [B, ...]) -> params, batch_stats
    gaussian: Callable  # (params, batch_stats, obs [B, ...], train) -> (mean [B, A], log_std [B, A]), batch_stats


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


def policy_of(module: Gaussian) -> Policy:
    return Policy(*functions_of(module))


def clipped(low: float, high: float) -> Bound:
    """Clips to the bounds. Outputs near 0 stay near 0, so training starts with a deviation near 1."""
    return lambda x: jnp.clip(x, low, high)


def squashed(low: float, high: float) -> Bound:
    """Squashes smoothly to the bounds. Outputs near 0 are mapped to the middle of the bounds."""
    return lambda x: low + 0.5 * (high - low) * (1 + jnp.tanh(x))


def sample(key: jax.Array, mean: jax.Array, log_std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Actions [B, A] in -1 .. 1, differentiable in mean and deviation, and their log densities [B]."""
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    raw = mean + jnp.exp(log_std) * noise
    return jnp.tanh(raw), _log_density(raw, noise, log_std)


def log_density(raw: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """The log density [B] of the action tanh(raw). It stays finite even where tanh(raw) is rounded to 1."""
    return _log_density(raw, (raw - mean) * jnp.exp(-log_std), log_std)


def _log_density(raw: jax.Array, noise: jax.Array, log_std: jax.Array) -> jax.Array:
    normal = -0.5 * jnp.square(noise) - log_std - 0.5 * jnp.log(2 * jnp.pi)
    log_slope = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))  # of tanh: log(1 - tanh(raw)^2)
    return jnp.sum(normal - log_slope, axis=-1)
