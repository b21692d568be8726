"""What readers share: an error while reading names its place, and arrays are checked before they become episodes."""

import math
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sharedq.errors import SharedqError, reason

AGAIN = "get it or make it again"
LARGEST = 2**31  # ours: bytes of the observations of an episode, which come into memory at once


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turns what goes wrong while a file is read that is missing, cut or changed into one line."""
    try:
        yield
    except EOFError:
        raise SharedqError(f"{what} ends too early, because it was cut: {AGAIN}") from None
    except OSError as error:
        if error.errno is not None:  # the system says it; of the content the libraries say it
            said = (error.strerror or str(error)).splitlines()[0]
            raise SharedqError(f"cannot read {what} ({said})") from None
        raise SharedqError(f"{what} is damaged ({reason(error)}): {AGAIN}") from None
    except (RuntimeError, LookupError, ValueError, TypeError, OverflowError, zlib.error, zipfile.BadZipFile) as error:
        raise SharedqError(f"{what} is damaged ({reason(error)}): {AGAIN}") from None


def refuse_link(path: Path) -> None:
    """Raises if a file or folder in a folder of data is a link, which may lead out of it, or a pipe, which may hang."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # whoever opens it says so
    if stat.S_ISLNK(mode):
        raise SharedqError(
            f"{path} is a symbolic link, and inside a data set none is followed: put there what it names"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SharedqError(f"{path} is no plain file: put one there")


def check_size(rows: int, shape: Sequence[int], dtype: Any, where: str) -> None:
    """Raises if so many rows of this shape, which the data declare, are more than an episode may have."""
    dtype = np.dtype(dtype)
    size = rows * math.prod(shape) * dtype.itemsize
    if size > LARGEST:
        raise SharedqError(
            f"{where} declares {rows:,} rows of {dtype}{list(shape)}, which are {size:,} bytes, and an episode may "
            f"have {LARGEST:,}: cut it into several"
        )


def check_lengths(lengths: dict[str, tuple[int, int]], where: str) -> None:
    """Raises if an array has not the length that it should have: of each name, what was found and what was wanted."""
    for name, (found, wanted) in lengths.items():
        if found != wanted:
            raise SharedqError(
                f"{where} has {found:,} {name}, and should have {wanted:,}: its arrays do not belong together"
            )


def flags(values: np.ndarray, name: str, where: str, row: str = "step") -> np.ndarray:
    """End flags [T] as booleans. `row` says what one of them stands for."""
    values = values.reshape(-1)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise SharedqError(f"{where}, {row} {first}: {name} is {values[first]}, and not true or false")
    return values.astype(bool)


def as_rewards(own: np.ndarray, where: str) -> np.ndarray:
    """Rewards [T] or [T, 1] as the store keeps them."""
    if own.dtype.kind not in "fiub":
        raise SharedqError(f"{where} has rewards of {own.dtype}, which are not numbers")
    with np.errstate(over="ignore"):  # the rules find what is infinite
        return own.reshape(-1).astype(np.float32)
