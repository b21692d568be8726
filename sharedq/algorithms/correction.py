"""Gradient corrections of Q-learning: QRC, and Gi-DQN for a chain of heads (https://arxiv.org/abs/2603.07833).

The gradient of plain Q-learning leaves out that the target y depends on the weights too. With further linear heads h,
which estimate the expected error E[y - Q(s, a)] from the features, the missing part can be added without a second
sample of the next state:

    gradient of the loss of a head  =  2 ( -(y - Q) grad Q  +  h grad y  +  (h - (y - Q)) grad h )

The features of h have no gradient, so h learns by itself. With h = 0 this is the gradient of plain Q-learning. The
decay of h's weights is the regularisation of QRC. A head whose target is frozen has no correction.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sharedq.bellman import backups
from sharedq.settings import require
from sharedq.targets.source import TargetSource, Values


def check(source: TargetSource) -> None:
    """Raises if there is nothing to correct with this source."""
    require(
        source.live_bootstrap is not None and source.network is not None,
        "algorithm.gradient_correction needs the gradient of the targets, which three sources give: add --target "
        "online_network, shared_heads or iterated_networks",
    )
    assert source.network is not None
    require(
        not source.network.normalises_batch,
        "algorithm.gradient_correction cannot be used with normalisation by the batch: add --network.norm layer",
    )


def init(source: TargetSource, key: jax.Array, values: Values) -> Any:
    """The heads h for features of these shapes."""
    heads, features = values.weights.size - source.frozen_heads, values.features
    require(
        heads > 0,
        "algorithm.gradient_correction has nothing to correct with one head, whose target is frozen: raise "
        "--target.heads (of iterated_networks --target.networks) to 2",
    )
    network = source.network
    assert network is not None
    if not _shared(source):
        features = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), features)
    return network.init_heads(key, features, heads)


def _shared(source: TargetSource) -> bool:
    """Whether all heads have the same features."""
    return "trunk" in source.shared


def errors(source: TargetSource, params: Any, features: Any, action: jax.Array) -> jax.Array:
    """The estimates h(s, a) [H, B] of each head's error; they are 0 for heads without a correction."""
    network, features, frozen = source.network, jax.lax.stop_gradient(features), source.frozen_heads
    assert network is not None
    if _shared(source):
        values = network.heads(params, features)
    else:
        own = jax.tree.map(lambda x: x[frozen:], features)
        values = jax.vmap(lambda h, x: network.heads(jax.tree.map(lambda w: w[None], h), x)[0])(params, own)
    found = backups.of_action(values, action[frozen:])
    return jnp.concatenate([jnp.zeros((frozen, *found.shape[1:]), found.dtype), found])


def loss(predicted: jax.Array, target: jax.Array, estimate: jax.Array) -> jax.Array:
    """The squared error [H, B] of Q and y, whose gradient is the corrected one; `estimate` is h."""
    stop = jax.lax.stop_gradient
    error = target - predicted
    slope = 2 * (-predicted * stop(error) + target * stop(estimate) + estimate * stop(estimate - error))
    return slope + stop(jnp.square(error) - slope)
