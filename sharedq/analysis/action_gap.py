"""The action gap: how much better the best action is than the second best (Farahmand, 2011; Bellemare et al., 2016)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import STATES, Measure
from sharedq.settings import require


@dataclass(frozen=True)
class ActionGap:
    """The value of the best action minus that of the second best; the mean over 2,048 states."""

    needs_values: ClassVar = True

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        def at_log(agent, batch, key):
            values = algorithm.values(agent, key, batch.transition.obs)
            require(
                values.ndim == 2 and values.shape[1] > 1,
                "measure 'action_gap' needs an algorithm with several discrete actions: leave the measure out",
            )
            return action_gap(values[:STATES])

        return Measure(("action_gap",), at_log=at_log, summarise=lambda gaps: {"action_gap": float(np.mean(gaps))})


def action_gap(values: jax.Array) -> jax.Array:
    """The gap [B] of values [B, A]."""
    best, second = jax.lax.top_k(values, 2)[0].T
    return best - second
