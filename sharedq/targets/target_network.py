"""The classic: a second, delayed copy of the whole network (Mnih et al., 2015; Polyak: Lillicrap et al., 2016)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import TargetSource, Values, check_period, check_polyak, evaluate, every, towards


@dataclass(frozen=True)
class TargetNetwork:
    """A full copy of the network, moved towards it every `period` gradient steps."""

    period: int = 2000  # gradient steps between two moves of the copy
    polyak: float = 1.0  # how far it moves: 1 copies; 0.005 with period 1 is the usual slow average

    def __post_init__(self):
        check_period("period", self.period)
        check_polyak(self.polyak)

    @property
    def label(self) -> str:
        return "target network"

    def build(self, network: Network) -> TargetSource:
        def init(key, example):
            trunk, heads, statistics = networks.init(network, key, example, 1)
            params = {"trunk": trunk, "heads": heads}
            held, held_statistics = jax.tree.map(jnp.copy, (params, statistics))
            return params, {"held": held, "held_statistics": held_statistics, "statistics": statistics}

        def values(params, state, now, then):
            at_now, statistics = network.trunk(params["trunk"], state["statistics"], now, True)
            predicted = network.heads(params["heads"], at_now)
            bootstrap = evaluate(network, state["held"], state["held_statistics"], then)
            chooser = evaluate(network, jax.lax.stop_gradient(params), statistics, then)
            return Values(predicted, bootstrap, chooser, jnp.ones(1), statistics)

        def refresh(step, params, state, seen):
            held, online = (state["held"], state["held_statistics"]), (params, seen.statistics)
            held = every(step, self.period, lambda: towards(held, online, self.polyak), held)
            return params, {"held": held[0], "held_statistics": held[1], "statistics": seen.statistics}

        def act_values(params, state, key, inputs):
            return evaluate(network, params, state["statistics"], inputs)[0]

        return TargetSource(init, values, refresh, act_values)
