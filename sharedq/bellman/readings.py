"""Two ways to read a critic's outputs: as a value, or as a distribution of returns.

An algorithm has one backup, an elementwise function of a return, and both readings take it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sharedq.bellman import categorical, losses


class Reading(NamedTuple):
    """Functions of outputs [..., outputs]. A target has the same axes as outputs."""

    outputs: int  # number of outputs that a head needs
    value: Callable  # (outputs) -> [...], the expected return
    target: Callable  # (outputs [..., B, n], backup) -> target; backup maps returns [..., B, n] to returns
    loss: Callable  # (outputs, target) -> [...]


def scalar() -> Reading:
    """One output: the expected return. The loss is the squared error."""
    return Reading(
        outputs=1,
        value=lambda outputs: outputs[..., 0],
        target=lambda outputs, backup: backup(outputs),
        loss=lambda outputs, target: losses.squared(outputs - target)[..., 0],
    )


def distribution(low: float, high: float, atoms: int) -> Reading:
    """Logits of evenly spaced returns from `low` to `high`. The loss is the cross entropy."""
    support = jnp.linspace(low, high, atoms)

    def target(logits: jax.Array, backup: Callable) -> jax.Array:
        returns = backup(jnp.broadcast_to(support, logits.shape[-2:]))  # [B, atoms], the same for all heads
        return categorical.projected(returns, jax.nn.softmax(logits), support)

    return Reading(
        outputs=atoms,
        value=lambda logits: categorical.mean(logits, support),
        target=target,
        loss=lambda logits, target: categorical.cross_entropy(target, logits),
    )
