"""Every moment at which a process changes what lies in a folder: to look at the disk there, to fail, or to be killed.

What a SIGKILL leaves is what the system has been told until then, so the folder as it is just before a change is what a
process that is killed there leaves behind. So one run gives all of them, without a process for each. A machine that
stops loses, besides, what was written and never synced: half of it, or all.
"""

import errno
import hashlib
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.symlink"}
GROWING = {"open", "os.mkdir", "os.link", "os.fsync", "os.rename"}  # what a full disk may refuse
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
DEAD = 2**22 + 1  # a process that no Linux has: its half-made folders are those of a process that is no more

_watched: list[Callable[[str, str], None]] = []


def _hear(event: str, arguments: tuple) -> None:
    if _watched and (event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)):
        _watched[-1](event, arguments[0])


@contextmanager
def watched(folder: Path, act: Callable[[str], None]) -> Iterator[None]:
    """Within, calls `act` with the name of a change before each change to what lies in `folder`."""
    if not hasattr(watched, "hears"):
        watched.hears = True
        sys.addaudithook(_hear)  # which stays until the process ends
    acting = False

    def heard(event, path):
        nonlocal acting
        if acting or isinstance(path, int):
            return
        text = os.fsdecode(path)
        if Path(text).is_absolute() and not text.startswith(str(folder)):
            return  # relative names are those of `shutil.rmtree`, and the commands of these tests work in the folder
        acting = True
        try:
            act(event)
        finally:
            acting = False

    fsync = os.fsync

    def heard_fsync(handle):
        heard("os.fsync", str(folder))
        fsync(handle)
        _synced[_identity(os.fstat(handle))] = os.fstat(handle).st_size

    for path in folder.rglob("*"):  # what was there before has long been on the disk
        _synced[_identity(path.lstat())] = path.lstat().st_size
    _watched.append(heard)
    os.fsync = heard_fsync
    try:
        yield
    finally:
        os.fsync = fsync
        _watched.pop()
        _synced.clear()


_synced: dict[tuple[int, int], int] = {}  # how much of a file was synced


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def copy(folder: Path, to: Path, lost: float = 0.0) -> Path:
    """A copy with its hard links; without this share of what was not yet synced of each file."""
    names: dict[tuple[int, int], Path] = {}
    to.mkdir(parents=True)
    for path in sorted(folder.rglob("*")):
        goal, status = to / path.relative_to(folder), path.lstat()
        if path.is_symlink():
            goal.symlink_to(path.readlink())
        elif path.is_dir():
            goal.mkdir()
        elif _identity(status) in names:
            goal.hardlink_to(names[_identity(status)])
        else:
            shutil.copy2(path, goal)
            names[_identity(status)] = goal
            safe = min(_synced.get(_identity(status), 0), status.st_size)
            if lost and safe < status.st_size:
                os.truncate(goal, safe + int((status.st_size - safe) * (1 - lost)))
    return to


def _digest(folder: Path) -> str:
    hashed = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        content = b"" if path.is_dir() else path.read_bytes()
        told = (path.relative_to(folder).as_posix(), status.st_mode, path.is_file() and status.st_nlink, len(content))
        hashed.update(repr(told).encode() + content)
    return hashed.hexdigest()


class Recorder:
    """Keeps a copy of a folder at each moment at which it is another than at the moments before, or at some of them."""

    def __init__(self, folder: Path, kept: Path, losses: tuple[float, ...] = (0.0,), share: float = 1.0):
        self.folder, self._kept, self._losses, self._seen = folder, kept, losses, set()
        self._share, self._draw = share, random.Random(str(losses))
        self.moments, self.copies = 0, []

    def __call__(self, event: str) -> None:
        self.moments += 1
        for lost in self._losses:
            if self._draw.random() >= self._share:
                continue
            made = copy(self.folder, self._kept / f"{len(self.copies):05d}", lost)
            digest = _digest(made)
            if digest in self._seen:
                shutil.rmtree(made)
            else:
                self._seen.add(digest)
                self.copies.append((f"moment {self.moments} ({event}), {lost:.0%} of what was not synced lost", made))


class Full:
    """A disk that is full from the n-th moment on."""

    def __init__(self, at: int):
        self.at, self.moments, self.refused = at, 0, 0

    def __call__(self, event: str) -> None:
        self.moments += 1
        if self.moments >= self.at and event in GROWING:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Kills:
    """Kills this process at the n-th moment."""

    def __init__(self, at: int):
        self.at, self.moments = at, 0

    def __call__(self, event: str) -> None:
        self.moments += 1
        if self.moments == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
