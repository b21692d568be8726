"""MINTO (Hendawy et al., 2025): the target is the smaller one of the target network's and the online network's value.

So the newest values take part in the target, and a value that is too large does not. There is no new setting. How
distributions are compared is ours: the one with the smaller mean is taken.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.targets.source import TargetSource, check_period, check_tau, smallest, without_a_slow_period
from sharedq.targets.target_network import TargetNetwork


@dataclass(frozen=True)
class Minto:
    """Of the target network's value and the online network's, the smaller one, for every next state and action."""

    period: int = 2000  # gradient steps between two refreshes of the target network
    tau: float = 1.0  # how far the target network moves: 1 copies the weights; 0.005 with period 1 is a slow average

    def __post_init__(self):
        check_period("period", self.period)
        check_tau(self.tau)

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.tau, names)

    @property
    def label(self) -> str:
        return "minto"

    def build(self, network: Network) -> TargetSource:
        lagging = TargetNetwork(self.period, self.tau).build(network)  # its selector is the online network at then

        def values(params, state, now, then=None, key=None):
            found = lagging.values(params, state, now, then, key)
            both = jax.tree.map(lambda *two: jnp.stack(two), found.bootstrap, found.selector)
            return found._replace(bootstrap=smallest(network.reading, both))

        return lagging._replace(values=values)
