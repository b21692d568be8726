"""Iterated Q-networks (Vincent et al., TMLR 2025): a chain of whole networks, with copies as targets.

Network k learns from copy k-1, for k of 1 to K. Every `copy_period` steps, copy k takes the weights of network k, and
copy 0 stays as it is. Every `period` steps, each copy takes the weights of the network above it, and the networks move
one place down.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.several_networks import first_network, outputs_of_each, values_of_each
from sharedq.targets.source import (
    TargetSource,
    acting_network,
    check_chain,
    check_period,
    every,
    join,
    noisy_pair,
    one_down,
    part,
    select_head,
    weights_of,
)
from sharedq.trees import moved_every


@dataclass(frozen=True)
class IteratedNetworks:
    """i-QN: K networks and K copies. It needs the memory of 2K networks; it is here to compare with shared heads."""

    networks: int = 5  # K, the number of networks that learn
    period: int = 1500  # gradient steps between two shifts of the chain
    copy_period: int = 8  # gradient steps between two refreshes of copies 1 to K-1
    behaviour_head: str = "uniform"  # network that acts: uniform (a random one), mean (of all), or a number
    loss_weights: tuple[float, ...] = ()  # weight of each network's loss; all are 1 by default
    loss_discount: float = 1.0  # network k's loss has weight loss_discount^(k-1); 0.25 in the paper's SAC

    def __post_init__(self):
        check_chain(self.networks, "networks", self.period, self.behaviour_head, self.loss_weights, self.loss_discount)
        check_period("copy_period", self.copy_period)

    @property
    def label(self) -> str:
        return f"iterated networks K={self.networks}"

    def build(self, network: Network) -> TargetSource:
        weights = weights_of(self.loss_weights, self.loss_discount, self.networks)

        def init(key, example):
            trunk, heads, batch_stats = networks.init(network, key, example, 1)
            whole = ({"trunk": trunk, "heads": heads}, batch_stats)
            params, batch_stats = jax.tree.map(lambda w: jnp.repeat(w[None], self.networks, axis=0), whole)
            target_params, target_stats = jax.tree.map(jnp.copy, (params, batch_stats))
            state = {"target_params": target_params, "target_batch_stats": target_stats, "batch_stats": batch_stats}
            return params, state

        def values(params, state, now, then=None, key=None):
            return values_of_each(network, weights, params, state, now, then, key)

        def live_bootstrap(params, state, then, key=None):
            other = noisy_pair(network, key)[1]
            frozen = part((state["target_params"], state["target_batch_stats"]), 0, 1)
            online = part((params, state["batch_stats"]), None, -1)
            return join(*(outputs_of_each(other, one[0], one[1], then) for one in (frozen, online)))

        def refresh(step, params, state, info):
            target, online = (state["target_params"], state["target_batch_stats"]), (params, info.batch_stats)

            def copied():
                return join(part(target, 0, 1), part(online, 0, -1))

            def shifted():
                return one_down(online), online

            target = every(step, self.copy_period, copied, target)
            (params, stats), (target_params, target_stats) = every(step, self.period, shifted, (online, target))
            state = {"target_params": target_params, "target_batch_stats": target_stats, "batch_stats": stats}
            return params, state

        select = partial(select_head, self.behaviour_head)

        def act_values(params, state, key, inputs, noisy=False):
            outputs = outputs_of_each(acting_network(network, key, noisy), params, state["batch_stats"], inputs)
            return select(state, key, network.reading.value(outputs))

        def follow(step, tree):
            return moved_every(step, self.period, one_down, tree)

        return TargetSource(
            init,
            values,
            refresh,
            act_values,
            select,
            shared=(),
            follow=follow,
            first=first_network,
            live_bootstrap=live_bootstrap,
            frozen_heads=1,
        )
