"""Agreement with the data: how often the greedy action is the one that was taken."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import STATES, Measure
from sharedq.settings import require


@dataclass(frozen=True)
class Agreement:
    """The share of 2,048 states in which the greedy action is that of the data; for continuous actions the nearness.

    The nearness is 1 if the actions are the same, and 0 if each dimension is at the other bound.
    """

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        def at_log(agent, batch, key):
            sample = batch.transition
            require(
                bool(jax.tree.leaves(sample.action)),
                "measure 'agreement' compares one action of each sample, and a text has many: leave the measure out; "
                "the log's 'accuracy' is the share of tokens that the language model agrees with",
            )
            action, _ = algorithm.decide(agent, sample.obs)
            return agreement(action, sample.action)[:STATES]

        return Measure(("agreement",), at_log=at_log, summarise=lambda each: {"agreement": float(np.mean(each))})


def agreement(chosen: Any, taken: Any) -> Any:
    """How much each chosen action [B, ...] agrees with the one that was taken."""
    if jnp.issubdtype(taken.dtype, jnp.integer):
        return (chosen == taken).astype(jnp.float32)
    return 1 - jnp.abs(chosen - taken).mean(axis=-1) / 2
