"""TensorBoard's event file, written by hand: scalars and histograms only, and no dependency.

A file is a row of records `length, crc(length), event, crc(event)`. An event is a protobuf message of four fields
(wall_time = 1, step = 2, file_version = 3, summary = 5). The summary holds one value: of a scalar its name and number
(tag = 1, simple_value = 2), of a histogram its name and bins (tag = 1, histo = 5). The summary is written first, so
that the bytes of a scalar and their checksum are the same for every event of a tag up to the value itself, and are
computed once.
"""

import struct
import time
from functools import cache
from typing import Any

from sharedq.runs.durable import HashedFile


def _table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [(crc >> 1) ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table


_TABLE = _table()


def _extend(crc: int, data: bytes) -> int:
    """The checksum (CRC-32C, before its last inversion) of what `crc` is of, followed by `data`."""
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _masked(crc: int) -> bytes:
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _stamp(wall_time: float, step: int) -> bytes:
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step)


@cache
def _length(length: int) -> bytes:
    encoded = struct.pack("<Q", length)
    return encoded + _masked(_extend(0xFFFFFFFF, encoded))


@cache
def _until_value(tag: str) -> tuple[bytes, int]:
    """The event of a scalar up to the four bytes of its value, and the checksum so far."""
    four_bytes = bytes(4)
    start = _field(5, _field(1, _field(1, tag.encode()) + b"\x15" + four_bytes))[: -len(four_bytes)]
    return start, _extend(0xFFFFFFFF, start)


class EventFile:
    """Appends to an event file; begins it if it is empty."""

    def __init__(self, file: HashedFile):
        self._file = file
        if len(file) == 0:
            version = _field(3, b"brain.Event:2")
            self._record(version, _extend(0xFFFFFFFF, version), _stamp(time.time(), 0))

    def scalar(self, tag: str, value: float, step: int, wall_time: float) -> None:
        self._record(*_until_value(tag), struct.pack("<f", value) + _stamp(wall_time, step))

    def histogram(self, tag: str, edges: Any, counts: Any, step: int, wall_time: float) -> None:
        """Counts in the bins between edges. Sums, of which TensorBoard shows none, are those of the bins' middles."""
        middles = (edges[:-1] + edges[1:]) / 2
        numbers = edges[0], edges[-1], counts.sum(), counts @ middles, counts @ middles**2
        told = b"".join(_varint(place << 3 | 1) + struct.pack("<d", x) for place, x in enumerate(numbers, start=1))
        told += _field(6, edges[1:].astype("<f8").tobytes()) + _field(7, counts.astype("<f8").tobytes())
        start = _field(5, _field(1, _field(1, tag.encode()) + _field(5, told)))
        self._record(start, _extend(0xFFFFFFFF, start), _stamp(wall_time, step))

    def _record(self, start: bytes, crc: int, rest: bytes) -> None:
        """Writes the event `start + rest`, where `crc` is the checksum of `start`, before its last inversion."""
        self._file.write(_length(len(start) + len(rest)) + start + rest + _masked(_extend(crc, rest)))
