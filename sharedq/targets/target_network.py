"""The classic: a second, delayed copy of the whole network (Mnih et al., 2015; Polyak: Lillicrap et al., 2016)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import (
    TargetSource,
    Values,
    check_period,
    check_polyak,
    evaluate,
    every,
    features_of_both,
    towards,
    without_a_slow_period,
)


@dataclass(frozen=True)
class TargetNetwork:
    """A full copy of the network, moved towards it every `period` gradient steps."""

    period: int = 2000  # gradient steps between two moves of the copy
    polyak: float = 1.0  # how far it moves: 1 copies; 0.005 with period 1 is the usual slow average
    joint_batch: bool = False  # batch normalisation of network and copy is by now and then together, as without a copy

    def __post_init__(self):
        check_period("period", self.period)
        check_polyak(self.polyak)

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.polyak, names)

    @property
    def label(self) -> str:
        return "target network"

    def build(self, network: Network) -> TargetSource:
        def init(key, example):
            trunk, heads, statistics = networks.init(network, key, example, 1)
            params = {"trunk": trunk, "heads": heads}
            held, held_statistics = jax.tree.map(jnp.copy, (params, statistics))
            return params, {"held": held, "held_statistics": held_statistics, "statistics": statistics}

        def values_of_joint_batch(params, state, now, then):
            held = state["held"]
            at_now, at_then, statistics = features_of_both(network, params["trunk"], state["statistics"], now, then)
            _, held_at_then, _ = features_of_both(network, held["trunk"], state["held_statistics"], now, then)
            predicted = network.heads(params["heads"], at_now)
            chooser = jax.lax.stop_gradient(network.heads(params["heads"], at_then))
            return Values(predicted, network.heads(held["heads"], held_at_then), chooser, jnp.ones(1), statistics)

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

        chosen = values_of_joint_batch if self.joint_batch else values
        return TargetSource(init, chosen, refresh, act_values)
