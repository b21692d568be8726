"""Iterated shared Q-learning (Vincent et al., ICLR 2026): one trunk, a frozen head and a chain of K learning heads.

Head k learns from head k-1 on the same trunk; every `period` steps the heads move one place down. Head 0 lies in
the source's state and not among the parameters: nothing that moves parameters (an optimiser's momentum, weight
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
    check_polyak,
    evaluate,
    every,
    features_of_both,
    head_that_acts,
    join,
    moved_every,
    one_down,
    part,
    towards,
    weights_of,
    without_a_slow_period,
)


@dataclass(frozen=True)
class SharedHeads:
    """iS-QL: the trunk is shared by the online and the target network, only the last linear layer is doubled."""

    heads: int = 1  # K, the learning heads; 1 is a target network without its trunk, more look further ahead
    period: int = 2000  # gradient steps between two shifts of the heads
    polyak: float = 1.0  # how far a shift moves: 1 is the paper's; 0.005 with period 1 averages and never shifts
    polyak_moves: Literal["first", "chain"] = "first"  # with polyak < 1: head 0 only, or every head towards its next
    initial_heads: Literal["drawn", "copies"] = "drawn"  # K+1 columns of one layer (public code), or K+1 equal heads
    acting: str = "uniform"  # the head that acts: drawn anew at every step, mean, or a head's number
    loss_weights: tuple[float, ...] = ()  # one weight per learning head; all 1 unless given
    loss_discount: float = 1.0  # what a head's loss counts of that of the one before; 0.25 in the paper's SAC

    def __post_init__(self):
        check_chain(self.heads, "heads", self.period, self.acting, self.loss_weights, self.loss_discount)
        check_polyak(self.polyak)

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.polyak, names)

    @property
    def label(self) -> str:
        return f"shared heads K={self.heads}"

    def build(self, network: Network) -> TargetSource:
        weights = weights_of(self.loss_weights, self.loss_discount, self.heads)

        def init(key, example):
            count = 1 + self.heads if self.initial_heads == "drawn" else 1
            trunk, heads, statistics = networks.init(network, key, example, count)
            if self.initial_heads == "copies":
                heads = jax.tree.map(lambda w: jnp.repeat(w, 1 + self.heads, axis=0), heads)
            params = {"trunk": trunk, "heads": part(heads, 1, None)}
            return params, {"held": part(heads, 0, 1), "statistics": statistics}

        def values(params, state, now, then):
            at_now, at_then, statistics = features_of_both(network, params["trunk"], state["statistics"], now, then)
            chain = network.heads(jax.lax.stop_gradient(join(state["held"], params["heads"])), at_then)
            return Values(network.heads(params["heads"], at_now), chain[:-1], chain[1:], weights, statistics)

        def refresh(step, params, state, seen):
            held, heads = state["held"], params["heads"]
            held = every(step, self.period, lambda: towards(held, part(heads, 0, 1), self.polyak), held)
            return {**params, "heads": follow(step, heads)}, {"held": held, "statistics": seen.statistics}

        def follow(step, tree):
            if self.polyak < 1 and self.polyak_moves == "first":
                return tree
            return moved_every(step, self.period, lambda tree: towards(tree, one_down(tree), self.polyak), tree)

        policy = partial(head_that_acts, self.acting)

        def act_values(params, state, key, inputs):
            return policy(key, evaluate(network, params, state["statistics"], inputs))

        return TargetSource(init, values, refresh, act_values, policy, follow=follow)
