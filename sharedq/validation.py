"""Converts a given value to the wanted array or path, or raises an error that says why this is not possible."""

import os
import reprlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sharedq.errors import NotFinite, SharedqError

NO_NUMBERS = "cmMSUT"  # kinds that a cast would take: complex by half, times as counts, texts as what they spell


def path(given: Any, what: str) -> Path:
    """The path that a text or another path names."""
    if not isinstance(given, (str, os.PathLike)):
        raise SharedqError(f"{what} must be a path, not {_shown(given)}")
    return Path(given)


def numbers(given: Any, wanted: Any, what: str, largest: float | None = None, or_batch: bool = False) -> np.ndarray:
    """An array with the shape and dtype of `wanted`. Floats must be finite and at most `largest`.

    With `or_batch` the array may also be a batch [N, *shape]. Nothing that is right already is copied: the answer may
    be the array that was given.
    """
    form = f"numbers of shape {wanted.shape}" if wanted.shape else "one number"
    form += " or a batch of them" * or_batch
    try:
        array = np.asarray(given)
        if array.dtype.kind in NO_NUMBERS:
            raise TypeError
        with np.errstate(over="ignore", invalid="ignore"):  # what a cast changes is found below
            found = array.astype(wanted.dtype, copy=False)
    except (TypeError, ValueError, OverflowError):
        raise SharedqError(f"{what} must be {form}, not {_shown(given)}") from None
    if found.shape != wanted.shape and not (or_batch and found.size and found.shape[1:] == wanted.shape):
        raise SharedqError(f"{what} must be {form}, not of shape {found.shape}")
    whole = found.dtype.kind in "biu"
    if whole and found is array:
        return found
    if whole:
        right = found == array
    elif largest is None:
        right = np.isfinite(found)
    else:
        right = np.abs(found) <= largest
    if right.all():
        return found
    entry = tuple(np.argwhere(~right)[0])
    where = f"{what}[{', '.join(map(str, entry))}]" if entry else what
    error = SharedqError if whole else NotFinite
    raise error(f"{where} is {array[entry]}: it must be {_bounds(found.dtype, largest)}")


def _shown(given: Any) -> str:
    return " ".join(reprlib.repr(given).split())  # that of an array may have several lines


def _bounds(dtype: np.dtype, largest: float | None) -> str:
    if dtype.kind == "b":
        return "0 or 1"
    if dtype.kind in "iu":
        return f"a whole number between {np.iinfo(dtype).min} and {np.iinfo(dtype).max}"
    bound = float(jnp.finfo(dtype).max) if largest is None else largest
    return f"a number between {-bound:g} and {bound:g}"
