"""A lock that one process holds: it ends with the process, however that ends."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharedq.errors import SharedqError
from sharedq.runs.durable import open_to_append

_held: set[tuple[int, int]] = set()


class Locked(SharedqError):
    """Somebody else holds the lock."""


@contextmanager
def locked(file: Path, refusal: str, shared: bool = False) -> Iterator[None]:
    """Holds the lock `file`, which is made if it is not there; raises `Locked` if somebody else holds it.

    Several processes can hold a `shared` lock, but not while another holds one that is not shared.

    It is a POSIX record lock (`lockf`) because a child that is forked does not inherit one: with `flock` the worker of
    an environment kept the lock of a run whose process had been killed. Such a lock has two odd ways. It does not keep
    a process from taking it twice, and it is gone as soon as the process closes any descriptor of the file. So a
    process remembers what it holds, and does not open those files again.
    """
    here = _identity(file)
    if here in _held:
        raise Locked(refusal)
    try:
        opened = open_to_append(file)
    except OSError as error:
        raise SharedqError(f"cannot write {file} ({error.strerror}): make its folder writable") from None
    with opened:
        try:
            fcntl.lockf(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the standard leaves open which of them it is
            raise Locked(refusal) from None
        except OSError as error:
            if error.errno == errno.ESTALE:  # on a network's disk: who held it has removed it
                raise Locked(refusal) from None
            raise SharedqError(f"cannot lock {file} ({error.strerror}): use a disk that knows locks") from None
        here = _identity(file)
        status = os.fstat(opened.fileno())
        if here is None or here != (status.st_dev, status.st_ino):  # who held it has removed it since it was opened
            raise Locked(refusal)
        _held.add(here)
        try:
            yield
        finally:
            _held.discard(here)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
