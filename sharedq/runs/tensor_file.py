"""A pytree of arrays in one safetensors file, bit for bit.

The format: eight bytes with the length of a JSON header, the header (name -> dtype, shape, place), the arrays one
after another. It is written here by hand because one pass can then write and hash the arrays from where they lie;
any safetensors reader reads it. A leaf is named by its path ("params/dense/kernel"). A typed random key is stored
as its words, and its kind under its name in the header's `__metadata__`.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import old_names
from sharedq.errors import SharedqError
from sharedq.json_files import check_form, parse_json
from sharedq.runs.durable import write_synced
from sharedq.runs.packing import packed, unpacked

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
}
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it

CODES = {dtype: code for code, dtype in _DTYPES.items()}


def write(path: Path, tree: Any, packs: bool = False) -> dict:
    """Writes and syncs `tree`; its size and checksum. With `packs`, what is mostly zeros takes less room."""
    hashed, size = hashlib.sha256(), 0

    def heard() -> Iterator[memoryview]:
        nonlocal size
        for chunk in chunks(tree, packs):
            hashed.update(chunk)
            size += len(chunk)
            yield chunk

    write_synced(path, heard())
    return {"bytes": size, "sha256": hashed.hexdigest()}


def chunks(tree: Any, packs: bool = False) -> Iterator[memoryview]:
    """The bytes of the file, from where the arrays lie.

    Unless it packs, the same tree of the same shapes has the same header.
    """
    arrays, kinds = {}, {}
    for name, leaf in named_leaves(tree).items():
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            raise TypeError(f"a checkpoint holds arrays only, '{name}' is a {type(leaf).__name__}")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            kinds[name], leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
        if leaf.dtype not in CODES:
            raise TypeError(f"a checkpoint cannot hold '{name}' of dtype {leaf.dtype}")
        arrays[name] = leaf
    arrays = packed(arrays) if packs else arrays
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))  # so each array begins aligned
    header: dict[str, Any] = {"__metadata__": kinds}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": CODES[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():  # one at a time comes from the device
        yield np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def read_header(content: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays in a file's bytes, as views on them, and the texts of its `__metadata__`.

    Raises `ValueError` for what the safetensors library refuses: arrays that overlap, leave gaps or lie outside the
    file, names that stand there twice, sizes that do not fit their shapes.
    """
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    if len(content) < 8 or start > len(content) or start - 8 > LONGEST_HEADER:
        raise ValueError("its header does not lie in the file")
    try:
        header = parse_json(content[8:start].tobytes(), {str: Any}, "the header", "it is refused")
    except SharedqError as error:
        raise ValueError(str(error)) from None
    texts = header.pop("__metadata__", None) or {}
    check_form(texts, {str: str}, "__metadata__")
    check_form(header, {str: {"dtype": str, "shape": [int], "data_offsets": [int]}})
    arrays, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in _DTYPES or any(size < 0 for size in shape) or len(places) != 2:
            raise ValueError(f"'{name}' has no dtype, shape and place that are known here")
        if places != [end, end + math.prod(shape) * _DTYPES[dtype].itemsize]:
            raise ValueError(f"'{name}' does not lie where the array before it ends, or its size is not its shape's")
        if start + places[1] > len(content):
            raise ValueError(f"'{name}' ends behind the end of the file")
        array = content[start + end : start + places[1]].view(_DTYPES[dtype])
        if dtype == "BOOL" and (array.view(np.uint8) > 1).any():
            raise ValueError(f"'{name}' holds what is neither true nor false")
        arrays[name], end = _shaped(name, array, shape), places[1]
    if start + end != len(content):
        raise ValueError("the file is longer or shorter than its arrays")
    return arrays, texts


def _shaped(name: str, array: np.ndarray, shape: list[int]) -> np.ndarray:
    try:
        return np.require(array, requirements="A").reshape(shape)
    except (ValueError, OverflowError):  # no elements, in a shape that is too large or has too many axes for NumPy
        raise ValueError(f"'{name}' has a shape that no array can have") from None


def read_arrays(content: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays in a file's bytes by their names of now."""
    return _by_current_names(unpacked(read_header(content)[0]))


def restore(content: np.ndarray, like: Any) -> Any:
    """The tree in a file's bytes, which have been verified, in the structure of `like`.

    A leaf that is a numpy array in `like` comes back as one, every other as a jax array. The numpy
    ones are copies, because one small view would keep the bytes of a whole replay. A tree that does not fit raises
    `SharedqError` with what differs, to be completed by the caller who knows the file. A random key whose kind the file
    does not tell, because another program wrote it anew, is of the kind that `like` has.
    """
    arrays, kinds = read_header(content)
    arrays = unpacked(arrays)
    wanted = named_leaves(like)
    if wanted.keys() - arrays.keys():  # saved by 0.1.0
        arrays, kinds = _by_current_names(arrays), _by_current_names(kinds)
    for names, where in ((wanted.keys() - arrays.keys(), "checkpoint"), (arrays.keys() - wanted.keys(), "experiment")):
        if names:
            raise SharedqError(f"'{min(names)}' is not in the {where}")

    def leaf(name: str, like: Any) -> Any:
        array = arrays[name]
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            kind, words = str(jax.random.key_impl(jnp.empty((), like.dtype))), jax.eval_shape(jax.random.key_data, like)
            if kinds.get(name, kind) == kind and (array.shape, array.dtype) == (words.shape, words.dtype):
                return jax.random.wrap_key_data(jax.device_put(array), impl=kind)
        elif name not in kinds and (array.shape, array.dtype) == (like.shape, like.dtype):
            return array.copy() if isinstance(like, np.ndarray) else jax.device_put(array)
        there = _text(array, kinds.get(name))
        raise SharedqError(f"'{name}' is {there} in the checkpoint and {_text(like)} in the experiment")

    return jax.tree.unflatten(jax.tree.structure(like), [leaf(name, one) for name, one in wanted.items()])


def _by_current_names(named: dict[str, Any]) -> dict[str, Any]:
    return {old_names.current_path(name): value for name, value in named.items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by path, in the tree's own order."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) < len(leaves) or "__metadata__" in named:
        raise TypeError("a checkpoint needs leaves with different paths, none of them '__metadata__'")
    return named


def _text(array: Any, kind: str | None = None) -> str:
    told = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    return f"{told} as the words of a key of {kind}" if kind else told
