"""Arrays in numpy's format that are read row by row from an open file, so that an array need not fit into memory.

Nothing is unpickled: an array of Python objects is refused. What is declared is compared with what is there before
memory is asked for.
"""

import math
import warnings
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from sharedq.datasets.reading import check_size, readable
from sharedq.errors import SharedqError, told

AT_ONCE = 2**20  # bytes that are read at once to pass over rows
WHOLE = 2**32  # bytes of an array that may come into memory in one piece


def _header(file: BinaryIO, read: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        return read(file)
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile):
        raise
    except Exception as error:  # numpy parses it as Python does, and raises errors of many kinds
        raise ValueError(f"its header cannot be read, {told(error)}") from None


class ArrayStream:
    """The rows of one array, from the first to the last. `name` names it in errors.

    `size` is the number of bytes in the file, header included, where that is known before they are read.
    """

    def __init__(self, file: BinaryIO, name: str, size: int | None = None):
        self._file, self.name = file, name
        with readable(name):
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"it is of version {version[0]} of the format")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that Python 2 wrote the header, as it did in old data
                self.shape, by_columns, self.dtype = _header(file, read)
        if self.dtype.hasobject:
            raise SharedqError(f"{name} holds Python objects, which are never loaded: save an array of numbers")
        if min(self.shape, default=0) < 0:
            raise SharedqError(f"{name} is damaged (it declares the shape {list(self.shape)}): get it again")
        if by_columns and len(self.shape) > 1:
            raise SharedqError(f"{name} is stored column by column: save numpy.ascontiguousarray of it")
        self._row = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.left = self.shape[0] if self.shape else 1  # rows that were not read yet
        if size is not None and self.left * self._row != size - file.tell():
            raise SharedqError(
                f"{name} declares {self.dtype}{list(self.shape)}, which are {self.left * self._row:,} bytes, and has "
                f"{size - file.tell():,}: get it again"
            )

    def read(self, rows: int) -> np.ndarray:
        """The next rows; `rows` is at most `left`, and they are of one episode."""
        check_size(rows, self.shape[1:], self.dtype, self.name)
        return self._read(rows)

    def _read(self, rows: int) -> np.ndarray:
        with readable(self.name):
            data = self._file.read(rows * self._row)
            if len(data) < rows * self._row:
                raise EOFError
        self.left -= rows
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def skip(self, rows: int) -> None:
        """Passes over rows."""
        with readable(self.name):
            left = rows * self._row
            while left:
                data = self._file.read(min(left, AT_ONCE))
                if not data:
                    raise EOFError
                left -= len(data)
        self.left -= rows

    def finish(self) -> None:
        """Reads to the end, where a compressed file has its checksum."""
        self.skip(self.left)
        with readable(self.name):
            if self._file.read(1):
                raise ValueError(f"it is longer than {self.dtype}{list(self.shape)}, as it declares")

    def whole(self, most: int = WHOLE) -> np.ndarray:
        """The array in memory, if it has no more bytes than `most`."""
        if self.left * self._row > most:
            raise SharedqError(f"{self.name} declares {self.dtype}{list(self.shape)}, which is too large to be read")
        found = self._read(self.left).reshape(self.shape)
        self.finish()
        return found
