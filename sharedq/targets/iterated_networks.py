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
from sharedq.targets.source import (
    TargetSource,
    Values,
    acting_network,
    check_chain,
    check_period,
    evaluate,
    every,
    first_head,
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

        def chain(network, params, batch_stats, inputs):
            """The outputs of each network, [K, B, A]."""

            def of_one(params, batch_stats):
                return first_head(None, None, evaluate(network, params, batch_stats, inputs))

            return jax.vmap(of_one)(params, batch_stats)

        def init(key, example):
            trunk, heads, batch_stats = networks.init(network, key, example, 1)
            whole = ({"trunk": trunk, "heads": heads}, batch_stats)
            params, batch_stats = jax.tree.map(lambda w: jnp.repeat(w[None], self.networks, axis=0), whole)
            target_params, target_stats = jax.tree.map(jnp.copy, (params, batch_stats))
            state = {"target_params": target_params, "target_batch_stats": target_stats, "batch_stats": batch_stats}
            return params, state

        def values(params, state, now, then=None, key=None):
            one, other = noisy_pair(network, key)

            def predict(trunk, heads, stats):
                features, stats = one.trunk(trunk, stats, now, True)
                return features, first_head(None, None, one.heads(heads, features)), jax.lax.stop_gradient(stats)

            features, predicted, stats = jax.vmap(predict)(params["trunk"], params["heads"], state["batch_stats"])
            inputs = now if then is None else then
            bootstrap = chain(other, state["target_params"], state["target_batch_stats"], inputs)
            if then is None:
                selector = jax.lax.stop_gradient(predicted)
            else:
                selector = chain(one, jax.lax.stop_gradient(params), stats, then)
            return Values(features, predicted, bootstrap, selector, weights, stats)

        def live(params, state, then, key=None):
            other = noisy_pair(network, key)[1]
            frozen = part((state["target_params"], state["target_batch_stats"]), 0, 1)
            online = part((params, state["batch_stats"]), None, -1)
            return join(chain(other, frozen[0], frozen[1], then), chain(other, online[0], online[1], then))

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
            outputs = chain(acting_network(network, key, noisy), params, state["batch_stats"], inputs)
            return select(state, key, network.reading.value(outputs))

        def follow(step, tree):
            return moved_every(step, self.period, one_down, tree)

        def first(params, batch_stats):
            return jax.tree.map(lambda w: w[0], (params, batch_stats))

        return TargetSource(
            init, values, refresh, act_values, select, shared=(), follow=follow, first=first, live=live, frozen=1
        )
