"""What sources share that have several whole networks: every leaf of their parameters begins with an axis of networks.

Shape letters: N networks, B batch, A actions (or other axes of a head). Outputs can be trees of arrays.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.settings import check_count
from sharedq.targets.source import (
    CHAIN,
    Select,
    TargetSource,
    Values,
    acting_network,
    check_period,
    check_tau,
    evaluate,
    first_head,
    noisy_pair,
    predictions,
)
from sharedq.targets.target_network import TargetNetwork

Targets = Callable[[Any, jax.Array | None], Any]  # the copies' outputs [N, B, A] and a key -> the target's [B, A]

DRAW = 7_907  # folded into the key of values for what an ensemble draws, so that the noise of layers does not use it


def outputs_of_each(network: Network, params: Any, batch_stats: Any, inputs: Any) -> Any:
    """The outputs [N, B, A] of networks with one head."""

    def of_one(params, batch_stats):
        return first_head(None, None, evaluate(network, params, batch_stats, inputs))

    return jax.vmap(of_one)(params, batch_stats)


def values_of_each(
    network: Network, weights: jax.Array, params: Any, state: Any, now: Any, then: Any, key: jax.Array | None
) -> Values:
    """The values of networks, each of which bootstraps on the copy in its place. Their losses have `weights` [N]."""
    one, other = noisy_pair(network, key)
    features, predicted, selector, batch_stats = predictions_of_each(one, params, state["batch_stats"], now, then)
    inputs = now if then is None else then
    bootstrap = outputs_of_each(other, state["target_params"], state["target_batch_stats"], inputs)
    return Values(features, predicted, bootstrap, selector, weights, batch_stats)


def predictions_of_each(network: Network, params: Any, batch_stats: Any, now: Any, then: Any) -> tuple:
    """Features, outputs of now, outputs of then and running statistics, of networks with one head."""

    def of_one(params, batch_stats):
        features, predicted, selector, batch_stats = predictions(network, params, batch_stats, now, then)
        return features, first_head(None, None, predicted), first_head(None, None, selector), batch_stats

    return jax.vmap(of_one)(params, batch_stats)


def first_network(params: Any, batch_stats: Any) -> tuple[Any, Any]:
    """The `first` of a source with several networks."""
    return jax.tree.map(lambda w: w[0], (params, batch_stats))


def ensemble(network: Network, count: int, period: int, tau: float, targets: Targets, select: Select) -> TargetSource:
    """Networks that begin independently and all learn from one target, with a copy of each.

    The copies move like that of `target_network`.
    """

    def init(key, example):
        draw = jax.vmap(lambda key: networks.init(network, key, example, 1))
        trunk, heads, batch_stats = draw(jax.random.split(key, count))
        params = {"trunk": trunk, "heads": heads}
        target_params, target_stats = jax.tree.map(jnp.copy, (params, batch_stats))
        state = {"target_params": target_params, "target_batch_stats": target_stats, "batch_stats": batch_stats}
        return params, state

    def values(params, state, now, then=None, key=None):
        found = values_of_each(network, jnp.ones(count), params, state, now, then, key)
        target = targets(found.bootstrap, draw_key(key))
        return found._replace(bootstrap=jax.tree.map(lambda x: jnp.stack([x] * count), target))

    def act_values(params, state, key, inputs, noisy=False):
        outputs = outputs_of_each(acting_network(network, key, noisy), params, state["batch_stats"], inputs)
        return select(state, key, network.reading.value(outputs))

    refresh = TargetNetwork(period, tau).build(network).refresh
    return TargetSource(init, values, refresh, act_values, select, shared=(), first=first_network)


def draw_key(key: jax.Array | None) -> jax.Array | None:
    """The key for what an ensemble draws in an update."""
    return None if key is None else jax.random.fold_in(key, DRAW)


def check_ensemble(count: int, period: int, tau: float) -> None:
    """Checks the settings that every ensemble has."""
    check_count("target.networks", count, most=CHAIN)
    check_period("period", period)
    check_tau(tau)
