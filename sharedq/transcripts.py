"""Where an agent writes in the text of an episode, and what follows each token that it writes.

The text of an episode is a sequence of tokens. Behind a token that opens an action the agent writes, token by token, up
to the token that closes the action. What the environment answers lies between. A *decision* is a position behind which
the agent wrote a token. The value of position p is that of the text up to p, and Q(p, x) is the value of writing x
next. Nothing is decided within an answer, so behind the last token of an action the next position is the one where
the next action opens.

Shape letters: B texts, T tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.environments.spec import Tokens


class Decisions(NamedTuple):
    """Every array is [B, T]. What is said of an action holds where `decides` is true, and means nothing elsewhere."""

    decides: jax.Array  # bool: the agent wrote the token that follows
    action: jax.Array  # int32: the token that follows
    closes: jax.Array  # bool: that token closes the action
    last: jax.Array  # bool: that token is the last one of the text that the agent wrote
    next: jax.Array  # int32: the next position where the agent writes, or could write at the end of the text
    seen: jax.Array  # bool: the position holds a token, and no padding


def decisions(form: Tokens, tokens: jax.Array) -> Decisions:
    """The decisions in texts [B, T], which are padded on the right."""
    tokens = tokens.astype(jnp.int32)
    seen = tokens != form.pad
    opened = jnp.cumsum(jnp.isin(tokens, jnp.array(form.opens)), axis=1)
    closed = jnp.cumsum(tokens == form.closes, axis=1)
    writes = seen & (opened > closed)  # the agent writes the next token, if there is one
    action = jnp.concatenate([tokens[:, 1:], jnp.full_like(tokens[:, :1], form.pad)], axis=1)
    decides = writes & (action != form.pad) & (action != form.ends)
    closes = decides & (action == form.closes)
    last = decides & (closed == closed[:, -1:] - 1) & closes
    place = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    far = tokens.shape[1] - 1
    # The first position behind p where the agent writes.
    at_or_behind = jax.lax.cummin(jnp.where(writes, place, far), axis=1, reverse=True)
    next_place = jnp.concatenate([at_or_behind[:, 1:], jnp.full_like(place[:, :1], far)], axis=1)
    return Decisions(decides, action, closes, last, next_place, seen)


def at(positions: jax.Array, values: Any) -> Any:
    """The values [..., B, T] at other positions [B, T] of the same texts."""
    return jnp.take_along_axis(values, jnp.broadcast_to(positions, values.shape), axis=-1)
