"""The effective rank of the features (srank; Kumar et al., 2021, https://arxiv.org/abs/2010.14498)."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import STATES, Measure, check_serves, network_of, trunk_on

DELTA = 0.01  # the share of the singular values' sum that may be missing


@dataclass(frozen=True)
class Rank:
    """The effective rank of the last hidden layer's features, on 2,048 states; the mean over critics."""

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        check_serves("rank", algorithm, "loss", "source")
        network = network_of("rank", algorithm)

        def at_log(agent, batch, key):
            features, _ = trunk_on(algorithm, network.trunk, agent, batch, key)
            features = jax.tree.leaves(features)[-1]  # of a tree of layers, the last one
            return features.reshape(features.shape[0], -1, features.shape[-1])[:STATES]  # [B, critics, features]

        def summarise(arrays: np.ndarray) -> dict[str, float]:
            return {"rank": float(np.mean([srank(one) for one in arrays.swapaxes(0, 1)]))}

        return Measure(("rank",), at_log=at_log, summarise=summarise)


def srank(features: np.ndarray, delta: float = DELTA) -> float:
    """The smallest number of singular values of features [B, F] whose sum is 1 - delta of the sum of all.

    It is nan if the features are not finite, as they are once learning has diverged.
    """
    if not np.isfinite(features).all():
        return np.nan
    # The squares of the singular values, at a tenth of the time. Rounding reaches only values 1e-8 times the largest.
    own = features.astype(np.float64)
    squares = np.linalg.eigvalsh(own.T @ own)[::-1]
    sums = np.sqrt(np.maximum(squares, 0)).cumsum()
    return int(np.argmax(sums >= (1 - delta) * sums[-1])) + 1
