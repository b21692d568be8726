"""A pytree of arrays in one safetensors file, bit for bit.

The format: eight bytes with the length of a JSON header, the header (name -> dtype, shape, place), the arrays one
after another. It is written here by hand because one pass can then write and hash the arrays from where they lie;
any safetensors reader reads it. A leaf is named by its path ("params/dense/kernel"). A typed random key is stored
as its words, and its kind under its name in the header's `__metadata__`.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import old_names
from sharedq.errors import SharedqError
from sharedq.runs.durable import write_synced

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
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def write(path: Path, tree: Any) -> dict:
    """Writes and syncs `tree`; its size and checksum."""
    hashed, size = hashlib.sha256(), 0

    def heard() -> Iterator[memoryview]:
        nonlocal size
        for chunk in chunks(tree):
            hashed.update(chunk)
            size += len(chunk)
            yield chunk

    write_synced(path, heard())
    return {"bytes": size, "sha256": hashed.hexdigest()}


def chunks(tree: Any) -> Iterator[memoryview]:
    """The bytes of the file, from where the arrays lie. The same tree of the same shapes has the same header."""
    arrays, kinds = {}, {}
    for name, leaf in named_leaves(tree).items():
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            raise TypeError(f"a checkpoint holds arrays only, '{name}' is a {type(leaf).__name__}")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            kinds[name], leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
        if leaf.dtype not in _CODES:
            raise TypeError(f"a checkpoint cannot hold '{name}' of dtype {leaf.dtype}")
        arrays[name] = leaf
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))  # so each array begins aligned
    header: dict[str, Any] = {"__metadata__": kinds}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():  # one at a time comes from the device
        yield np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def restore(content: np.ndarray, like: Any) -> Any:
    """The tree in a file's bytes, which have been verified, in the structure of `like`.

    A leaf that is a numpy array in `like` comes back as one, every other as a jax array. The numpy
    ones are copies, because one small view would keep the bytes of a whole replay. A tree that does not fit raises
    `SharedqError` with what differs, to be completed by the caller who knows the file.
    """
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    kinds = header.pop("__metadata__")
    wanted = named_leaves(like)
    if wanted.keys() - header.keys():
        header, kinds = ({old_names.current_path(name): x for name, x in one.items()} for one in (header, kinds))
    for names, where in ((wanted.keys() - header.keys(), "checkpoint"), (header.keys() - wanted.keys(), "experiment")):
        if names:
            raise SharedqError(f"'{min(names)}' is not in the {where}")

    def leaf(name: str, like: Any) -> Any:
        entry = header[name]
        begin, end = entry["data_offsets"]
        array = content[start + begin : start + end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if name in kinds:
            array = jax.random.wrap_key_data(jax.device_put(array), impl=kinds[name])
        if (array.shape, array.dtype) != (like.shape, like.dtype):
            raise SharedqError(f"'{name}' is {_text(array)} in the checkpoint and {_text(like)} in the experiment")
        return array.copy() if isinstance(like, np.ndarray) else jax.device_put(array)

    return jax.tree.unflatten(jax.tree.structure(like), [leaf(name, one) for name, one in wanted.items()])


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by path, in the tree's own order."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) < len(leaves) or "__metadata__" in named:
        raise TypeError("a checkpoint needs leaves with different paths, none of them '__metadata__'")
    return named


def _text(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
