"""Maxmin Q-learning (Lan et al., 2020): the target is the smallest value of the copies of N independent networks.

Every update, one network learns, which is drawn at random: the losses of the others have the weight 0. The agent
follows the smallest value of the networks that learn. More networks give smaller targets.

The optimiser is one for all networks, which is ours. So Adam's momentum still moves a network in the updates in which
another one learns, and its moments decay. In the public code, each network has an optimiser of its own.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.targets.several_networks import check_ensemble, draw_key, ensemble
from sharedq.targets.source import TargetSource, smallest, without_a_slow_period


@dataclass(frozen=True)
class Maxmin:
    """The smallest value of the copies of several networks, of which a random one learns at each update."""

    networks: int = 4  # N, the number of networks that learn; 1 is a target network
    period: int = 2000  # gradient steps between two refreshes of the copies
    tau: float = 1.0  # how far the copies move: 1 copies the weights; 0.005 with period 1 is a slow average

    def __post_init__(self):
        check_ensemble(self.networks, self.period, self.tau)

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.tau, names)

    @property
    def label(self) -> str:
        return f"maxmin N={self.networks}"

    def build(self, network: Network) -> TargetSource:
        def targets(outputs, key):
            return smallest(network.reading, outputs)

        def select(state, key, values):
            return jax.tree.map(lambda x: x.min(axis=0), values)

        every = ensemble(network, self.networks, self.period, self.tau, targets, select)

        def weights(key):
            """Those [N] of the losses. Without a key all networks learn, each with the weight of a mean."""
            if key is None:
                return jnp.full(self.networks, 1 / self.networks)
            return jax.nn.one_hot(jax.random.randint(key, (), 0, self.networks), self.networks)

        def values(params, state, now, then=None, key=None):
            return every.values(params, state, now, then, key)._replace(weights=weights(draw_key(key)))

        return every._replace(values=values)
