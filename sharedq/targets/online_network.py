"""Target-free: the online network bootstraps on itself, with the gradient stopped."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.targets.source import TargetSource, Values, evaluate, features_of_both, first_head, noisy_pair, values_of


@dataclass(frozen=True)
class OnlineNetwork:
    """Target-free: no target network. It needs half the memory of a target network and has none of its delay."""

    @property
    def label(self) -> str:
        return "target-free"

    def build(self, network: Network) -> TargetSource:
        def init(key, example):
            trunk, heads, batch_stats = networks.init(network, key, example, 1)
            return {"trunk": trunk, "heads": heads}, {"target_params": {}, "batch_stats": batch_stats}

        def values(params, state, now, then=None, key=None):
            one, other = noisy_pair(network, key)
            at_now, at_then, stats = features_of_both(one, params["trunk"], state["batch_stats"], now, then, other)
            predicted = one.heads(params["heads"], at_now)
            bootstrap = jax.lax.stop_gradient(other.heads(params["heads"], at_then))
            return Values(at_now, predicted, bootstrap, bootstrap, jnp.ones(1), stats)

        def live_bootstrap(params, state, then, key=None):
            return evaluate(noisy_pair(network, key)[1], params, state["batch_stats"], then)

        def refresh(step, params, state, info):
            return params, {**state, "batch_stats": info.batch_stats}

        def act_values(params, state, key, inputs, noisy=False):
            return first_head(state, key, values_of(network, params, state["batch_stats"], inputs, key, noisy))

        return TargetSource(init, values, refresh, act_values, live_bootstrap=live_bootstrap)
