"""Iterated shared Q-learning (Vincent et al., ICLR 2026): one trunk, a frozen head and a chain of K learning heads.

Head k learns from head k-1 on the same trunk, and every `period` steps the heads move one place down. Head 0 lies in
the source's state and not among the parameters. So nothing that changes parameters (an optimiser's momentum, weight
decay, clipping, a projection) can reach it, and the optimiser holds no moments for it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import (
    TargetSource,
    Values,
    check_chain,
    check_tau,
    every,
    features_of_both,
    join,
    noisy_pair,
    one_down,
    part,
    select_head,
    towards,
    values_of,
    weights_of,
    without_a_slow_period,
)
from sharedq.trees import moved_every


@dataclass(frozen=True)
class SharedHeads:
    """iS-QL: the online and the target network share the trunk, and only the last linear layer is doubled."""

    heads: int = 1  # K, the number of heads that learn; with 1 only the target's last layer is a delayed copy
    period: int = 2000  # gradient steps between two shifts of the heads
    tau: float = 1.0  # 1 shifts whole heads, as in the paper; 0.005 with period 1 is a slow average instead
    tau_moves: Literal["first", "chain"] = "first"  # if tau < 1: average head 0 only, or every head with its next
    initial_heads: Literal["drawn", "copies"] = "drawn"  # random, as columns of one layer (public code), or all equal
    behaviour_head: str = "uniform"  # head that acts: uniform (a random one), mean (of all), or a number
    loss_weights: tuple[float, ...] = ()  # weight of each learning head's loss; all are 1 by default
    loss_discount: float = 1.0  # head k's loss has weight loss_discount^(k-1); 0.25 in the paper's SAC

    def __post_init__(self):
        check_chain(self.heads, "heads", self.period, self.behaviour_head, self.loss_weights, self.loss_discount)
        check_tau(self.tau)

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.tau, names)

    @property
    def label(self) -> str:
        return f"shared heads K={self.heads}"

    def build(self, network: Network) -> TargetSource:
        weights = weights_of(self.loss_weights, self.loss_discount, self.heads)

        def init(key, example):
            count = 1 + self.heads if self.initial_heads == "drawn" else 1
            trunk, heads, batch_stats = networks.init(network, key, example, count)
            if self.initial_heads == "copies":
                heads = jax.tree.map(lambda w: jnp.repeat(w, 1 + self.heads, axis=0), heads)
            params = {"trunk": trunk, "heads": part(heads, 1, None)}
            return params, {"target_params": part(heads, 0, 1), "batch_stats": batch_stats}

        def values(params, state, now, then=None, key=None):
            one, other = noisy_pair(network, key)
            at_now, at_then, stats = features_of_both(one, params["trunk"], state["batch_stats"], now, then, other)
            all_heads = jax.lax.stop_gradient(join(state["target_params"], params["heads"]))
            chain = other.heads(all_heads, at_then)
            predicted = one.heads(params["heads"], at_now)
            return Values(at_now, predicted, part(chain, None, -1), part(chain, 1, None), weights, stats)

        def live_bootstrap(params, state, then, key=None):
            other = noisy_pair(network, key)[1]
            features, _ = other.trunk(params["trunk"], state["batch_stats"], then, False)
            frozen = other.heads(state["target_params"], jax.lax.stop_gradient(features))
            return join(frozen, part(other.heads(params["heads"], features), None, -1))

        def refresh(step, params, state, info):
            head_0, heads = state["target_params"], params["heads"]
            head_0 = every(step, self.period, lambda: towards(head_0, part(heads, 0, 1), self.tau), head_0)
            params = {**params, "heads": follow(step, heads)}
            return params, {"target_params": head_0, "batch_stats": info.batch_stats}

        def follow(step, tree):
            if self.tau < 1 and self.tau_moves == "first":
                return tree
            return moved_every(step, self.period, lambda tree: towards(tree, one_down(tree), self.tau), tree)

        select = partial(select_head, self.behaviour_head)

        def act_values(params, state, key, inputs, noisy=False):
            return select(state, key, values_of(network, params, state["batch_stats"], inputs, key, noisy))

        return TargetSource(
            init, values, refresh, act_values, select, follow=follow, live_bootstrap=live_bootstrap, frozen_heads=1
        )
