"""Files that are there in full or not at all, also when the machine stops in the middle.

Every file of a run is opened for writing here, and in no other place: a link is never followed, so nothing outside the
run is written, and an error of the system names the file.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sharedq.errors import SharedqError

BLOCK = 2**20  # bytes that are read at once


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets an error of the system name the file that it is about: one that comes while writing names none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def open_new(path: Path) -> BinaryIO:
    """A file that is made now. What has its name is removed first, and is not written into, for it may be a link."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")


def open_to_append(path: Path) -> BinaryIO:
    """A file open at its end, which is made if it is not there."""
    refuse_links(path.parent, [path.name])
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab+")


def refuse_links(root: Path, names: Iterable[str]) -> None:
    """Raises if one of these files and folders in `root`, or what is in them, is neither a plain file nor a folder.

    The folder `root` itself may be reached by a link: whoever named it meant what it leads to.
    """
    paths = [root / name for name in names]
    while paths:
        path = paths.pop()
        try:
            mode = path.lstat().st_mode
            paths += path.iterdir() if stat.S_ISDIR(mode) else ()
        except FileNotFoundError:  # another process may have removed it since
            continue
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "no plain file"
            raise SharedqError(f"{path} is {kind}, and inside a run none is followed: put what it stands for there")


def checksum(path: Path, length: int | None = None) -> str:
    """Of the first `length` bytes of a file, or of all of it."""
    hashed, left = hashlib.sha256(), length
    with path.open("rb") as file:
        while block := file.read(BLOCK if left is None else min(BLOCK, left)):
            hashed.update(block)
            left = None if left is None else left - len(block)
    return hashed.hexdigest()


def sync(file: BinaryIO) -> None:
    """Returns once what was written to `file` lies on the disk."""
    file.flush()
    os.fsync(file.fileno())


class HashedFile:
    """A file open at its end, with the checksum of all that is in it, which grows as it is written."""

    def __init__(self, path: Path):
        self.path, self._hashed, self._length = path, hashlib.sha256(), 0
        with naming(path):
            self._file = open_to_append(path)
            self._file.seek(0)
            while block := self._file.read(BLOCK):
                self._hashed.update(block)
                self._length += len(block)

    def write(self, data: bytes) -> None:
        try:  # what `naming` does, at a tenth of its time
            self._file.write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._hashed.update(data)
        self._length += len(data)

    def publish(self) -> None:
        """Lets others read what was written so far."""
        with naming(self.path):
            self._file.flush()

    def flush(self) -> None:
        """Returns once everything written lies on the disk."""
        with naming(self.path):
            sync(self._file)

    def __len__(self) -> int:
        """Bytes in it, those included that are still to be flushed."""
        return self._length

    @property
    def sha256(self) -> str:
        return self._hashed.hexdigest()

    def close(self) -> None:
        with naming(self.path):
            self._file.close()


def sync_folder(folder: Path) -> None:
    """Returns once the names in `folder` (files made, renamed, removed) lie on the disk."""
    with naming(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_synced(path: Path, chunks: Iterable) -> None:
    """Writes a file from buffers, one after another, and syncs it. Not atomic: for files in a folder to be renamed."""
    with naming(path), open_new(path) as file:
        file.writelines(chunks)
        sync(file)


def unfinished_name(name: str) -> str:
    """What a file is called until all of it is written. A process that is killed leaves it behind."""
    return f".{name}.new"


def atomic_write(path: Path, data: bytes) -> None:
    """Makes or replaces the file `path`: a reader sees the old content or the new, never a part."""
    _replace(path, [data])


def cut(path: Path, length: int) -> None:
    """Lets the file `path` be its first bytes. Should it have another name, what has that name stays as it is."""
    with path.open("rb") as file:
        _replace(path, iter(lambda: file.read(min(BLOCK, length - file.tell())), b""))


def _replace(path: Path, chunks: Iterable) -> None:
    unfinished = path.with_name(unfinished_name(path.name))
    write_synced(unfinished, chunks)
    unfinished.replace(path)
    sync_folder(path.parent)
