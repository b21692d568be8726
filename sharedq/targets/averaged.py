"""Averaged DQN (Anschel et al., 2017): the target is the mean value of the last N snapshots of the network.

The snapshots lie in a ring. Every `period` gradient steps the network takes the place of the oldest one. At the start
all are the network as it was drawn. How distributions are averaged is ours: the target is the mixture of categorical
distributions, or has the mean of every quantile.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.settings import check_count
from sharedq.targets.several_networks import outputs_of_each
from sharedq.targets.source import CHAIN, TargetSource, Values, check_period, noisy_pair, predictions
from sharedq.targets.target_network import TargetNetwork
from sharedq.trees import moved_every


@dataclass(frozen=True)
class Averaged:
    """The mean of the last snapshots of the network. It varies less than the value of one target network."""

    snapshots: int = 10  # N, the number of snapshots; 1 is a target network
    period: int = 2000  # gradient steps between two snapshots

    def __post_init__(self):
        check_count("target.snapshots", self.snapshots, most=CHAIN)
        check_period("period", self.period)

    @property
    def label(self) -> str:
        return f"averaged N={self.snapshots}"

    def build(self, network: Network) -> TargetSource:
        lagging = TargetNetwork(self.period).build(network)

        def init(key, example):
            params, state = lagging.init(key, example)
            taken = state["target_params"], state["target_batch_stats"]
            ring, of_ring = jax.tree.map(lambda w: jnp.repeat(w[None], self.snapshots, axis=0), taken)
            return params, {**state, "target_params": ring, "target_batch_stats": of_ring}

        def values(params, state, now, then=None, key=None):
            one, other = noisy_pair(network, key)
            features, predicted, selector, stats = predictions(one, params, state["batch_stats"], now, then)
            inputs = now if then is None else then
            each = outputs_of_each(other, state["target_params"], state["target_batch_stats"], inputs)
            bootstrap = jax.tree.map(lambda x: network.reading.average(x)[None], each)
            return Values(features, predicted, bootstrap, selector, jnp.ones(1), stats)

        def refresh(step, params, state, info):
            place = step // self.period % self.snapshots

            def taken(ring):
                return jax.tree.map(lambda kept, w: kept.at[place].set(w), ring, (params, info.batch_stats))

            ring = state["target_params"], state["target_batch_stats"]
            ring, of_ring = moved_every(step, self.period, taken, ring)
            return params, {"target_params": ring, "target_batch_stats": of_ring, "batch_stats": info.batch_stats}

        return lagging._replace(init=init, values=values, refresh=refresh)
