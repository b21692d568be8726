"""Distributions of returns on fixed atoms (Bellemare, Dabney & Munos, 2017) or in bins (Imani & White, 2018)."""

import jax
import jax.numpy as jnp
import optax

SMEAR = 0.75  # the deviation of HL-Gauss in widths of a bin (Farebrother et al., 2024)


def mean(logits: jax.Array, support: jax.Array) -> jax.Array:
    """The mean return of a distribution, from logits [..., n] and its atoms [n]."""
    return jax.nn.softmax(logits) @ support


def projected(atoms: jax.Array, probabilities: jax.Array, support: jax.Array) -> jax.Array:
    """The distribution of `probabilities` on `atoms`, both [..., n], projected onto the evenly spaced `support` [m].

    The mass of an atom goes to the two nearest points of the support, and the nearer one gets more. So the total mass
    is kept, and within the support the mean is kept too. The mass of an atom outside goes to the nearest end.
    """
    spacing = (support[-1] - support[0]) / (support.size - 1)
    atoms = jnp.clip(atoms, support[0], support[-1])
    shares = jnp.clip(1 - jnp.abs(atoms[..., None] - support) / spacing, 0, 1)  # [..., n, m]
    # A product of matrices: XLA's CPU compiler takes 9 to 19 ms for the sum of 256 x 101 x 101, and 1 ms for this.
    return jnp.einsum("...n,...nm->...m", probabilities, shares, precision="highest")


def smeared(value: jax.Array, edges: jax.Array) -> jax.Array:
    """The masses [..., n] of a Gaussian around each value [...] in the bins between `edges` [n + 1].

    Its deviation is `SMEAR` widths of a bin, and what lies outside of the edges is left out (Imani & White, 2018). A
    value beyond the edges counts as one on them.
    """
    value = jnp.clip(value, edges[0], edges[-1])
    width = (edges[-1] - edges[0]) / (edges.size - 1)
    below = jax.scipy.stats.norm.cdf((edges - value[..., None]) / (SMEAR * width))
    return jnp.diff(below) / (below[..., -1:] - below[..., :1])


def cross_entropy(probabilities: jax.Array, logits: jax.Array) -> jax.Array:
    """The cross entropy [...] between target probabilities [..., n] and predicted logits [..., n]."""
    return optax.losses.softmax_cross_entropy(logits, probabilities)
