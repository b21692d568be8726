"""The files of Minari: HDF5 with a group for each episode, or a folder for each with one table of arrow or parquet.

Both give the arrays of an episode as a tree: those of a Dict are a dictionary, those of a Tuple a tuple.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sharedq.datasets import hdf5
from sharedq.datasets.reading import check_size, readable, refuse_link
from sharedq.errors import SharedqError, missing_extra

DATA = "main_data.hdf5"
NEEDED = "an episode of Minari has observations, actions, rewards, terminations and truncations"
FLAT = ("rewards", "terminations", "truncations")
JPEG_COLOURS = {"L": (), "RGB": (3,)}  # the last axes of an image, by how JPEG names its colours


class Columns(NamedTuple):
    """The arrays of an episode of T steps, as the environment gave them."""

    observations: Any  # a tree of arrays [T+1, ...]
    actions: Any  # [T, ...]
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    lossy: bool = False  # whether an observation was compressed as JPEG


class Files(Protocol):
    """The episodes of a data set."""

    def count(self) -> int:
        """How many episodes there are."""

    def paths(self) -> list[Path]:
        """The files that hold the episodes, in their order."""

    def where(self, number: int) -> str:
        """The place of an episode, for messages."""

    def steps(self, number: int) -> int:
        """How many steps an episode has."""

    def columns(self, number: int, observation: Any, action: Any) -> Columns:
        """The arrays of an episode; the two are its spaces."""


@contextmanager
def opened(folder: Path, form: str) -> Iterator[Files]:
    """The files of a data set in this folder, of this form."""
    if form == "hdf5":
        refuse_link(folder / DATA)
        with hdf5.opened(str(folder / DATA)) as file:
            yield HDF5Files(file, str(folder / DATA))
    else:
        yield ArrowFiles(folder, form)


class HDF5Files:
    """`main_data.hdf5`."""

    def __init__(self, file: Any, path: str):
        self._file, self._path = file, path

    def count(self) -> int:
        with readable(self._path):
            return len(self._file)

    def paths(self) -> list[Path]:
        return [Path(self._path)]

    def where(self, number: int) -> str:
        return f"{self._path}, episode {number}"

    def steps(self, number: int) -> int:
        return len(hdf5.array(self._group(number), "rewards", self.where(number), NEEDED))

    def _group(self, number: int) -> Any:
        found = hdf5.item(self._file, f"episode_{number}", self._path)
        if found is None:
            raise SharedqError(f"{self._path} has no 'episode_{number}': its episodes are numbered from 0 on")
        return found

    def columns(self, number: int, observation: Any, action: Any) -> Columns:
        group, where = self._group(number), self.where(number)
        flat = [self._rows(hdf5.array(group, name, where, NEEDED), where) for name in FLAT]
        lossy: list[str] = []
        observations = self._tree(group, "observations", observation, where, lossy)
        actions = self._tree(group, "actions", action, where, lossy)
        return Columns(observations, actions, flat[0], flat[1], flat[2], bool(lossy))

    def _rows(self, found: Any, where: str) -> np.ndarray:
        return hdf5.rows(found, 0, len(found), where)

    def _tree(self, group: Any, name: str, space: Any, where: str, lossy: list[str]) -> Any:
        if parts := _parts(space, "_index_{}"):
            inside = hdf5.item(group, name, where)
            if inside is None:
                raise SharedqError(f"{where} has no '{name}': {NEEDED}")
            return _like(space, [self._tree(inside, key, one, where, lossy) for key, one in parts])
        found = hdf5.array(group, name, where, NEEDED, bytes_of_images=_is_image(space))
        rows = self._rows(found, where)
        if _is_image(space) and rows.ndim != 1 + len(space.shape):
            lossy.append(name)
            return _images([row.tobytes() for row in rows], space, where)
        return rows


class ArrowFiles:
    """A folder with a table for each episode. All columns are as long as the observations; the last row is a pad."""

    def __init__(self, folder: Path, form: str):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise missing_extra("pyarrow", "data", f"reading {form} files") from None
        self._folder, self._form = folder, form

    def count(self) -> int:
        return sum(one.name.isdecimal() for one in self._folder.iterdir())

    def paths(self) -> list[Path]:
        return [
            max((self._folder / str(number)).glob(f"*.{self._form}"), default=Path()) for number in range(self.count())
        ]

    def where(self, number: int) -> str:
        return f"{self._folder}, episode {number}"

    def steps(self, number: int) -> int:
        import pyarrow.parquet

        path = self._path(number)
        with readable(self.where(number)):
            if self._form == "parquet":
                return pyarrow.parquet.ParquetFile(path).metadata.num_rows - 1
            return self._table(number).num_rows - 1

    def _path(self, number: int) -> Path:
        folder = self._folder / str(number)
        found = sorted(folder.glob(f"*.{self._form}"))
        if len(found) != 1:
            raise SharedqError(f"{folder} has {len(found)} files *.{self._form}, and should have one")
        refuse_link(folder)
        refuse_link(found[0])
        return found[0]

    def _table(self, number: int) -> Any:
        import pyarrow
        import pyarrow.parquet

        path = self._path(number)
        with readable(self.where(number)):
            if self._form == "parquet":
                return pyarrow.parquet.ParquetFile(path).read()
            return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()

    def columns(self, number: int, observation: Any, action: Any) -> Columns:
        table, where = self._table(number), self.where(number)
        lossy: list[str] = []
        with readable(where):
            table.validate(full=True)  # the file says where its numbers lie, and it may lie
            columns = {name: table.column(name).combine_chunks() for name in table.column_names if name != "infos"}
            flat = [_arrow_array(columns[name][:-1]) for name in FLAT]
            observations = _arrow_tree(columns["observations"], observation, where, lossy)
            actions = _arrow_tree(columns["actions"][:-1], action, where, lossy)
            return Columns(observations, actions, flat[0], flat[1], flat[2], bool(lossy))


def _arrow_tree(found: Any, space: Any, where: str, lossy: list[str]) -> Any:
    import pyarrow

    if parts := _parts(space, "{}"):
        return _like(space, [_arrow_tree(found.field(key), one, where, lossy) for key, one in parts])
    if pyarrow.types.is_binary(found.type):
        if not _is_image(space):
            raise SharedqError(f"{where} holds bytes where {space} was declared")
        lossy.append(where)
        return _images([one.as_py() for one in found], space, where)
    if space.shape and not pyarrow.types.is_fixed_size_list(found.type):  # so Minari before 0.5.4 wrote MultiDiscrete
        return np.array(found.to_pylist()).reshape(len(found), *space.shape)
    return _arrow_array(found.flatten() if space.shape else found).reshape(len(found), *space.shape)


def _arrow_array(found: Any) -> np.ndarray:
    if found.null_count:
        raise ValueError(f"{found.null_count} of its values are missing")
    return found.to_numpy(zero_copy_only=False)


def _parts(space: Any, index: str) -> list[tuple[str, Any]]:
    """The spaces inside a Dict or a Tuple, with the names under which they lie in a file."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return [(index.format(i), one) for i, one in enumerate(space.spaces)] if isinstance(space, spaces.Tuple) else []


def _like(space: Any, parts: list[Any]) -> Any:
    from gymnasium import spaces

    return dict(zip(space.spaces, parts, strict=True)) if isinstance(space, spaces.Dict) else tuple(parts)


def leaves(tree: Any) -> Iterator[np.ndarray]:
    """The arrays of a tree."""
    if isinstance(tree, np.ndarray):
        yield tree
    else:
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(one)


def at(tree: Any, step: int) -> Any:
    """The tree of what the arrays hold at one step."""
    if isinstance(tree, dict):
        return {key: at(one, step) for key, one in tree.items()}
    return tuple(at(one, step) for one in tree) if isinstance(tree, tuple) else tree[step]


def _is_image(space: Any) -> bool:
    """Whether Minari may have compressed what is of this space."""
    from gymnasium import spaces

    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _images(encoded: list[bytes], space: Any, where: str) -> np.ndarray:
    """The images of a space, from JPEG files."""
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", "data", "reading images of Minari") from None
    read: Callable[[bytes], np.ndarray] = lambda one: _image(Image, one, space.shape)  # noqa: E731
    check_size(len(encoded), space.shape, np.uint8, where)
    images = np.empty((len(encoded), *space.shape), np.uint8)
    for step, one in enumerate(encoded):
        with readable(f"{where}, step {step}"):
            images[step] = read(one)
    return images


def _image(library: Any, encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    image = library.open(io.BytesIO(encoded), formats=["JPEG"])
    found = (image.height, image.width, *JPEG_COLOURS.get(image.mode, (None,)))
    if found not in (shape, shape[:2] if shape[2:] == (1,) else ()):  # known before it is unpacked
        raise ValueError(f"an image of {list(found)} where {list(shape)} was declared")
    return np.asarray(image).reshape(shape)
