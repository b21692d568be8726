"""Target network: a delayed copy of the whole network (Mnih et al., 2015), or its average (Lillicrap et al., 2016)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import (
    TargetSource,
    Values,
    check_period,
    check_tau,
    evaluate,
    every,
    features_of_both,
    first_head,
    noisy_pair,
    predictions,
    towards,
    values_of,
    without_a_slow_period,
)


@dataclass(frozen=True)
class TargetNetwork:
    """A full copy of the network, which moves towards the network every `period` gradient steps."""

    period: int = 2000  # gradient steps between two refreshes of the copy
    tau: float = 1.0  # how far the copy moves: 1 copies the weights; 0.005 with period 1 is the usual slow average
    joint_batch: bool = False  # BatchNorm: normalise states and next states in one batch, in network and copy

    def __post_init__(self):
        check_period("period", self.period)
        check_tau(self.tau)

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.tau, names)

    @property
    def label(self) -> str:
        return "target network"

    def build(self, network: Network) -> TargetSource:
        values = partial(values_of_two, network, network)

        def init(key, example):
            trunk, heads, stats = networks.init(network, key, example, 1)
            params = {"trunk": trunk, "heads": heads}
            target_params, target_stats = jax.tree.map(jnp.copy, (params, stats))
            state = {"target_params": target_params, "target_batch_stats": target_stats, "batch_stats": stats}
            return params, state

        def values_of_joint_batch(params, state, now, then=None, key=None):
            one, other = noisy_pair(network, key)
            target_params, target_stats = state["target_params"], state["target_batch_stats"]
            at_now, at_then, stats = features_of_both(one, params["trunk"], state["batch_stats"], now, then)
            _, target_at_then, _ = features_of_both(other, target_params["trunk"], target_stats, now, then)
            predicted = one.heads(params["heads"], at_now)
            selector = jax.lax.stop_gradient(one.heads(params["heads"], at_then))
            bootstrap = other.heads(target_params["heads"], target_at_then)
            return Values(at_now, predicted, bootstrap, selector, jnp.ones(1), stats)

        def refresh(step, params, state, info):
            target, online = (state["target_params"], state["target_batch_stats"]), (params, info.batch_stats)
            target_params, target_stats = every(step, self.period, lambda: towards(target, online, self.tau), target)
            state = {"target_params": target_params, "target_batch_stats": target_stats}
            return params, {**state, "batch_stats": info.batch_stats}

        def act_values(params, state, key, inputs, noisy=False):
            return first_head(state, key, values_of(network, params, state["batch_stats"], inputs, key, noisy))

        chosen = values_of_joint_batch if self.joint_batch else values
        return TargetSource(init, chosen, refresh, act_values)


def values_of_two(
    network: Network, target: Network, params: Any, state: Any, now: Any, then: Any = None, key: jax.Array | None = None
) -> Values:
    """The values of a network that bootstraps on a second one, whose weights are in the source's state."""
    one, other = noisy_pair(network, key)[0], noisy_pair(target, key)[1]
    at_now, predicted, selector, stats = predictions(one, params, state["batch_stats"], now, then)
    inputs = now if then is None else then
    bootstrap = evaluate(other, state["target_params"], state["target_batch_stats"], inputs)
    return Values(at_now, predicted, bootstrap, selector, jnp.ones(1), stats)
