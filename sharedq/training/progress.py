"""How a run shows its progress: a bar in a terminal, and a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from sharedq.errors import SharedqError, visible
from sharedq.output import say

PLAIN_LINE_EVERY = 5.0  # seconds


class Progress(Protocol):
    def say(self, text: str) -> None: ...

    def update(self, step: int, rate: float, mean_return: float | None, learning: bool) -> None: ...


Unit = Literal["steps", "updates"]  # what the steps of a run are called: those of a run from data are updates
Wanted = Progress | Literal["auto"] | None  # how Python code asks for a progress display


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        pass

    def update(self, step: int, rate: float, mean_return: float | None, learning: bool) -> None:
        pass


class PlainLines:
    """One line at a time, at most every few seconds."""

    def __init__(self, name: str, steps: int, seeds: int, unit: Unit = "steps"):
        self._name, self._steps, self._seeds, self._unit = name, steps, seeds, unit
        self._last = -PLAIN_LINE_EVERY

    def say(self, text: str) -> None:
        say(text)

    def update(self, step: int, rate: float, mean_return: float | None, learning: bool) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_LINE_EVERY and step < self._steps:
            return
        self._last = now
        words = _words(self._unit, step, self._steps, self._seeds, rate, mean_return, learning)
        self.say(f"{self._name}: {words}")


class Bar:
    """A live bar, drawn by the package rich."""

    def __init__(self, name: str, steps: int, seeds: int, unit: Unit = "steps"):
        from rich.progress import BarColumn, Progress, TextColumn

        words = (TextColumn(what, markup=False) for what in ("{task.description}", "{task.fields[words]}"))
        columns = (next(words), BarColumn(bar_width=24), next(words))
        self.live = Progress(*columns)
        self._steps, self._seeds, self._unit = steps, seeds, unit
        self._task = self.live.add_task(visible(name), total=steps, words="compiling")

    def say(self, text: str) -> None:
        self.live.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def update(self, step: int, rate: float, mean_return: float | None, learning: bool) -> None:
        words = _words(self._unit, step, self._steps, self._seeds, rate, mean_return, learning)
        self.live.update(self._task, completed=step, words=words)


@contextmanager
def shown(name: str, experiment: Any) -> Iterator[Progress]:
    """The progress display that suits the output: a bar in a terminal, else plain lines."""
    training = experiment.training
    words = name, training.steps, experiment.seeds, unit_of(training)
    if sys.stdout.isatty():
        bar = Bar(*words)
        with bar.live:
            yield bar
    else:
        yield PlainLines(*words)


@contextmanager
def displayed(wanted: Wanted, name: str, experiment: Any) -> Iterator[Progress]:
    """The progress display that is wanted: "auto" is the one that suits the output, None is silent."""
    check_progress(wanted)
    if isinstance(wanted, str):
        with shown(name, experiment) as found:
            yield found
    else:
        yield Silent() if wanted is None else wanted


def check_progress(wanted: Any) -> None:
    """Raises unless this is a way to ask for a progress display."""
    known = wanted == "auto" if isinstance(wanted, str) else wanted is None
    if not known and not all(callable(getattr(wanted, name, None)) for name in ("say", "update")):
        raise SharedqError(f'progress must be "auto", None or an object with say and update, not {wanted!r}')


def _words(
    unit: Unit, step: int, steps: int, seeds: int, rate: float, mean_return: float | None, learning: bool
) -> str:
    """One line of progress. `rate` counts the steps of all seeds. The time left is shown once learning has begun."""
    returned = "" if mean_return is None else f", return {mean_return:.2f}"
    rest = f"{duration(max(steps - step, 0) * seeds / rate)} left" if learning and rate > 0 else "warming up"
    return f"{step:,} of {steps:,} {unit}, {rate:,.0f} {unit}/s{returned}, {rest}"


def unit_of(training: Any) -> Unit:
    """What the steps of a run with these settings of a training are called."""
    return "updates" if training.learns_from == "data" else "steps"


def counted(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds != 1)}"


def duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
