"""TFRecord files of tf.train.Example messages, without TensorFlow.

A record is its length (8 bytes), a checksum of the length, the data, and a checksum of the data. The data are a message
of protocol buffers: Example{1: Features{1: map of name to Feature{1: bytes, 2: floats or 3: int64s}}}.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

import numpy as np

from sharedq.datasets.reading import readable
from sharedq.errors import SharedqError

LARGEST = 2**31 - 1  # bytes of a record: messages of protocol buffers cannot be larger
POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), with its bits in reverse order
COLUMNS = 256  # pairs of bytes that one lane of `crc32c` goes through

Feature = np.ndarray | list[bytes]


def records(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The data of each record. An error names the file and the number of the record."""
    number = 0
    while True:
        where = f"{name}, record {number}"
        with readable(where):
            head = file.read(12)
            if not head:
                return
            if not is_head(head):
                raise EOFError if len(head) < 12 else ValueError("the checksum of its length differs")
            length = int.from_bytes(head[:8], "little")
            if length > LARGEST:
                raise ValueError(f"it declares {length:,} bytes")
            data = file.read(length)
            checksum = file.read(4)
            if len(data) < length or len(checksum) < 4:
                raise EOFError
            if int.from_bytes(checksum, "little") != masked(crc32c(data)):
                raise ValueError("the checksum of its data differs")
        yield data
        number += 1


def is_head(head: bytes) -> bool:
    """Whether these 12 bytes begin a record."""
    return len(head) == 12 and int.from_bytes(head[8:], "little") == masked(crc32c(head[:8]))


def masked(crc: int) -> int:
    """The form in which a checksum is stored."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum of the data. Lanes of the data are gone through side by side, because Python is slow at bytes."""
    lanes = 1 << max(math.ceil(len(data) / (2 * COLUMNS)) - 1, 0).bit_length()
    if lanes == 1:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = int(_tables()[0][(crc ^ byte) & 0xFF]) ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    # To begin with all bits set is to invert the first four bytes, and zeros in front of the data change nothing then.
    padded = bytes(lanes * 2 * COLUMNS - len(data)) + bytes(byte ^ 0xFF for byte in data[:4]) + data[4:]
    pairs = np.frombuffer(padded, "<u2").reshape(lanes, COLUMNS).T.copy()
    state, table = np.zeros(lanes, np.uint32), _tables()[1]
    for column in pairs:
        state = table[(state ^ column) & 0xFFFF] ^ state >> 16
    for shift in _shifts(lanes.bit_length() - 1):
        state = _times(shift, state[0::2]) ^ state[1::2]
    return int(state[0]) ^ 0xFFFFFFFF


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """What becomes of a state in which one byte is set, or two, after as many bytes of zeros."""
    one = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        one = np.where(one & 1, one >> 1 ^ np.uint32(POLYNOMIAL), one >> 1)
    state = np.arange(2**16, dtype=np.uint32)
    for _ in range(2):
        state = one[state & 0xFF] ^ state >> 8
    return one, state


@cache
def _shifts(levels: int) -> list[np.ndarray]:
    """The linear maps by which a state goes through the zeros of 1, 2, 4, ... lanes: the image of each of its bits."""
    bits, table = np.uint32(1) << np.arange(32, dtype=np.uint32), _tables()[1]
    for _ in range(COLUMNS):
        bits = table[bits & 0xFFFF] ^ bits >> 16
    maps = [bits]
    while len(maps) < levels:
        maps.append(_times(maps[-1], maps[-1]))
    return maps[:levels]


def _times(shift: np.ndarray, state: np.ndarray) -> np.ndarray:
    found = np.zeros_like(state)
    for bit, image in enumerate(shift):
        found ^= np.where(state >> bit & 1, image, np.uint32(0))
    return found


def example(data: bytes, where: str) -> dict[str, Feature]:
    """The features of a tf.train.Example by name: numbers as an array, texts as a list."""
    found: dict[str, Feature] = {}
    try:
        for features in _messages(memoryview(data), 1):
            for entry in _messages(features, 1):
                name = b"".join(map(bytes, _messages(entry, 1))).decode()
                for feature in _messages(entry, 2):
                    found[name] = _feature(feature)
    except (ValueError, IndexError) as error:
        text = error if isinstance(error, ValueError) and not isinstance(error, UnicodeDecodeError) else "it is cut"
        raise SharedqError(f"{where} is no tf.train.Example ({text}): get the file again") from None
    return found


def _feature(feature: memoryview) -> Feature:
    lists = [(number, value) for number, _, value in _fields(feature) if isinstance(value, memoryview)]
    if len(lists) != 1 or lists[0][0] not in (1, 2, 3):
        raise ValueError("a feature has no list of one kind")
    kind, values = lists[0]
    if kind == 1:
        return list(map(bytes, _messages(values, 1)))
    if kind == 2:
        return np.concatenate([np.zeros(0, np.float32), *map(_floats, _fields(values))])
    numbers = [number for field in _fields(values) for number in _integers(field)]
    return np.array(numbers, np.uint64).astype(np.int64)


def _floats(field: tuple[int, int, int | memoryview]) -> np.ndarray:
    number, kind, value = field
    if number != 1 or kind not in (2, 5) or not isinstance(value, memoryview) or len(value) % 4:
        raise ValueError("a list of floats is damaged")
    return np.frombuffer(value, "<f4")


def _integers(field: tuple[int, int, int | memoryview]) -> Iterator[int]:
    number, kind, value = field
    if number != 1 or kind not in (0, 2):
        raise ValueError("a list of whole numbers is damaged")
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        one, at = _varint(value, at)
        yield one


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """What the fields of this number hold, which are messages, bytes or texts."""
    for number, _, value in _fields(data):
        if number == wanted:
            if not isinstance(value, memoryview):
                raise ValueError(f"its field {number} is of another kind")
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, kind and value of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field is of the kind {kind}")
        if length > len(data) - at:
            raise ValueError("a field is longer than its message")
        yield number, kind, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number, seven bits in each byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ValueError("a whole number is too long")
