"""The output of a command, on streams that may be closed, lack letters, or have lost their reader.

A training is worth more than what it says of itself: where nobody listens any more it falls silent and goes on.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from sharedq.errors import visible


class Outlet:
    """A stream. Once it is `dispensable`, output that cannot be written is dropped without an error."""

    def __init__(self, stream: TextIO, dispensable: bool = False):
        self._stream, self.dispensable = stream, dispensable

    def write(self, text: str) -> int:
        with self._dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropped():
            self._stream.flush()

    def discard(self) -> None:
        """Discards what is still to be written, here or by Python at its end."""
        with contextlib.suppress(OSError, ValueError):  # the stream is not a file of the system
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    @contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if not self.dispensable:
                raise
            self.discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outlets() -> Iterator[Outlet]:
    """Puts an outlet in the place of each stream, and gives the one of standard output. Errors have nowhere else to go.

    Letters that a stream does not know are spelt out. A stream that is closed is one to nowhere, so that no file of a
    run gets its number.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    before = sys.stdout, sys.stderr
    out, errors = (_safe(stream) for stream in before)
    sys.stdout, sys.stderr = outlet, _ = Outlet(out), Outlet(errors, dispensable=True)
    try:
        yield outlet
    finally:
        sys.stdout, sys.stderr = before


def _safe(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w")  # noqa: PTH123
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def say(text: object) -> None:
    """Prints text that may come from a file or the name of a folder, with control characters escaped."""
    print(visible(str(text)), flush=True)


def has_colours() -> bool:
    """Whether the output is read in a terminal, by somebody who has not asked for none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class Counted(Protocol):
    def __call__(self, done: int, total: int | None = None, /) -> None:
        """Shows how much is done, and of how much, if that is known."""


def uncounted(done: int, total: int | None = None, /) -> None:
    """Shows nothing."""


@contextmanager
def bar(doing: str, unit: str) -> Iterator[Counted]:
    """A bar in a terminal while something is counted in this unit, and nothing elsewhere. At its end it vanishes."""
    if not sys.stdout.isatty():
        yield uncounted
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    words = (TextColumn(what, markup=False) for what in ("{task.description}", "{task.fields[words]}"))
    live = Progress(next(words), BarColumn(bar_width=24), next(words), console=Console(), transient=True)
    task = live.add_task(visible(doing), total=None, words="")

    def show(done: int, total: int | None = None) -> None:
        of = "" if total is None else f" of {total:,}"
        live.update(task, completed=done, total=total, words=f"{done:,}{of} {unit}")

    with live:
        yield show
