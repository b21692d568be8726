"""Functions of whole trees of arrays, or of shapes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def count(shapes: Any) -> int:
    """The number of entries of all arrays."""
    return sum(x.size for x in jax.tree.leaves(shapes))


def size(shapes: Any) -> int:
    """The bytes of all arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def moved_every(step: jax.Array, period: int, move: Callable, tree: Any) -> Any:
    """`move(tree)` at every `period`-th step, else the tree. It is a loop of one turn or none; a branch would copy.

    The barrier keeps the compiler from computing in front of the loop, and so at every step, what depends on leaves
    that `move` leaves as they are.
    """

    def turn(number: jax.Array, tree: Any) -> Any:
        return move(jax.lax.optimization_barrier((number, tree))[1])

    return jax.lax.fori_loop(0, jnp.int32(step % period == 0), turn, tree)
