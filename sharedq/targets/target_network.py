"""The classic: a second, delayed copy of the whole network (Mnih et al., 2015; Polyak: Lillicrap et al., 2016)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import TargetSource, Values, check_period, check_polyak, every, towards


@dataclass(frozen=True)
class TargetNetwork:
    """A full copy of the network, moved towards it every `period` gradient steps."""

    period: int = 2000  # gradient steps between two moves of the copy
    polyak: float = 1.0  # how far it moves: 1 copies; 0.005 with period 1 is the usual slow average

    def __post_init__(self):
        check_period("period", self.period)
        check_polyak(self.polyak)

    def build(self, network: Network) -> TargetSource:
        def init(key, example):
            trunk, heads, statistics = networks.init(network, key, example, 1)
            params = {"trunk": trunk, "heads": heads}
            copy = jax.tree.map(jnp.copy, {**params, "statistics": statistics})
            return params, {"statistics": statistics, "copy": copy}

        def values(params, state, now, then):
            at_now, statistics = network.trunk(params["trunk"], state["statistics"], now, True)
            predicted = network.heads(params["heads"], at_now)
            return Values(
                predicted,
                jax.lax.stop_gradient(evaluate(network, state["copy"], then)),
                jax.lax.stop_gradient(evaluate(network, {**params, "statistics": statistics}, then)),
                jnp.ones(1),
                statistics,
            )

        def refresh(step, params, state, seen):
            online = {**params, "statistics": seen.statistics}
            copy = every(step, self.period, lambda: towards(state["copy"], online, self.polyak), state["copy"])
            return params, {"statistics": seen.statistics, "copy": copy}

        def act_values(params, state, key, inputs):
            return evaluate(network, {**params, "statistics": state["statistics"]}, inputs)[0]

        return TargetSource(init, values, refresh, act_values)


def evaluate(network: Network, whole, inputs) -> jax.Array:
    """A whole network's values [H, B, A]; batch normalisation by its own running statistics."""
    features, _ = network.trunk(whole["trunk"], whole["statistics"], inputs, False)
    return network.heads(whole["heads"], features)
