"""REDQ (Chen et al., 2021): the target is the smallest value of a random few of N independent networks' copies.

The few are drawn at every update, for the whole batch. All networks learn from the one target. The agent follows their
mean. The paper makes 20 gradient steps for each environment step, which is a setting of the training
(`--training.gradient_steps 20`), and has one such ensemble in the place of SAC's two critics (`--algorithm.critics 1`).
"""

from dataclasses import dataclass
from functools import partial

import jax

from sharedq.networks.network import Network
from sharedq.settings import require
from sharedq.targets.several_networks import check_ensemble, ensemble
from sharedq.targets.source import TargetSource, part, select_head, smallest, without_a_slow_period


@dataclass(frozen=True)
class REDQ:
    """The smallest value of a random few of many networks' copies. All networks learn, and their mean acts."""

    networks: int = 10  # N, the number of networks that learn
    subset: int = 2  # M, how many copies are drawn at each update; all of them is the minimum of all
    period: int = 1  # gradient steps between two moves of the copies
    tau: float = 0.005  # how far the copies move; 1 copies the weights

    def __post_init__(self):
        check_ensemble(self.networks, self.period, self.tau)
        require(
            1 <= self.subset <= self.networks,
            f"target.subset must lie in 1 .. target.networks, which is {self.networks}, not {self.subset}",
        )

    def handed_on(self, names: set[str]) -> set[str]:
        return without_a_slow_period(self.tau, names)

    @property
    def label(self) -> str:
        return f"redq N={self.networks} M={self.subset}"

    def build(self, network: Network) -> TargetSource:
        def targets(outputs, key):
            """Without a key these are the first few copies."""
            if key is None or self.subset == self.networks:
                return smallest(network.reading, part(outputs, 0, self.subset))
            drawn = jax.random.permutation(key, self.networks)[: self.subset]
            return smallest(network.reading, jax.tree.map(lambda x: x[drawn], outputs))

        return ensemble(network, self.networks, self.period, self.tau, targets, partial(select_head, "mean"))
