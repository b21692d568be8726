"""Target churn: how far one gradient step moves the targets, by itself and without a refresh of the source.

The target of the first head is computed before and after the step, for the same transitions, the same policy and the
same copies of weights. So the churn of a target network is zero. It is the mean of the absolute differences.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import Measure, UpdateInfo, check_serves
from sharedq.transitions import Batch


@dataclass(frozen=True)
class TargetChurn:
    """How far a gradient step moves the targets of the batch it learned from, and of another batch."""

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        check_serves("target_churn", algorithm, "loss", "learn")
        loss = algorithm.loss
        assert loss is not None

        def churn(info: UpdateInfo, batch: Batch) -> jax.Array:
            before, after = (
                loss(agent.params, info.before, batch, info.key)[1].targets[0] for agent in (info.before, info.after)
            )
            return jnp.abs(after - before).mean()

        def at_update(kept: Any, info: UpdateInfo) -> dict[str, jax.Array]:
            return {"target_churn": churn(info, info.batch), "target_churn_other": churn(info, info.other)}

        return Measure(("target_churn", "target_churn_other"), at_update)
