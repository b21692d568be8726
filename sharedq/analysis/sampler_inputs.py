"""What samplers ask of an algorithm: how many estimates of a value it has, and the features of its inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import trunk_on
from sharedq.settings import require
from sharedq.transitions import Batch


def estimates_of(algorithm: Algorithm, agent: Any, batch: Batch) -> int:
    """How many TD errors an update has of a transition, for an agent and a batch of these shapes."""
    update = algorithm.update
    assert update is not None
    key = jax.eval_shape(random_keys.root, 0)
    return jax.eval_shape(update, agent, batch, key, jax.ShapeDtypeStruct((), jnp.int32))[1].shape[0]


def features_of(
    sampler: str, algorithm: Algorithm, agent: Any, batch: Batch
) -> tuple[Callable[[Any, Batch], jax.Array], int]:
    """The features [B, D] of a batch in the last hidden layer of the first head that learns, and D.

    They are those of states, and where critics read actions too, of both.
    """
    network = None if algorithm.source is None else algorithm.source.network
    require(
        algorithm.loss is not None and network is not None,
        f"sampler '{sampler}' needs an algorithm with a loss and a network, as dqn and sac have: choose one of them",
    )
    assert network is not None

    def features(agent: Any, batch: Batch) -> jax.Array:
        found, _ = trunk_on(algorithm, network.trunk, agent, batch, random_keys.root(0))
        last = jax.tree.leaves(found)[-1]  # of a tree of layers, the last one
        return last.reshape(last.shape[0], -1)

    return features, jax.eval_shape(features, agent, batch).shape[1]
