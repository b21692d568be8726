"""What training leaves behind, for people who write code: arrays for each seed, and figures that a notebook shows."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from sharedq import reports, settings
from sharedq.errors import SharedqError
from sharedq.reports.figures import Figure, draw
from sharedq.reports.finding import findings
from sharedq.reports.load_runs import Episodes, load_run
from sharedq.reports.load_runs import Run as Read
from sharedq.reports.outputs import PAGE
from sharedq.reports.statistics import learning_curve
from sharedq.reports.summary import POINTS, summarise
from sharedq.runs import RunDirectory
from sharedq.validation import path as as_path

WHOLE = ("step", "seed", "length")  # columns of whole numbers
CURVES = "learning_curves"  # the name of the figure, or its ending


class Figures(tuple[Figure, ...]):
    """Figures that a notebook shows inline. Each has its `name`, its `caption` and its files `svg` and `png`."""

    def __repr__(self) -> str:
        return f"Figures({', '.join(one.name for one in self)})"

    def _repr_html_(self) -> str:
        return "".join(
            f'<figure><img src="data:image/png;base64,{base64.b64encode(one.png).decode()}" width="520" '
            f'alt="{escape(one.caption)}"><figcaption>{escape(one.caption)}</figcaption></figure>'
            for one in self
        )


@dataclass(frozen=True, repr=False)
class Run(RunDirectory):
    """A run on disk, finished or not, and its results as arrays: `Run("runs/first")`.

    A table is a dict with an array for each column, one entry per row. `pandas.DataFrame` takes it as it is.
    """

    def __post_init__(self):
        object.__setattr__(self, "path", RunDirectory.open(self.path).path)

    def __fspath__(self) -> str:
        """So that a run can be given wherever the path of a run can."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def metrics(self) -> dict[str, np.ndarray]:
        """The rows of metrics.csv: one per log step and seed. What was not measured is nan."""
        return _table(self._read().metrics)

    def episodes(self) -> dict[str, np.ndarray]:
        """The rows of episodes.csv: one per finished episode, with `step`, `seed`, `return` and `length`."""
        return _played(self._read().episodes)

    def evaluations(self) -> dict[str, np.ndarray]:
        """The rows of evaluations.csv, which are like those of episodes.csv. A run that does not evaluate has none."""
        return _played(self._read().evaluations)

    def curves(self, points: int = POINTS) -> dict[str, np.ndarray]:
        """The learning curve of each seed, as a report computes it: `step` [P], `returns` [S, P] and `seeds` [S].

        A point is the mean return of the episodes that ended since the point before. It is nan before the first one.
        Of a run that learns from a data set these are the episodes of its evaluations.
        """
        points = settings.convert(points, int, "points")
        settings.check_count("points", points)
        run = self._read()
        span = max(1, int(run.reached.max()))
        grid = np.linspace(span / points, span, points)
        return {"step": grid, "returns": learning_curve(run, grid), "seeds": np.array(run.seeds)}

    def plot(self) -> Figures:
        """The learning curve over seeds, with its interval, as a report draws it. A notebook shows it inline."""
        return _drawn(self.path, only=CURVES)

    def _repr_html_(self) -> str | None:
        return _html(self.plot, lambda: [repr(self)])

    def _read(self) -> Read:
        return load_run(self.path, self.path.name)


@dataclass(frozen=True, repr=False)
class Comparison:
    """A comparison on disk, with its runs and its report: `Comparison("comparisons/cartpole")`."""

    path: Path

    def __post_init__(self):
        path = as_path(self.path, "the folder of a comparison").absolute()
        object.__setattr__(self, "path", path)
        self._plan()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Comparison({str(self.path)!r})"

    @property
    def page(self) -> Path:
        """The report."""
        return self.path / PAGE

    @property
    def runs(self) -> dict[str, Run]:
        """The runs that have begun, by their labels."""
        folders = {one["label"]: self.path / one["folder"] for one in self._plan()["runs"]}
        return {label: Run(folder) for label, folder in folders.items() if (folder / "experiment.json").exists()}

    def findings(self) -> list[str]:
        """What the report says about each source, in sentences."""
        return findings(summarise(reports.load(self.path)))

    def plot(self) -> Figures:
        """The figures of the report."""
        return _drawn(self.path)

    def _plan(self) -> dict[str, Any]:
        return reports.read_plan(self.path, "give the folder of a comparison")

    def _repr_html_(self) -> str | None:
        return _html(self.plot, self.findings)


def _played(episodes: Episodes) -> dict[str, np.ndarray]:
    return _table(dict(zip(("step", "seed", "return", "length"), episodes, strict=True)))


def _table(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.astype(np.int64) if name in WHOLE else values for name, values in columns.items()}


def _drawn(folder: Path, only: str = "") -> Figures:
    """The figures of a report on this folder, or those of them whose names end so."""
    drawn = draw(summarise(reports.load(folder)))
    found = Figures(one for group in drawn.values() for one in group if one.name.endswith(only))
    if not found:
        raise SharedqError(f"no episode has ended in {folder} yet, so there is nothing to plot")
    return found


def _html(plot: Callable[[], Figures], lines: Callable[[], list[str]]) -> str | None:
    """Lines and figures for a notebook. It shows the plain text instead where nothing can be drawn."""
    try:
        return "".join(f"<p>{escape(line)}</p>" for line in lines()) + plot()._repr_html_()
    except SharedqError:
        return None
