"""Functional regularisation (Piché et al., 2022): target-free, with a penalty on moving away from a lagging copy.

The bootstrap is the online network's own value. What a target network does otherwise, to slow down the values, is a
term of the loss here: strength * (Q(s, a) - Q'(s, a))^2, where Q' is a copy of the network that is refreshed every
`period` gradient steps. So how old the targets are and how slowly values move are two settings.

The term is that of a scalar value with a squared loss. For other losses and for distributions it is the algorithm's own
loss with Q' as the target, which is ours. We do not know the paper's strength and period.
"""

from dataclasses import dataclass

from sharedq.networks.network import Network
from sharedq.settings import require
from sharedq.targets.online_network import OnlineNetwork
from sharedq.targets.source import TargetSource, check_period, evaluate, noisy_pair
from sharedq.targets.target_network import TargetNetwork


@dataclass(frozen=True)
class FunctionalRegularisation:
    """Target-free, but a term of the loss draws the predictions towards those of a lagging copy."""

    strength: float = 1.0  # kappa, the weight of the term (0.1 .. 3); 0 is target-free
    period: int = 2000  # gradient steps between two refreshes of the copy

    def __post_init__(self):
        require(self.strength >= 0, f"target.strength cannot be negative, and is {self.strength}")
        check_period("period", self.period)

    @property
    def label(self) -> str:
        return "functional regularisation"

    def build(self, network: Network) -> TargetSource:
        lagging, online = TargetNetwork(self.period).build(network), OnlineNetwork().build(network)

        def values(params, state, now, then=None, key=None):
            one, _ = noisy_pair(network, key)  # the noise of the predictions, so that right after a copy both agree
            anchor = evaluate(one, state["target_params"], state["target_batch_stats"], now)
            found = online.values(params, state, now, then, key)
            return found._replace(anchor=anchor, anchor_weight=self.strength)

        return lagging._replace(values=values, anchored=True)
