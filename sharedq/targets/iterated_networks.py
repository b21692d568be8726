"""Iterated Q-networks (Vincent et al., TMLR 2025): a chain of K whole networks, each learning from a copy of the last.

Copies 0..K-1 are targets of networks 1..K. Every `copy_period` steps copy k takes network k's weights (copy 0
stays). Every `period` steps all copies take the network above them and the networks move one place down.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import (
    TargetSource,
    Values,
    check_chain,
    check_period,
    evaluate,
    every,
    head_that_acts,
    join,
    moved_every,
    one_down,
    part,
    weights_of,
)


@dataclass(frozen=True)
class IteratedNetworks:
    """i-QN: K networks and K copies; the memory of 2K networks, for comparison with shared heads."""

    networks: int = 5  # K, the learning networks
    period: int = 1500  # gradient steps between two shifts of the chain
    copy_period: int = 8  # gradient steps between two refreshes of the copies in between
    acting: str = "uniform"  # the network that acts: drawn anew at every step, mean, or a network's number
    loss_weights: tuple[float, ...] = ()  # one weight per network; all 1 unless given
    loss_discount: float = 1.0  # what a network's loss counts of that of the one before; 0.25 in the paper's SAC

    def __post_init__(self):
        check_chain(self.networks, "networks", self.period, self.acting, self.loss_weights, self.loss_discount)
        check_period("copy_period", self.copy_period)

    @property
    def label(self) -> str:
        return f"iterated networks K={self.networks}"

    def build(self, network: Network) -> TargetSource:
        weights = weights_of(self.loss_weights, self.loss_discount, self.networks)
        chain = jax.vmap(lambda *whole_and_inputs: evaluate(network, *whole_and_inputs)[0], in_axes=(0, 0, None))

        def init(key, example):
            trunk, heads, statistics = networks.init(network, key, example, 1)
            whole = ({"trunk": trunk, "heads": heads}, statistics)
            params, statistics = jax.tree.map(lambda w: jnp.repeat(w[None], self.networks, axis=0), whole)
            held, held_statistics = jax.tree.map(jnp.copy, (params, statistics))
            return params, {"held": held, "held_statistics": held_statistics, "statistics": statistics}

        def values(params, state, now, then):
            def learner(trunk, heads, statistics):
                features, statistics = network.trunk(trunk, statistics, now, True)
                return network.heads(heads, features)[0], statistics

            predicted, statistics = jax.vmap(learner)(params["trunk"], params["heads"], state["statistics"])
            bootstrap = chain(state["held"], state["held_statistics"], then)
            chooser = chain(jax.lax.stop_gradient(params), statistics, then)
            return Values(predicted, bootstrap, chooser, weights, statistics)

        def refresh(step, params, state, seen):
            held, online = (state["held"], state["held_statistics"]), (params, seen.statistics)

            def copied():
                return join(part(held, 0, 1), part(online, 0, -1))

            def shifted():
                return one_down(online), online

            held = every(step, self.copy_period, copied, held)
            (params, statistics), held = every(step, self.period, shifted, (online, held))
            return params, {"held": held[0], "held_statistics": held[1], "statistics": statistics}

        policy = partial(head_that_acts, self.acting)

        def act_values(params, state, key, inputs):
            return policy(key, chain(params, state["statistics"], inputs))

        def follow(step, tree):
            return moved_every(step, self.period, one_down, tree)

        return TargetSource(init, values, refresh, act_values, policy, shared=(), follow=follow)
