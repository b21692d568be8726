"""A target network that follows the online network quickly at first and slowly later."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.settings import require
from sharedq.targets import TargetNetwork


@dataclass(frozen=True)
class YoungAverage:
    """A slow average of the network; its rate falls from 1 to a final value."""

    final_tau: float = 0.005  # how far the average moves at each gradient step, in the end

    def __post_init__(self):
        require(0 < self.final_tau <= 1, f"target.final_tau must be above 0 and at most 1, not {self.final_tau}")

    @property
    def label(self) -> str:
        return "young average"

    def build(self, network):
        def refresh(step, params, state, info):
            tau = jnp.maximum(self.final_tau, 1 / step)
            target = (state["target_params"], state["target_batch_stats"])
            online = (params, info.batch_stats)
            average = jax.tree.map(lambda old, new: old + tau * (new - old), target, online)
            names = ("target_params", "target_batch_stats")
            return params, {**dict(zip(names, average, strict=True)), "batch_stats": info.batch_stats}

        return TargetNetwork().build(network)._replace(refresh=refresh)
