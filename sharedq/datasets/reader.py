"""The contract of a reader, which knows one format of other people's data.

A reader is a frozen dataclass with a field `path`, and further fields for what only the user can know. To add one,
write a file with the dataclass and add a line to `READERS`. It reads; it neither executes nor imports what a file
names, and it follows no link that leads out of the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from sharedq.datasets.episode import Episode
from sharedq.datasets.manifest import Description


class Found(NamedTuple):
    """An episode with its place in the source, for messages."""

    episode: Episode
    where: str  # "data/hopper.hdf5, episode 12"
    files: int | None = None  # how many of the reader's files it and those before it needed; None is all of them


class Reader(Protocol):
    path: str  # the file or folder, or the name under which the format's own library finds it

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether the file or folder is of this format. It looks at little of it, and never raises."""

    def describe(self) -> Description:
        """What is known before the episodes are read. Raises a `SharedqError` if the file cannot be read."""

    def files(self) -> list[Path]:
        """The files that are read, in this order: a conversion that goes on looks whether they are the same."""

    def count(self) -> int | None:
        """The number of steps, for a progress bar; None if that is not known before reading."""

    def episodes(self, start: int = 0) -> Iterator[Found]:
        """The episodes from number `start` on, one at a time. Raises a `SharedqError` that names file, episode, step.

        The order is always the same. An episode without a whole step is left out, and does not count.
        """
