"""A long file in pieces of equal length, of which those that lie on the disk already are linked and not written again.

So what changes little from one time to the next costs what has changed, by its checksums alone: nothing is known of
what the bytes mean. A piece has a name of its own in each folder that holds it, so a folder can be removed whenever
its owner likes, and the disk frees a piece with its last name. The pieces one after another, as `cat` puts them, are
the file.

A piece that is to be linked is read first and compared with what it must hold. One that was damaged on the disk is
written anew, so damage does not spread from one folder to the next.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sharedq.runs.durable import BLOCK, sync_folder, write_synced

LENGTH = 16 * 2**20  # bytes; a replay of Atari has 450 of them


def write(folder: Path, chunks: Iterable[memoryview], known: Mapping[str, Path]) -> list[dict]:
    """Makes `folder` with the pieces of these bytes, synced; the size and checksum of each, in order.

    `known` are files by their checksum. A piece with one of these, or of an earlier piece, becomes another name of it.
    """
    folder.mkdir()
    known, told, cut = dict(known), [], list(_cut(chunks))
    with ThreadPoolExecutor() as pool:  # hashes pieces on other cores while those before are compared or written
        for number, (piece, digest) in enumerate(zip(cut, pool.map(_digest, cut), strict=True)):
            file = file_of(folder, number)
            if digest not in known or not _holds(known[digest], piece) or not _linked(file, known[digest]):
                write_synced(file, piece)
                known[digest] = file
            told.append({"bytes": sum(map(len, piece)), "sha256": digest})
    sync_folder(folder)
    return told


def file_of(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}"


def _digest(piece: list[memoryview]) -> str:
    hashed = hashlib.sha256()
    for chunk in piece:
        hashed.update(chunk)
    return hashed.hexdigest()


def _holds(file: Path, piece: list[memoryview]) -> bool:
    """Whether these bytes, and no others, are what the disk gives. Comparing costs a third of a checksum."""
    read = np.empty(min(BLOCK, max(map(len, piece))), np.uint8)
    try:
        with file.open("rb", buffering=0) as opened:
            for chunk in piece:
                expected = np.frombuffer(chunk, np.uint8)
                for begin in range(0, len(expected), BLOCK):
                    part = expected[begin : begin + BLOCK]
                    if opened.readinto(read[: len(part)].data) != len(part):
                        return False
                    if not np.array_equal(read[: len(part)], part):
                        return False
            return not opened.read(1)
    except OSError:
        return False


def _linked(file: Path, there: Path) -> bool:
    try:
        file.hardlink_to(there)
    except OSError:  # a disk without links, or a file that has all the names it can have
        return False
    return True


def _cut(chunks: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The same bytes, nothing copied, in lists of `LENGTH` bytes; the last may be shorter."""
    piece: list[memoryview] = []
    room = LENGTH
    for chunk in chunks:
        while len(chunk) >= room:
            yield [*piece, chunk[:room]]
            chunk = chunk[room:]
            piece, room = [], LENGTH
        if len(chunk):
            piece.append(chunk)
            room -= len(chunk)
    if piece:
        yield piece
