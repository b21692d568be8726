"""Sizes of a whole tree of arrays, or of shapes."""

from typing import Any

import jax


def count(shapes: Any) -> int:
    """The number of entries of all arrays."""
    return sum(x.size for x in jax.tree.leaves(shapes))


def size(shapes: Any) -> int:
    """The bytes of all arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
