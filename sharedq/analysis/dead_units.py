"""Dead units: the share of hidden units that are zero on all states (Sokar et al., 2023, arXiv 2302.12902, tau = 0).

As in the public iS-DQN code, every position of a convolution's map is a unit of its own.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import Measure, check_serves, network_of, trunk_on
from sharedq.settings import require

SMALLEST = 1e-9  # added to a layer's mean activity, as in the public iS-DQN code


@dataclass(frozen=True)
class DeadUnits:
    """The share of hidden units that are zero on all of 2,048 states."""

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        check_serves("dead_units", algorithm, "loss", "source")
        activations = network_of("dead_units", algorithm).activations
        require(
            activations is not None,
            "measure 'dead_units' needs a network whose layers show their activations, as dense, convolutional, impala "
            "and simba do: choose one of them, or leave the measure out",
        )
        assert activations is not None

        def at_log(agent, batch, key):
            layers = trunk_on(algorithm, activations, agent, batch, key)
            require(
                bool(layers),
                "measure 'dead_units' finds no hidden layer: use sharedq.networks.activation.ActivationLayer in your "
                "module, or leave the measure out",
            )
            dead = [dead_in(layer) for layer in layers]
            return jnp.stack([sum(jnp.sum(one) for one in dead), sum(one.size for one in dead)])

        def summarise(arrays: np.ndarray) -> dict[str, float]:
            return {"dead_units": float(arrays[0] / arrays[1])}

        return Measure(("dead_units",), at_log=at_log, summarise=summarise)


def dead_in(layer: jax.Array) -> jax.Array:
    """Whether each unit of a layer [B, ...] is dead: its mean activity is none of the layer's."""
    activity = jnp.abs(layer.reshape(layer.shape[0], -1)).sum(axis=0)
    return activity / (activity.mean() + SMALLEST) <= 0
