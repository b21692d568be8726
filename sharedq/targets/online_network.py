"""Target-free: the bootstrap is the online network itself, its gradient stopped."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import TargetSource, Values, evaluate, features_of_both


@dataclass(frozen=True)
class OnlineNetwork:
    """Target-free: half the memory of a target network, and none of its delay."""

    @property
    def label(self) -> str:
        return "target-free"

    def build(self, network: Network) -> TargetSource:
        def init(key, example):
            trunk, heads, statistics = networks.init(network, key, example, 1)
            return {"trunk": trunk, "heads": heads}, {"held": {}, "statistics": statistics}

        def values(params, state, now, then):
            at_now, at_then, statistics = features_of_both(network, params["trunk"], state["statistics"], now, then)
            predicted = network.heads(params["heads"], at_now)
            bootstrap = jax.lax.stop_gradient(network.heads(params["heads"], at_then))
            return Values(predicted, bootstrap, bootstrap, jnp.ones(1), statistics)

        def refresh(step, params, state, seen):
            return params, {**state, "statistics": seen.statistics}

        def act_values(params, state, key, inputs):
            return evaluate(network, params, state["statistics"], inputs)[0]

        return TargetSource(init, values, refresh, act_values)
