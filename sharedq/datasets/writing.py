"""Writes a store. A writer that is killed goes on where it was, and the store appears only when all of it is there."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sharedq.datasets import manifest as manifests
from sharedq.datasets.episode import Episode
from sharedq.datasets.manifest import Description, Manifest
from sharedq.datasets.rules import check_episode
from sharedq.datasets.store import BLOCK, EPISODE, FILES, HEADER, Store, encode, ends_of, forms, header, lengths
from sharedq.errors import SharedqError
from sharedq.json_files import read_json
from sharedq.runs.durable import atomic_write, naming, refuse_links, sync, sync_folder
from sharedq.runs.lock import locked

PROGRESS = "progress.json"
SAVED_EVERY = 10.0  # seconds between two notes of how far the writer is


class StoreWriter:
    """Writes the store `path`, in a folder beside it that gets its name at the end.

    If a writer of the same data was interrupted, `episodes_written` says how many episodes it had written; the caller
    goes on with the next one. `files` are those of the source, in the order in which they are read. If one of them was
    changed since, the writer goes back to where it was before its first episode.
    """

    def __init__(self, path: str | Path, description: Description, files: Sequence[Path] = ()):
        self.path, self.description = Path(path), description
        self.folder = self.path.with_name(f".{self.path.name}.unfinished")
        self._files: dict[str, BinaryIO] = {}
        self._sources = [(str(file), _stamp(file)) for file in files]
        self._marks: list[tuple[int, int]] = []  # of each file that was needed, what was written before its episodes
        self._written = 0, 0  # episodes and steps; one value, so that an interrupt never finds them apart
        with ExitStack() as opened:
            opened.enter_context(alone(self.path))
            self._open()
            self._alone = opened.pop_all()

    @property
    def episodes_written(self) -> int:
        return self._written[0]

    @property
    def steps_written(self) -> int:
        return self._written[1]

    def _open(self) -> None:
        """Opens the files, at the place where an interrupted writer surely was."""
        if self.path.exists():
            raise SharedqError(f"{self.path} exists already: choose another name, or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        refuse_links(self.folder.parent, [self.folder.name])
        self._told = json.loads(json.dumps(self.description.to_dict()))
        goes_on = (self.folder / PROGRESS).exists()
        if goes_on:
            self._restore()
        for name, length in self._lengths().items():
            with naming(self.folder / name):
                handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                self._files[name] = os.fdopen(handle, "rb+")
                self._files[name].truncate(length if goes_on else 0)
                if not goes_on:
                    self._files[name].write(b" " * HEADER)
        if self.episodes_written:
            last = self._rows_of_episodes()[-1]
            if last["first"] + last["length"] != self.steps_written:
                raise SharedqError(f"{self.folder} does not add up to {self.steps_written:,} steps: {self._remedy}")
        self._save_progress()

    @property
    def _remedy(self) -> str:
        return f"remove {self.folder} to begin anew"

    def _restore(self) -> None:
        """Takes over how far an interrupted writer was when it last noted it."""
        form = {"description": {str: Any}, "files": {str: [int]}, "episodes": int, "steps": int}
        saved = read_json(self.folder / PROGRESS, form, self._remedy)
        if saved["description"] != self._told:
            raise SharedqError(f"{self.folder} holds the unfinished part of other data: {self._remedy}")
        self._written = saved["episodes"], saved["steps"]
        for place, (name, noted) in enumerate(saved["files"].items()):
            stamp, (episodes, steps) = noted[:-2], [0, 0, *noted][-2:]
            if self._sources[place : place + 1] != [(name, stamp)]:
                if not episodes:
                    raise SharedqError(
                        f"{name} was changed since {self.folder} was written, or is not read first: {self._remedy}"
                    )
                self._written = episodes, steps
                break
            self._marks.append((episodes, steps))
        for name, length in self._lengths().items():
            path = self.folder / name
            if min(self._written) < 0 or not path.is_file() or path.stat().st_size < length:
                raise SharedqError(f"{path} is shorter than it was, or missing: {self._remedy}")

    def _lengths(self) -> dict[str, int]:
        """The bytes of the files with the episodes that were written in full. What lies behind them is no episode."""
        return lengths(self.description, *self._written)

    def _rows_of_episodes(self) -> np.ndarray:
        with naming(self.folder / "episodes.npy"):
            self._files["episodes.npy"].seek(HEADER)
            return np.frombuffer(self._files["episodes.npy"].read(self._lengths()["episodes.npy"] - HEADER), EPISODE)

    def add(self, episode: Episode, where: str, files: int | None = None) -> None:
        """Writes an episode; `where` names its place in the source, for an error if it breaks a rule.

        `files` says how many of the source's files it and those before it needed; None is all.
        """
        check_episode(episode, self.description, where)
        action = episode.action
        if action.dtype.kind == "f":
            action = action.clip(-1, 1)  # rounding may have put it a little outside
        row = np.array((self.steps_written, len(episode.reward), int(episode.end), episode.group), EPISODE)
        arrays = (encode(episode.obs, *self.description.stored), action, episode.reward, row)
        begins = self._lengths()
        for name, array in zip(FILES, arrays, strict=True):
            with naming(self.folder / name):
                self._files[name].seek(begins[name])  # an interrupt may have left a part behind it
                self._files[name].write(np.ascontiguousarray(array).tobytes())
        needed = len(self._sources) if files is None else files
        self._marks += [self._written] * (needed - len(self._marks))
        self._written = self.episodes_written + 1, self.steps_written + len(episode.reward)
        if time.monotonic() - self._saved_at > SAVED_EVERY:
            self._save_progress()

    def _save_progress(self) -> None:
        for name, file in self._files.items():
            with naming(self.folder / name):
                sync(file)
        episodes, steps = self._written
        known = zip(self._sources, self._marks, strict=False)
        files = {name: [*stamp, *mark] for (name, stamp), mark in known}
        noted = {"description": self._told, "files": files, "episodes": episodes, "steps": steps}
        atomic_write(self.folder / PROGRESS, json.dumps(noted).encode())
        self._saved_at = time.monotonic()

    def finish(self) -> Store:
        """Gives the store its manifest and its name. Whenever it is interrupted, it can be done again."""
        if not self.episodes_written:
            raise SharedqError(
                f"{self.description.source} holds no episode with a whole step: there is nothing to write"
            )
        self._save_progress()
        whole, files = forms(self.description, *self._written), {}
        for name, length in self._lengths().items():
            with naming(self.folder / name):
                file = self._files[name]
                file.truncate(length)
                file.seek(0)
                file.write(header(*whole[name]))
                sync(file)
                files[name] = {"bytes": length, "blocks": _blocks(file)}
        episodes = self._rows_of_episodes()
        self._close_files()
        Manifest(
            self.description,
            episodes=self.episodes_written,
            steps=self.steps_written,
            ends=ends_of(episodes),
            groups=len(np.unique(episodes["group"])),
            made=date.today().isoformat(),
            version=version("sharedq"),
            block=BLOCK,
            files=files,
            content=manifests.content_of(self.description, files),
        ).write(self.folder)
        self.folder.rename(self.path)
        (self.path / PROGRESS).unlink()  # last: without it the episodes would be written anew
        sync_folder(self.path)
        sync_folder(self.path.parent)
        self.close()
        return Store(self.path)

    def close(self) -> None:
        """Closes the files. What was written stays, for a writer that goes on."""
        self._close_files()
        self._alone.close()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Leaves what was written for a writer that goes on; of data whose first episode was wrong, nothing."""
        with self._alone:
            if any(file.closed for file in self._files.values()):  # `finish` has noted everything
                self._close_files()
            elif isinstance(error, SharedqError) and not self.episodes_written:
                self._close_files()
                shutil.rmtree(self.folder)
            else:
                self._save_progress()
                self._close_files()
                if isinstance(error, SharedqError):
                    raise SharedqError(
                        f"{error}; {self.folder} keeps the {self.episodes_written:,} episodes before it, and the same "
                        "command goes on behind them"
                    ) from None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keeps other processes from writing this data set too, with a lock beside it that is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, f"another process is writing {path}: wait until it has ended, or choose another name"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _blocks(file: BinaryIO) -> list[str]:
    file.seek(0)
    return [hashlib.sha256(block).hexdigest() for block in iter(lambda: file.read(BLOCK), b"")]


def _stamp(file: Path) -> list[int]:
    """What changes when a file is written again. A file that is missing has none; its reader tells of it."""
    try:
        found = file.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
