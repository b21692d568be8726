"""HDF5 files of other people. Nothing that leads out of a file is followed, and damage ends in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sharedq.datasets.reading import AGAIN, check_size, readable
from sharedq.errors import SharedqError, missing_extra

SIGNATURE = b"\x89HDF\r\n\x1a\n"
PACKED = 2_000  # no filter of HDF5 packs more tightly: a larger array was declared and never written
CACHE = 2**26  # bytes of unpacked chunks that are kept, for a chunk may hold parts of several episodes
BLOCK = 2**24  # bytes that a pass over a whole array reads at once
WHOLE, NUMBERS = "iu", "fiub"  # what an array can hold: kinds of dtypes, as numpy names them
IN_PLACE = "write the file again with the data themselves in it"


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """The file, open for reading."""
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", "data", "reading HDF5 files") from None
    if not Path(path).is_file():
        raise SharedqError(f"there is no file {path}")
    with readable(path):
        file = h5py.File(path, "r", rdcc_nbytes=CACHE)
    with file:
        yield file


def names(path: str) -> set[str] | None:
    """What is in the file, by name. None if it is HDF5 and cannot be read; never raises."""
    try:
        if not Path(path).is_file():  # a pipe would never open
            return set()
        with Path(path).open("rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                return set()
    except (OSError, ValueError):
        return set()
    try:
        with opened(path) as file:
            return set(file)
    except Exception:
        return None


def item(group: Any, name: str, path: str) -> Any:
    """What a group holds under this name, or None. `path` names the file in errors."""
    import h5py

    with readable(f"'{name}' of {path}"):
        for part in name.split("/"):
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                to = f" to {link.path}" + (f" in {link.filename}" if isinstance(link, h5py.ExternalLink) else "")
                raise SharedqError(f"'{name}' of {path} is a link{to}, and none is followed: {IN_PLACE}")
            group = group[part]
    return group


def array(group: Any, name: str, path: str, needed: str = "", bytes_of_images: bool = False) -> Any:
    """The array under this name, of numbers that lie in the file. None if there is none, unless it is `needed`.

    `bytes_of_images` allows rows of different lengths, of bytes.
    """
    found = _checked(group, name, path, needed, NUMBERS, bytes_of_images)
    if found is not None and found.ndim == 0:
        raise SharedqError(f"'{name}' of {path} is one number, and not an array")
    return found


def value(group: Any, name: str, path: str, needed: str, kinds: str) -> Any:
    """The single number under this name."""
    found = _checked(group, name, path, needed, kinds)
    if found.ndim:
        raise SharedqError(f"'{name}' of {path} is an array {list(found.shape)}, and not one value")
    with readable(f"'{name}' of {path}"):
        return found[()]


def _checked(group: Any, name: str, path: str, needed: str, kinds: str, of_bytes: bool = False) -> Any:
    import h5py

    found = item(group, name, path)
    if found is None:
        if needed:
            raise SharedqError(f"{path} has no '{name}': {needed}")
        return None
    what = f"'{name}' of {path}"
    if not isinstance(found, h5py.Dataset):
        raise SharedqError(f"{what} is not one array, but a {type(found).__name__.lower()}")
    with readable(what):
        if found.external or found.is_virtual:
            raise SharedqError(f"{what} takes its numbers from other files, and none is followed: {IN_PLACE}")
        rows_differ = of_bytes and h5py.check_vlen_dtype(found.dtype) == np.uint8
        if found.shape is None or not (rows_differ or found.dtype.kind in kinds):
            raise SharedqError(f"{what} holds {'nothing' if found.shape is None else found.dtype}, and not numbers")
        if found.nbytes > PACKED * (found.id.get_storage_size() + 1):
            raise SharedqError(
                f"{what} is declared with {found.nbytes:,} bytes, of which the file holds next to nothing: {AGAIN}"
            )
    return found


def rows(found: Any, first: int, last: int, where: str) -> np.ndarray:
    """Rows `first` .. `last` - 1 of an array; `where` names their place in errors."""
    check_size(last - first, found.shape[1:], found.dtype, where)
    with readable(where):
        return found[first:last]


def rows_at_once(found: Any) -> int:
    """How many rows a pass over a whole array reads at once."""
    return max(BLOCK // max(found.nbytes // max(len(found), 1), 1), 1)


def blocks(found: Any, where: str) -> Iterator[np.ndarray]:
    """All rows of an array, one part after another."""
    size = rows_at_once(found)
    for first in range(0, len(found), size):
        yield rows(found, first, min(first + size, len(found)), where)
