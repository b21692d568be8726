"""Distributions of returns on fixed atoms (Bellemare, Dabney & Munos, 2017)."""

import jax
import jax.numpy as jnp
import optax


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


def cross_entropy(probabilities: jax.Array, logits: jax.Array) -> jax.Array:
    """The cross entropy [...] between target probabilities [..., n] and predicted logits [..., n]."""
    return optax.losses.softmax_cross_entropy(logits, probabilities)
