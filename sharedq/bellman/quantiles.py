"""Quantiles of returns (Dabney et al., 2018)."""

import jax
import jax.numpy as jnp

from sharedq.bellman import losses


def midpoints(count: int) -> jax.Array:
    """The shares of the distribution [count] that lie below each quantile: (i + 1/2) / count."""
    return (jnp.arange(count) + 0.5) / count


def huber(quantiles: jax.Array, returns: jax.Array, masses: jax.Array, bend: float = 1.0) -> jax.Array:
    """The quantile Huber loss [...] of quantiles [..., n], given returns [..., m] with probability masses [..., m].

    It is the mean over returns and the sum over quantiles, as in the paper.
    """
    below = returns[..., None, :] - quantiles[..., :, None]  # [..., n, m], positive where the quantile is too low
    shares = midpoints(quantiles.shape[-1])[:, None]
    weight = jnp.abs(shares - (below < 0))
    return jnp.einsum("...nm,...m->...", weight * losses.huber(below, bend) / bend, masses, precision="highest")
