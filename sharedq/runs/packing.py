"""Packs arrays for a file, bit for bit: booleans as bits, and what is mostly zeros without the zeros.

An array NAME becomes the arrays `NAME:mask`, with a bit for each number that says whether it is anything but zero,
`NAME:values`, with the other numbers, and `NAME:shape`. Booleans have no values. An array that would not become much
smaller stays as it is.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

LEAST = 1024  # bytes of an array that is worth packing
WORTH = 0.75  # of the bytes of an array, which the packed one must stay below
MASK, VALUES, SHAPE = ":mask", ":values", ":shape"


def packed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by their names, with those packed that become smaller."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        found |= _packed(name, np.asarray(array)) if _may_be_packed(array) else {name: array}
    return found


def _may_be_packed(array: Any) -> bool:
    return array.nbytes >= LEAST and np.dtype(array.dtype).kind in "bfiu"


def _packed(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    flat = np.ascontiguousarray(array).reshape(-1)
    given = flat if flat.dtype == bool else flat.view(f"u{flat.itemsize}") != 0  # so that -0.0 counts as a number
    left = 0 if flat.dtype == bool else int(np.count_nonzero(given)) * flat.itemsize
    if left + flat.size / 8 + 8 * array.ndim >= WORTH * array.nbytes:
        return {name: array}
    parts: dict[str, np.ndarray] = {name + MASK: np.packbits(given), name + SHAPE: np.array(array.shape, np.int64)}
    return parts if flat.dtype == bool else {**parts, name + VALUES: flat[given]}


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as they were before `packed`. Raises `ValueError` if the parts of one do not fit each other."""
    masked = [name.removesuffix(MASK) for name in arrays if name.endswith(MASK)]
    names = [name for name in masked if name + SHAPE in arrays]
    found = {name: _unpacked(name, arrays) for name in names}
    parts = {name + part for name in names for part in (MASK, VALUES, SHAPE)}
    return {**{name: array for name, array in arrays.items() if name not in parts}, **found}


def _unpacked(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    mask, shape, values = arrays[name + MASK], arrays[name + SHAPE], arrays.get(name + VALUES)
    if mask.dtype != np.uint8 or mask.ndim != 1 or shape.dtype != np.int64 or shape.ndim != 1 or (shape < 0).any():
        raise ValueError(f"'{name}' has no mask and shape that are known here")
    size = math.prod(shape.tolist())
    if mask.size != -(-size // 8):
        raise ValueError(f"the mask of '{name}' has not the size of its shape")
    given = np.unpackbits(mask, count=size).view(bool)
    if values is None:
        return given.reshape(shape)
    if values.shape != (np.count_nonzero(given),):
        raise ValueError(f"'{name}' has {values.size} values, and its mask has another number of them")
    flat = np.zeros(size, values.dtype)
    flat[given] = values
    return flat.reshape(shape)
