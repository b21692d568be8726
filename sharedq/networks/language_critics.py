"""Critics that read text: a language model's body, hidden layers for each critic, and linear heads over the tokens.

As in the public ILQL code, each critic has two layers behind the body: a hidden one, twice as wide as the body, and a
linear one with an output for each token. Only the linear one is multiplied where a source has several heads, so the
hidden layers belong to the trunk. The value V has the same two layers, and reads the body of the critics.

Shape letters: B texts, T tokens of a text, F features of the body, G of a hidden layer, C critics, H heads, V tokens of
the vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.networks.gpt2 import LanguageModel
from sharedq.networks.network import Network


class Text(NamedTuple):
    """What the critics read. With a key there is dropout, which is the same in all networks of a source."""

    tokens: Any  # [B, T]
    key: Any = None


class Features(NamedTuple):
    body: Any  # [B, T, F]
    hidden: Any  # [B, T, C, G] of each critic


def critics(model: LanguageModel, width: int, vocabulary: int, count: int) -> Network:
    """So many critics on the body of a language model of this width; they return [H, B, T, C, V]."""

    def init_trunk(key: jax.Array, example: Text) -> tuple[Any, Any]:
        body_key, hidden_key = jax.random.split(key)
        hidden = jax.vmap(lambda key: layer(key, width, 2 * width))(jax.random.split(hidden_key, count))
        return {"body": model.init(body_key), "hidden": hidden}, {}

    def trunk(params: Any, batch_stats: Any, inputs: Text, train: bool) -> tuple[Features, Any]:
        body = model.features(params["body"], inputs.tokens, inputs.key)
        return hidden_features(params, body), batch_stats

    def init_heads(key: jax.Array, features: Features, number: int) -> Any:
        keys = jax.random.split(key, (number, count))
        return jax.vmap(jax.vmap(lambda key: layer(key, 2 * width, vocabulary)))(keys)

    def activations(params: Any, batch_stats: Any, inputs: Text, train: bool) -> list[jax.Array]:
        """The hidden layer of each critic. Activations within GPT-2 are smooth, and no unit of them is ever off."""
        return [trunk(params, batch_stats, inputs, train)[0].hidden]

    return Network(init_trunk, trunk, init_heads, token_values, activations=activations)


def hidden_features(trunk: Any, body: jax.Array) -> Features:
    """The features of the critics at positions [...], given the body's features [..., F] there."""
    hidden = trunk["hidden"]
    return Features(body, jax.nn.relu(jnp.einsum("...f,cfg->...cg", body, hidden["kernel"]) + hidden["bias"]))


def token_values(heads: Any, features: Features) -> jax.Array:
    """The values [H, ..., C, V] of all tokens at positions [...]."""

    def one(head: Any) -> jax.Array:
        return jnp.einsum("...cg,cgv->...cv", features.hidden, head["kernel"]) + head["bias"]

    return jax.vmap(one)(heads)


class Value(NamedTuple):
    """The value V of a text so far."""

    init: Callable  # (key, heads) -> params, with heads on the first axis of params["heads"]
    of: Callable  # (params, body [..., F] or [H, ..., F] of several networks, several) -> [H, ...]


def value(width: int) -> Value:
    """V on the features of a body of this width."""

    def init(key: jax.Array, heads: int) -> Any:
        hidden_key, heads_key = jax.random.split(key)
        last = jax.vmap(lambda key: layer(key, 2 * width, 1))(jax.random.split(heads_key, heads))
        return {"hidden": layer(hidden_key, width, 2 * width), "heads": last}

    def of(params: Any, body: jax.Array, several: bool) -> jax.Array:
        hidden = jax.nn.relu(body @ params["hidden"]["kernel"] + params["hidden"]["bias"])

        def one(head: Any, hidden: jax.Array) -> jax.Array:
            return (hidden @ head["kernel"] + head["bias"])[..., 0]

        return jax.vmap(one, in_axes=(0, 0 if several else None))(params["heads"], hidden)

    return Value(init, of)


def layer(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """A linear layer, whose weights are drawn uniformly within 1 / sqrt(inputs), as PyTorch does in the public code."""
    kernel_key, bias_key = jax.random.split(key)
    bound = inputs**-0.5
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound),
    }
