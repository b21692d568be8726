"""Writes a store. A writer that is killed goes on where it was, and the store appears only when all of it is there."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sharedq.datasets import manifest as manifests
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description, Manifest
from sharedq.datasets.rules import check_episode
from sharedq.datasets.store import BLOCK, EPISODE, FILES, HEADER, Store, encode, header, stored_form
from sharedq.errors import SharedqError
from sharedq.json_files import read_json
from sharedq.runs.durable import atomic_write, naming, refuse_links, sync, sync_folder
from sharedq.runs.lock import locked

PROGRESS = "progress.json"
SAVED_EVERY = 10.0  # seconds between two notes of how far the writer is


class StoreWriter:
    """Writes the store `path`, in a folder beside it that gets its name at the end.

    If a writer of the same data was interrupted, `episodes_written` says how many episodes it had written; the caller
    goes on with the next one.
    """

    def __init__(self, path: str | Path, description: Description):
        self.path, self.description = Path(path), description
        self._files: dict[str, BinaryIO] = {}
        with ExitStack() as opened:
            opened.enter_context(alone(self.path))
            self._open()
            self._alone = opened.pop_all()

    def _open(self) -> None:
        """Opens the files, at the place where an interrupted writer surely was."""
        if self.path.exists():
            raise SharedqError(f"{self.path} exists already: choose another name, or remove it")
        self._folder = self.path.with_name(f".{self.path.name}.unfinished")
        self._folder.mkdir(parents=True, exist_ok=True)
        refuse_links(self._folder.parent, [self._folder.name])
        told = json.loads(json.dumps(self.description.to_dict()))
        self._begin = {"description": told}
        lengths = self._lengths(told)
        for name in FILES:
            with naming(self._folder / name):
                handle = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                self._files[name] = os.fdopen(handle, "rb+")
                self._files[name].truncate(lengths.get(name, 0))
                self._files[name].seek(0, os.SEEK_END)
                if name not in lengths:
                    self._files[name].write(b" " * HEADER)
        self.episodes_written = (self._files["episodes.npy"].tell() - HEADER) // EPISODE.itemsize
        self.steps_written = self._steps()
        self._save_progress()

    def _lengths(self, told: dict[str, Any]) -> dict[str, int]:
        """How long the files of an interrupted writer were when it last noted it."""
        path = self._folder / PROGRESS
        if not path.exists():
            return {}
        remedy = f"remove {self._folder} to begin anew"
        saved = read_json(path, {"description": {str: Any}, "lengths": {str: int}}, remedy)
        if saved["description"] != told:
            raise SharedqError(f"{self._folder} holds the unfinished part of other data: {remedy}")
        for name, length in saved["lengths"].items():
            if (
                name not in FILES
                or not (self._folder / name).is_file()
                or (self._folder / name).stat().st_size < length
            ):
                raise SharedqError(f"{self._folder / name} is shorter than it was, or missing: {remedy}")
        return saved["lengths"]

    def _steps(self) -> int:
        file = self._files["rewards.npy"]
        return (file.tell() - HEADER) // 4

    def add(self, episode: Episode, where: str) -> None:
        """Writes an episode; `where` names its place in the source, for an error if it breaks a rule."""
        check_episode(episode, self.description, where)
        action = episode.action
        if action.dtype.kind == "f":
            action = action.clip(-1, 1)  # rounding may have put it a little outside
        row = np.array((self.steps_written, len(episode.reward), int(episode.end), episode.group), EPISODE)
        arrays = (encode(episode.obs, *self.description.stored), action, episode.reward, row)
        for name, array in zip(FILES, arrays, strict=True):
            with naming(self._folder / name):
                self._files[name].write(np.ascontiguousarray(array).tobytes())
        self.episodes_written += 1
        self.steps_written += len(episode.reward)
        if time.monotonic() - self._saved_at > SAVED_EVERY:
            self._save_progress()

    def _save_progress(self) -> None:
        for name, file in self._files.items():
            with naming(self._folder / name):
                sync(file)
        lengths = {name: file.tell() for name, file in self._files.items()}
        atomic_write(self._folder / PROGRESS, json.dumps({**self._begin, "lengths": lengths}).encode())
        self._saved_at = time.monotonic()

    def finish(self) -> Store:
        """Gives the store its manifest and its name."""
        if not self.episodes_written:
            raise SharedqError(
                f"{self.description.source} holds no episode with a whole step: there is nothing to write"
            )
        self._save_progress()
        shape, dtype = stored_form(*self.description.stored)
        one, rows = self.description.spec.actions.one, self.steps_written + self.episodes_written
        forms = {
            "observations.npy": ((rows, *shape), dtype),
            "actions.npy": ((self.steps_written, *one.shape), np.dtype(one.dtype)),
            "rewards.npy": ((self.steps_written,), np.dtype(np.float32)),
            "episodes.npy": ((self.episodes_written,), EPISODE),
        }
        for name, file in self._files.items():
            with naming(self._folder / name):
                file.seek(0)
                file.write(header(*forms[name]))
                sync(file)
        files = {name: {"bytes": os.fstat(f.fileno()).st_size, "blocks": _blocks(f)} for name, f in self._files.items()}
        with naming(self._folder / "episodes.npy"):
            self._files["episodes.npy"].seek(HEADER)
            episodes = np.frombuffer(self._files["episodes.npy"].read(), EPISODE)
        self._close_files()
        counts = {end.name.lower(): int((episodes["end"] == end).sum()) for end in End}
        Manifest(
            self.description,
            episodes=self.episodes_written,
            steps=self.steps_written,
            ends=counts,
            groups=len(np.unique(episodes["group"])),
            made=date.today().isoformat(),
            version=version("sharedq"),
            block=BLOCK,
            files=files,
            content=manifests.content_of(self.description, files),
        ).write(self._folder)
        (self._folder / PROGRESS).unlink()
        self._folder.rename(self.path)
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
        """What stopped the writer decides what is left: wrong data leave nothing, for going on would meet them again.

        A process that is killed, or a full disk, leaves what was written for a writer that goes on.
        """
        with self._alone:
            if next(iter(self._files.values())).closed:
                return
            if isinstance(error, SharedqError):
                self._close_files()
                shutil.rmtree(self._folder)
            else:
                self._save_progress()
                self._close_files()


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
