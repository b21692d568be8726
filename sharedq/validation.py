"""Converts a given value to the wanted array, or raises an error that says why this is not possible."""

import reprlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from sharedq.errors import NotFinite, SharedqError

NO_NUMBERS = "cmMSUT"  # kinds that a cast would take: complex by half, times as counts, texts as what they spell


def numbers(given: Any, wanted: Any, what: str, largest: float | None = None) -> np.ndarray:
    """An array with the shape and dtype of `wanted`. Floats must be finite and at most `largest`.

    Nothing that is right already is copied: the answer may be the array that was given.
    """
    form = f"numbers of shape {wanted.shape}" if wanted.shape else "one number"
    try:
        array = np.asarray(given)
        if array.dtype.kind in NO_NUMBERS:
            raise TypeError
        with np.errstate(over="ignore", invalid="ignore"):  # what a cast changes is found below
            found = array.astype(wanted.dtype, copy=False)
    except (TypeError, ValueError, OverflowError):
        shown = " ".join(reprlib.repr(given).split())  # an array's may have several lines
        raise SharedqError(f"{what} must be {form}, not {shown}") from None
    if found.shape != wanted.shape:
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


def _bounds(dtype: np.dtype, largest: float | None) -> str:
    if dtype.kind == "b":
        return "0 or 1"
    if dtype.kind in "iu":
        return f"a whole number between {np.iinfo(dtype).min} and {np.iinfo(dtype).max}"
    bound = float(jnp.finfo(dtype).max) if largest is None else largest
    return f"a number between {-bound:g} and {bound:g}"
