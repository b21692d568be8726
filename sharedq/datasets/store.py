"""The store: a folder of memory-mapped arrays with a manifest. It need not fit into memory.

    manifest.json      what the data are, and the checksums of the files
    observations.npy   [steps + episodes, ...] every observation once; of stacks of frames every frame once
    actions.npy        [steps] or [steps, A]
    rewards.npy        [steps] float32
    episodes.npy       [episodes] records: its first step, its number of steps, its end and its group

The episodes lie one behind another. The observations of episode e begin at row `first[e] + e`, because each episode has
one observation more than steps. Observations that are boolean are packed to bits.
"""

import hashlib
import math
import mmap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sharedq.datasets import manifest as manifests
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import REMEDY
from sharedq.datasets.rules import first_wrong
from sharedq.errors import SharedqError
from sharedq.replay import ring_storage
from sharedq.runs.durable import refuse_links

EPISODE = np.dtype([("first", "<i8"), ("length", "<i8"), ("end", "u1"), ("group", "<i4")])
FILES = ("observations.npy", "actions.npy", "rewards.npy", "episodes.npy")
BLOCK = 2**24  # bytes that have a checksum of their own
HEADER = 256  # bytes of the header of each file; numpy reads headers of any length


def packed(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether observations are stored as bits, by the same rule as in the replay of a run."""
    return ring_storage.is_packed(jax.ShapeDtypeStruct(shape, dtype))


def stored_form(shape: tuple[int, ...], dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of a row of observations.npy."""
    if packed(shape, dtype):
        return (-(-int(np.prod(shape)) // 8),), np.dtype(np.uint8)
    return shape, np.dtype(dtype)


def encode(obs: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Observations [N, *shape] as rows of observations.npy."""
    return np.packbits(obs.reshape(len(obs), -1), axis=-1) if packed(shape, dtype) else obs


def decode(rows: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The observations [N, *shape] that `encode` was given."""
    if not packed(shape, dtype):
        return rows
    return np.unpackbits(rows, axis=-1, count=int(np.prod(shape))).astype(bool).reshape(len(rows), *shape)


def header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of a .npy file, padded to `HEADER` bytes."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}).encode()
    prefix = np.lib.format.magic(1, 0)
    room = HEADER - len(prefix) - 2
    return prefix + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def forms(description: manifests.Description, episodes: int, steps: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shape and dtype of the array in each file of a store."""
    shape, dtype = stored_form(*description.stored)
    one = description.spec.actions.one
    return {
        "observations.npy": ((steps + episodes, *shape), dtype),
        "actions.npy": ((steps, *one.shape), np.dtype(one.dtype)),
        "rewards.npy": ((steps,), np.dtype(np.float32)),
        "episodes.npy": ((episodes,), EPISODE),
    }


def lengths(description: manifests.Description, episodes: int, steps: int) -> dict[str, int]:
    """The bytes of each file of a store."""
    found = forms(description, episodes, steps)
    return {name: HEADER + math.prod(shape) * dtype.itemsize for name, (shape, dtype) in found.items()}


def ends_of(episodes: np.ndarray) -> dict[str, int]:
    """How many episodes ended in which way."""
    return {end.name.lower(): int((episodes["end"] == end).sum()) for end in End}


class Store:
    """A data set on disk, open for reading. Only what is read comes into memory."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.manifest = manifests.read(self.path)
        self._maps: list[mmap.mmap] = []
        refuse_links(self.path, FILES)
        self._check_manifest()
        for name in FILES:
            self._check_size(name)
        self.episodes = np.array(self._mapped("episodes.npy"))
        self._check_episodes()

    @property
    def description(self) -> manifests.Description:
        return self.manifest.description

    @cached_property
    def observations(self) -> np.ndarray:
        return self._mapped("observations.npy")

    @cached_property
    def actions(self) -> np.ndarray:
        return self._mapped("actions.npy")

    @cached_property
    def rewards(self) -> np.ndarray:
        return self._mapped("rewards.npy")

    @cached_property
    def returns(self) -> np.ndarray:
        """The sum of the rewards of each episode, as they are stored."""
        parts = zip(self.episodes["first"], self.episodes["length"], strict=True)
        return np.array([self.rewards[first : first + length].sum(dtype=np.float64) for first, length in parts])

    def episode(self, number: int) -> Episode:
        """One episode, read into memory. As in a list, -1 is the last one."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.path} has no episode {number}: it has {len(self):,}, from 0 to {len(self) - 1}")
        number %= len(self)
        first, length, end, group = self.episodes[number].item()
        rows = np.array(self.observations[first + number : first + number + length + 1])
        obs = decode(rows, *self.description.stored)
        action, reward = (np.array(x[first : first + length]) for x in (self.actions, self.rewards))
        return Episode(obs, action, reward, End(end), group)

    def __iter__(self) -> Iterator[Episode]:
        return map(self.episode, range(len(self)))

    def __len__(self) -> int:
        """The number of episodes."""
        return len(self.episodes)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {self.manifest.steps:,} steps in {len(self):,} episodes)"

    @property
    def first_rows(self) -> np.ndarray:
        """The row of the first observation of each episode."""
        return self.episodes["first"] + np.arange(len(self))

    def place_of(self, step: int) -> str:
        """Says where in the data a step is, as a person would look for it."""
        number = int(np.searchsorted(self.episodes["first"], step, side="right")) - 1
        return f"episode {number}, step {step - int(self.episodes['first'][number])}"

    def damaged(self, progress: Any = lambda done, total: None) -> str | None:
        """Reads every file once; says where one differs from its checksums or holds a number it cannot hold, or None.

        Checksums that fit do not make good data: the store may have been written by another program.
        """
        total, done = sum(one["bytes"] for one in self.manifest.files.values()), 0
        for name in FILES:
            with (self.path / name).open("rb") as file:
                for number, wanted in enumerate(self.manifest.files[name]["blocks"]):
                    block = file.read(self.manifest.block)
                    if hashlib.sha256(block).hexdigest() != wanted:
                        return f"{self.path / name} was changed or damaged {self._where(name, number)}"
                    if wrong := self._wrong(name, number, block):
                        return wrong
                    done += len(block)
                    progress(done, total)
        return None

    def check(self, progress: Any = lambda done, total: None) -> None:
        """Raises if the content of a file is not what was written."""
        if found := self.damaged(progress):
            raise SharedqError(f"{found}: {REMEDY}")

    def _wrong(self, name: str, number: int, block: bytes) -> str | None:
        """Says where a block holds a number that breaks a rule. A block begins with a whole number."""
        if name == "episodes.npy":
            return None
        shape, dtype = forms(self.description, self.manifest.episodes, self.manifest.steps)[name]
        values = np.frombuffer(block, dtype, offset=0 if number else HEADER)
        found = first_wrong(name.removesuffix(".npy"), values, self.description)
        if found is None:
            return None
        before = max(number * self.manifest.block - HEADER, 0) // dtype.itemsize
        row = (before + found[0]) // math.prod(shape[1:])
        place = self._place_of_row(row) if name == "observations.npy" else self.place_of(row)
        return f"{self.path / name}, {place}: {found[1]}"

    def _place_of_row(self, row: int) -> str:
        """Says where in the data an observation is."""
        number = self._episode_of_row(row)
        return f"episode {number}, step {row - int(self.first_rows[number])}"

    def _episode_of_row(self, row: int) -> int:
        return int(np.searchsorted(self.first_rows, row, side="right")) - 1

    def _where(self, name: str, block: int) -> str:
        """The bytes of a block of a file, and the steps that it holds."""
        length = self.manifest.files[name]["bytes"]
        last_byte = min((block + 1) * self.manifest.block, length) - 1
        told = f"within its bytes {block * self.manifest.block:,} to {last_byte:,}"
        if len(self.manifest.files[name]["blocks"]) == 1:
            told += ", which are all of them"
        if name == "episodes.npy" or not self.manifest.steps:
            return told
        rows = self.manifest.steps + (self.manifest.episodes if name == "observations.npy" else 0)
        size = (length - HEADER) / max(rows, 1)
        first, last = (
            min(max(int((edge - HEADER) / size), 0), rows - 1)
            for edge in (block * self.manifest.block, (block + 1) * self.manifest.block - 1)
        )
        if name == "observations.npy":
            first, last = (min(row - self._episode_of_row(row), self.manifest.steps - 1) for row in (first, last))
        return f"{told}, between {self.place_of(first)} and {self.place_of(last)}"

    def _mapped(self, name: str) -> np.ndarray:
        path = self.path / name
        shape, dtype = forms(self.description, self.manifest.episodes, self.manifest.steps)[name]
        with path.open("rb") as file:
            if file.read(HEADER) != header(shape, dtype):
                raise SharedqError(f"{path} does not hold {dtype}{list(shape)}, as the manifest says: {REMEDY}")
        if 0 in shape:
            return np.zeros(shape, dtype)
        mapped = np.memmap(path, dtype, "r", HEADER, shape)
        self._maps.append(mapped._mmap)  # type: ignore[attr-defined]
        return mapped

    def release(self) -> None:
        """Takes the pages that were read out of this process. Otherwise it would grow to the size of the files.

        The system still keeps them as long as it has memory to spare, and so reading them again is fast.
        """
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _check_manifest(self) -> None:
        """Raises if the manifest contradicts itself: then its checksums may not cover the files, or not fit them."""
        told, path = self.manifest, self.path / manifests.FILE
        if told.block != BLOCK or min(told.episodes, told.steps) < 0:
            raise SharedqError(f"{path} has blocks of {told.block:,} bytes, and they have {BLOCK:,}: {REMEDY}")
        for name, wanted in lengths(told.description, told.episodes, told.steps).items():
            if name not in told.files:
                raise SharedqError(f"the data set {self.path} lacks {name}: {REMEDY}")
            declared, blocks = told.files[name]["bytes"], len(told.files[name]["blocks"])
            if declared != wanted or blocks != -(-wanted // BLOCK):
                raise SharedqError(
                    f"{path} says that {name} has {declared:,} bytes and {blocks:,} checksums, and its steps and "
                    f"episodes make {wanted:,} bytes with {-(-wanted // BLOCK):,}: {REMEDY}"
                )

    def _check_size(self, name: str) -> None:
        path, wanted = self.path / name, self.manifest.files[name]["bytes"]
        if not path.is_file():
            raise SharedqError(f"the data set {self.path} lacks {name}: {REMEDY}")
        if (found := path.stat().st_size) != wanted:
            raise SharedqError(f"{path} has {found:,} bytes, and had {wanted:,} when it was written: {REMEDY}")

    def _check_episodes(self) -> None:
        """Raises if the episodes do not lie one behind another, or are not as many as the manifest says."""
        first, length, ends = self.episodes["first"], self.episodes["length"], self.episodes["end"]
        edges = np.concatenate([[0], np.cumsum(length)])
        wrong = np.nonzero((first != edges[:-1]) | (length < 1) | (ends > max(End)))[0]
        if wrong.size or edges[-1] != self.manifest.steps:
            number = int(wrong[0]) if wrong.size else len(first) - 1
            raise SharedqError(f"{self.path / 'episodes.npy'} does not add up at episode {number}: {REMEDY}")
        if ends_of(self.episodes) != self.manifest.ends:
            raise SharedqError(f"{self.path / manifests.FILE} counts other ends than episodes.npy has: {REMEDY}")
