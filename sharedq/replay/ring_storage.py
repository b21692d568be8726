"""A ring buffer on the device. Its items are any pytree, and it is written in place when the caller donates it.

The ring does not know how much has been written; the training loop counts the steps, outside the axis of seeds, and
passes the count. Boolean arrays are stored as bits, so MinAtar images take an eighth of the memory and the checkpoint.
"""

from typing import Any

import jax
import jax.numpy as jnp

PACKED_FROM = 8  # boolean items with at least this many entries are packed; single flags are not


def init(item: Any, capacity: int) -> Any:
    """A ring of zeros with room for `capacity` items like `item`."""

    def room(leaf):
        stored = jax.eval_shape(_encode, jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype))
        return jnp.zeros((capacity, *stored.shape[1:]), stored.dtype)

    return jax.tree.map(room, item)


def write(ring: Any, start: jax.Array, items: Any) -> Any:
    """Writes items [N, ...] to the places start .. start+N-1, which must lie within the ring."""

    def put(data, new):
        return jax.lax.dynamic_update_slice_in_dim(data, _encode(new), start, axis=0)

    return jax.tree.map(put, ring, items)


def read(ring: Any, places: jax.Array, item: Any) -> Any:
    """Reads the items at `places` (of any shape), each like `item`."""
    return jax.tree.map(lambda data, like: decode(data[places], like), ring, item)


def is_packed(item: Any) -> bool:
    """Whether items like this are stored as bits."""
    return item.dtype == jnp.bool_ and item.size >= PACKED_FROM


def _encode(items: jax.Array) -> jax.Array:
    if not is_packed(jax.ShapeDtypeStruct(items.shape[1:], items.dtype)):
        return items
    return jnp.packbits(items.reshape(items.shape[0], -1), axis=-1)


def decode(stored: jax.Array, item: Any) -> jax.Array:
    """The items, each like `item`, from the form in which they are stored."""
    if not is_packed(item):
        return stored
    bits = jnp.unpackbits(stored, axis=-1, count=item.size)
    return bits.astype(jnp.bool_).reshape(*stored.shape[:-1], *item.shape)
