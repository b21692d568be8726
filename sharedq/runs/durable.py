"""Files that are there in full or not at all, also when the machine stops in the middle."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


def sync(file: BinaryIO) -> None:
    """Returns once what was written to `file` lies on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns once the names in `folder` (files made, renamed, removed) lie on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, chunks: Iterable) -> None:
    """Writes a file from buffers, one after another, and syncs it. Not atomic: for files in a folder to be renamed."""
    with path.open("wb") as file:
        file.writelines(chunks)
        sync(file)


def atomic_write(path: Path, data: bytes) -> None:
    """Makes or replaces the file `path`: a reader sees the old content or the new, never a part."""
    unfinished = path.with_name(f".{path.name}.new")
    write_synced(unfinished, [data])
    unfinished.replace(path)
    sync_folder(path.parent)
