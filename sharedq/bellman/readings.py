"""How the outputs of a network are read: as a value, or as a distribution of returns.

A reading is a record of functions that every source and algorithm can be given. A distribution becomes a target in
three steps: it is written as returns with probability masses, every return is backed up, and what comes out is turned
into a target for the loss. A backup is one elementwise function of a return, whatever the reading is.

Shape letters: B batch, n outputs of a value, m returns.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.bellman import categorical, losses, quantiles

Kind = Literal["scalar", "categorical", "quantile", "hl_gauss"]


class Reading(NamedTuple):
    """Functions of outputs [..., *shape]."""

    shape: tuple[int, ...]  # the axes of the outputs of one value: none, or (n,)
    value: Callable  # (outputs) -> [...], the expected return
    atoms: Callable  # (outputs) -> returns [..., m] and their masses [..., m]; leading axes that are all alike may lack
    target: Callable  # (returns [..., m], masses [..., m]) -> a target, which is an array or a tree
    loss: Callable  # (outputs, target) -> [...]
    average: Callable  # (outputs [N, ..., *shape]) -> outputs [..., *shape] of the mean of N values or distributions
    backs_up_means: bool = False  # whether only the expected return is backed up, so that `atoms` gives one return


def _expected(returns: jax.Array, masses: jax.Array) -> jax.Array:
    return jnp.sum(returns * masses, axis=-1)


def scalar(loss: Callable = losses.squared) -> Reading:
    """One output is the expected return. `loss` is a function of the error."""
    return Reading(
        shape=(),
        value=lambda outputs: outputs,
        atoms=lambda outputs: (outputs[..., None], jnp.ones(1, outputs.dtype)),
        target=_expected,
        loss=lambda outputs, target: loss(outputs - target),
        average=lambda outputs: outputs.mean(axis=0),
        backs_up_means=True,
    )


SCALAR = scalar()  # also the reading of networks whose outputs no algorithm reads as distributions


def _average_of_logits(logits: jax.Array) -> jax.Array:
    """The logits of the mean of N distributions, from logits [N, ..., n]."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))


def distribution(low: float, high: float, atoms: int) -> Reading:
    """Logits of evenly spaced returns from `low` to `high` (C51). The loss is the cross entropy."""
    support = jnp.linspace(low, high, atoms)

    def as_atoms(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.broadcast_to(support, logits.shape[-2:]), jax.nn.softmax(logits)  # the same returns for all heads

    return Reading(
        shape=(atoms,),
        value=lambda logits: categorical.mean(logits, support),
        atoms=as_atoms,
        target=lambda returns, masses: categorical.projected(returns, masses, support),
        loss=lambda logits, target: categorical.cross_entropy(target, logits),
        average=_average_of_logits,
    )


def quantile(count: int) -> Reading:
    """Quantiles of the return (QR-DQN). The loss is the quantile Huber loss."""
    return Reading(
        shape=(count,),
        value=lambda outputs: outputs.mean(axis=-1),
        atoms=lambda outputs: (outputs, jnp.full(count, 1 / count, outputs.dtype)),
        target=lambda returns, masses: (returns, jnp.broadcast_to(masses, returns.shape)),
        loss=lambda outputs, target: quantiles.huber(outputs, *target),
        average=lambda outputs: outputs.mean(axis=0),
    )


def hl_gauss(low: float, high: float, bins: int) -> Reading:
    """Logits of bins from `low` to `high`, whose target is a Gaussian around the expected return (HL-Gauss).

    The distribution describes no chance of the return: only its mean is backed up.
    """
    edges = jnp.linspace(low, high, bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def value(logits: jax.Array) -> jax.Array:
        return categorical.mean(logits, centres)

    return Reading(
        shape=(bins,),
        value=value,
        atoms=lambda logits: (value(logits)[..., None], jnp.ones(1, logits.dtype)),
        target=lambda returns, masses: categorical.smeared(_expected(returns, masses), edges),
        loss=lambda logits, target: categorical.cross_entropy(target, logits),
        average=_average_of_logits,
        backs_up_means=True,
    )


def distance(reading: Reading, outputs: jax.Array, fixed: jax.Array) -> jax.Array:
    """The loss [...] of outputs whose target are what other outputs say, both [..., *shape]."""
    return reading.loss(outputs, reading.target(*reading.atoms(fixed)))


def of_kind(kind: Kind, atoms: int, bound: float, loss: Callable = losses.squared) -> Reading:
    """The reading of this name. `atoms` counts returns, quantiles or bins; returns lie in -bound .. bound."""
    return {
        "scalar": lambda: scalar(loss),
        "categorical": lambda: distribution(-bound, bound, atoms),
        "quantile": lambda: quantile(atoms),
        "hl_gauss": lambda: hl_gauss(-bound, bound, atoms),
    }[kind]()
