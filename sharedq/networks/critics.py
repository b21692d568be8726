"""Turns networks into critics: networks of an observation and an action, and ensembles of them.

Shape letters: H heads, B batch, C critics, F features, A outputs of one head.
"""

import jax
import jax.numpy as jnp

from sharedq.networks.convolution import as_features
from sharedq.networks.network import Network
from sharedq.networks.normalisation import flat


def of_pairs(network: Network) -> Network:
    """The same network for inputs (observations, actions), which are concatenated."""

    def joined(pair):
        return jnp.concatenate([flat(as_features(part)) for part in pair], axis=-1)

    def init_trunk(key, example):
        return network.init_trunk(key, joined(example))

    def trunk(params, batch_stats, inputs, train):
        return network.trunk(params, batch_stats, joined(inputs), train)

    of_pairs = network._replace(init_trunk=init_trunk, trunk=trunk)
    of_joined = network.activations
    if of_joined is None:
        return of_pairs

    def activations(params, batch_stats, inputs, train):
        return of_joined(params, batch_stats, joined(inputs), train)

    return of_pairs._replace(activations=activations)


def ensemble(network: Network, critics: int) -> Network:
    """Several independent networks as one: features [B, C, F], heads [H, C, ...] and outputs [H, B, C, A]."""

    def init_trunk(key, example):
        draw = jax.vmap(lambda key: network.init_trunk(key, example), axis_size=critics)
        return draw(jax.random.split(key, critics))

    def trunk(params, batch_stats, inputs, train):
        def one(params, batch_stats):
            return network.trunk(params, batch_stats, inputs, train)

        return jax.vmap(one, out_axes=(1, 0), axis_size=critics)(params, batch_stats)

    def init_heads(key, features, count):
        of_one = jax.ShapeDtypeStruct((features.shape[0], *features.shape[2:]), features.dtype)
        draw = jax.vmap(lambda key: network.init_heads(key, of_one, count), out_axes=1)
        return draw(jax.random.split(key, critics))

    def heads(params, features):
        return jax.vmap(network.heads, in_axes=(1, 1), out_axes=2)(params, features)

    whole = network._replace(init_trunk=init_trunk, trunk=trunk, init_heads=init_heads, heads=heads)
    of_one = network.activations
    if of_one is None:
        return whole

    def activations(params, batch_stats, inputs, train):
        layers = jax.vmap(lambda *own: of_one(own[0], own[1], inputs, train), axis_size=critics)(params, batch_stats)
        return [layer[critic] for layer in layers for critic in range(critics)]

    return whole._replace(activations=activations)
