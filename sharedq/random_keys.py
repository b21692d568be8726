"""Random keys are derived from a name and a step, never split in sequence.

A stream is the seed's root key folded with a name; a draw is the stream folded with the step at which it is
made. So no key has to be carried from step to step, adding a stream does not disturb the others, and a
resumed run draws what the unbroken one would have drawn.
"""

from zlib import crc32

import jax


def root(seed: jax.Array | int) -> jax.Array:
    """The key from which all keys of one seed of a run are derived."""
    return jax.random.key(seed)


def named(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream `name`, derived from `key`."""
    return jax.random.fold_in(key, crc32(name.encode()))


def at(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The key of the stream `key` at `step`."""
    return jax.random.fold_in(key, step)
