"""How an agent writes: token by token, with what the networks computed of the text so far kept in a cache.

A text is read by one or several language models at once. `start` reads the texts, and gives scores of the tokens that
can follow, and a memory. `extend` reads one more token of each text.

Shape letters: N texts, T tokens of a text, L tokens of an action, V tokens of the vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharedq import random_keys
from sharedq.environments.spec import EnvironmentSpec, Tokens
from sharedq.errors import SharedqError
from sharedq.networks.gpt2 import GPT2, LanguageModel
from sharedq.networks.policies import log_density_categorical
from sharedq.settings import require
from sharedq.transcripts import Decisions
from sharedq.transitions import Batch


def check_training(spec: EnvironmentSpec, training: Any) -> None:
    """Raises if text would be learned from while it is written."""
    require(
        not isinstance(spec.actions, Tokens) or training.learns_from == "data",
        "text is learned from in whole episodes of a data set: add --training offline --replay dataset --data FOLDER "
        "('sharedq data wordle' makes one)",
    )


PARTS = 100_000  # ours: the largest number of parts of a batch


def in_parts(of_part: Callable, batch: Batch, key: jax.Array, count: int) -> tuple[Any, Any]:
    """Runs `of_part(batch, key) -> gradient, told` on so many parts of a batch, one after another in memory.

    It returns the mean gradient, and what was told of each part, with the parts as the first axis.
    """
    size = len(batch.weights)
    require(
        size % count == 0,
        f"algorithm.accumulate is {count}, which does not divide replay.batch_size {size}: choose a divisor",
    )
    if count == 1:
        slope, told = of_part(batch, key)
        return slope, jax.tree.map(lambda x: x[None], told)
    cut = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)

    def one(slopes: Any, given: tuple[Batch, jax.Array]) -> tuple[Any, Any]:
        slope, told = of_part(*given)
        return jax.tree.map(jnp.add, slopes, slope), told

    shapes, _ = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], cut), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    slopes, told = jax.lax.scan(one, zeros, (cut, jax.random.split(key, count)))
    return jax.tree.map(lambda x: x / count, slopes), told


class Reader(NamedTuple):
    start: Callable  # (tokens [N, T], lengths [N]) -> scores [N, V], memory
    extend: Callable  # (memory, token [N]) -> scores [N, V], memory


def tokens_of(spec: EnvironmentSpec, network: Any, who: str) -> tuple[Tokens, GPT2]:
    """The form of the text and the settings of the language model, or an error that says what would fit."""
    if not isinstance(spec.actions, Tokens):
        raise SharedqError(
            f"{who} writes text, and the actions of '{spec.name}' are none: choose --environment wordle, or an "
            "algorithm for these actions, such as iql or bc"
        )
    if not isinstance(network, GPT2):
        raise SharedqError(f"{who} needs a language model: add --network gpt2")
    longest = spec.observation.shape[0]
    require(
        network.positions >= longest,
        f"network.positions is {network.positions}, and a text of '{spec.name}' has up to {longest} tokens: raise it",
    )
    return spec.actions, network


def write(form: Tokens, reader: Reader, tokens: jax.Array, key: jax.Array | None) -> jax.Array:
    """The actions [N, L] that are written behind texts. Without a key the token with the largest score is taken.

    A text [T] has room for the action, because the whole episode fits into it.

    An action ends with the token that closes it, and is padded behind it, or it has used up its length.
    """

    def chosen(scores: jax.Array, done: jax.Array, place: Any) -> tuple[jax.Array, jax.Array]:
        scores = scores.at[:, form.pad].set(-jnp.inf)
        likeliest = scores.argmax(axis=-1)
        token = likeliest if key is None else jax.random.categorical(random_keys.at(key, place), scores)
        token = jnp.where(done, form.pad, token).astype(jnp.int32)
        return token, done | (token == form.closes)

    def one(carry: tuple[Any, Any, jax.Array], place: jax.Array):
        scores, memory, done = carry
        token, done = chosen(scores, done, place)
        return (*reader.extend(memory, token), done), token

    scores, memory = reader.start(tokens, (tokens != form.pad).sum(axis=1))
    places, done = jnp.arange(form.length - 1), jnp.zeros(len(tokens), bool)
    (scores, _, done), written = jax.lax.scan(one, (scores, memory, done), places)
    last, _ = chosen(scores, done, form.length - 1)
    return jnp.concatenate([written.T, last[:, None]], axis=1)


def policy_reader(model: LanguageModel, params: Any) -> Reader:
    """Reads with the language model that imitates the data; the scores are log probabilities."""

    def scored(found: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        features, cache = found
        return jax.nn.log_softmax(model.logits(params, features)), cache

    return Reader(
        lambda tokens, lengths: scored(model.start(params, tokens, lengths)),
        lambda cache, token: scored(model.extend(params, cache, token)),
    )


def written_behind(form: Tokens, tokens: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The texts [W, T] with actions [W, L] written behind them, and the places [W, L] before each written token."""
    lengths = (tokens != form.pad).sum(axis=1, keepdims=True)
    place = jnp.arange(tokens.shape[1]) - lengths  # in the action
    written = jnp.take_along_axis(action, place.clip(0, form.length - 1), axis=1)
    texts = jnp.where((place >= 0) & (place < form.length), written, tokens.astype(action.dtype))
    return texts, lengths - 1 + jnp.arange(form.length)


def log_probabilities(
    model: LanguageModel, params: Any, texts: jax.Array, places: jax.Array, action: jax.Array
) -> jax.Array:
    """The log probability [W, L] of each token of actions, given the texts and places of `written_behind`."""
    features = jnp.take_along_axis(model.features(params, texts), places[..., None], axis=1)
    return log_density_categorical(model.logits(params, features), action)


def imitation(
    model: LanguageModel, params: Any, tokens: jax.Array, found: Decisions, weights: jax.Array, key: Any
) -> tuple[jax.Array, jax.Array]:
    """The loss of imitating what was written, and the share of tokens that the model holds for the likeliest.

    As in the public code, the cross entropies of all written tokens are divided by the number of all tokens. Texts have
    `weights` [B].
    """
    logits = model.logits(params, model.features(params, tokens, key))
    log_probability = log_density_categorical(logits, found.action)
    seen, decides = found.seen * weights[:, None], found.decides * weights[:, None]
    right = (logits.argmax(axis=-1) == found.action) * decides
    return -(log_probability * decides).sum() / seen.sum(), right.sum() / jnp.maximum(decides.sum(), 1)
