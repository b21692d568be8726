"""The page of a search for settings, and the numbers by which its trials are ranked."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sharedq.errors import SharedqError
from sharedq.reports import statistics
from sharedq.reports.files import is_there, read, replace
from sharedq.reports.finding import percent
from sharedq.reports.finding import significant as number
from sharedq.reports.html import NOTHING, Cell, document, html_table
from sharedq.reports.load_runs import load_run
from sharedq.reports.looks import looks
from sharedq.reports.outputs import PAGE_BEGINS
from sharedq.reports.settings_told import portable
from sharedq.reports.summary import MOST_STEPS, POINTS

PAGE = "search.html"
CHECKS = 10  # ours: points of a training at which a trial has a value, the end included
FIRST_CHECK = 3  # ours: from which of them on a trial can be pruned
UNPRUNED = 5  # trials of a source that are trained to their end before another one is pruned, as optuna has it
RANDOM = 10  # trials of a source whose settings are drawn at random, as optuna has it
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 600, 260, 64, 16, 12, 44  # of a scatter plot

METHOD = f"""<h2>How the trials are ranked</h2>
<p>The <b>value</b> of a trial is what the reports of sharedq rank by: the area under the learning curve divided by its
width, which is the mean return over training, and of it the interquartile mean over the seeds. With fewer than four
seeds this is the mean. The warm-up, in which nothing is learned, is left out.</p>
<p>New settings are drawn by the tree-structured Parzen estimator of optuna, the first {RANDOM} at random. A trial is
<b>pruned</b>, that is stopped early, if the best value that it has had lies below the median of the trials that were
trained to their end, at the same step. None is pruned before {UNPRUNED} trials of a source have been trained to their
end. Trials are looked at after each tenth of the training, from number {FIRST_CHECK} on. A pruned or failed trial
counts as one of the trials, so every source has the same number of them, with the same seeds, steps and ranges.</p>
<p><b>Importances</b> are those of PED-ANOVA, over the trials that were trained to their end. They say how much a
setting decides whether a trial is among the best, and add up to 100 %. With few trials they are a rough guess.</p>
<p>The best of many noisy values is partly luck. Before you compare the best settings with anything else, train them
again with seeds that the search has not used.</p>
"""


Axis = Literal["linear", "log", "choices"]  # of a setting that is varied


class Trial(NamedTuple):
    """One trial, as the page shows it."""

    number: int
    folder: str
    value: float | None  # of a trial that was trained to its end
    status: str
    settings: Mapping[str, str]
    numbers: Mapping[str, float]  # of the settings whose values are numbers


class Tuned(NamedTuple):
    """The trials of one source."""

    label: str
    kind: str  # of the source, which decides its colour
    trials: Sequence[Trial]
    importances: Mapping[str, float]
    best: Trial | None
    command: str  # that trains with the best settings


def values_of(folder: Path, start: int) -> list[float]:
    """The value of a run at each of the checks that all its seeds have passed. `start` is the end of the warm-up.

    A seed that has only just reached a check may have an evaluation there that is not written yet. The last value, of a
    finished run, is the area that reports rank by.
    """
    run = load_run(folder, folder.name)
    reached = int(run.reached.min())
    grid = np.linspace(run.planned / POINTS, run.planned, POINTS)
    if not run.plays:
        evaluated = np.unique(run.played.step)
        grid = evaluated if 0 < len(evaluated) <= MOST_STEPS else grid
    curve, found = statistics.learning_curve(run, grid), []
    for check in range(1, CHECKS + 1):
        due = run.planned * check
        if reached * CHECKS < due or (reached * CHECKS == due and not run.finished):
            break
        until = run.planned * (check / CHECKS + 1e-9)  # the points of the grid are rounded
        areas = statistics.area_under_curve(curve[:, (grid > start) & (grid <= until)])
        areas = areas[np.isfinite(areas)]
        found.append(float(statistics.iqm(areas)) if len(areas) else math.nan)
    return found


def check_page(out: Path) -> None:
    """Raises if a page in `out` would replace a file that is no page of ours."""
    if is_there(out / PAGE) and not (read(out, PAGE) or b"").startswith(PAGE_BEGINS.encode()):
        raise SharedqError(f"{out / PAGE} was not written by a search, so it is left alone: move it away")


def write(
    out: Path, title: str, about: str, varied: Mapping[str, Axis], tuned: Sequence[Tuned], command: str, training: bool
) -> Path:
    """Writes the page of a search. `varied` has the settings that are varied."""
    check_page(out)
    colours = {label: look.colour for label, look in looks({one.label: one.kind for one in tuned}).items()}
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(about)}</p>',
        f'<div class="lead">{_best(tuned)}</div>',
    ]
    if training:
        body.append('<p class="quiet">The search goes on. This page loads itself again every minute.</p>')
    if len(tuned) > 1:
        body += ["<h2>Sources</h2>", _sources(tuned, colours)]
    for one in tuned:
        if one.best is not None:
            body += [f"<h2>{escape(_named('Best settings', one))}</h2>", f"<pre>{escape(one.command)}</pre>"]
    body += [_importances(tuned, varied), "<h2>Values by setting</h2>"]
    body += [_scatter(name, axis, tuned, colours) for name, axis in varied.items()]
    for one in tuned:
        body += [f"<h2>{escape(_named('Trials', one))}</h2>", _trials(one, varied)]
    body += [
        METHOD,
        "<h2>Command</h2>",
        f"<pre>{escape(portable(command, out.resolve()))}</pre>",
        '<div id="sources" hidden></div>',
    ]
    charts = json.dumps({"sources": [], "charts": []})
    replace(out / PAGE, document(escape(title), "\n".join(body), charts, training).encode())
    return out / PAGE


def _named(what: str, one: Tuned) -> str:
    return f"{what} of {one.label}" if one.label else what


def _best(tuned: Sequence[Tuned]) -> str:
    found = [(one.best.value or 0.0, one.best, one.label) for one in tuned if one.best is not None]
    if not found:
        return "<p>No trial has been trained to its end yet.</p>"
    value, best, label = max(found, key=lambda one: one[0])
    settings = ", ".join(f"{name} {text}" for name, text in best.settings.items())
    words = f"The best value is {number(value)}, of trial {best.number}{f' of {label}' * bool(label)}: {settings}."
    return f"<p>{escape(words)}</p>"


def _value(trial: Trial | None) -> Cell:
    return NOTHING if trial is None or trial.value is None else Cell(number(trial.value), (trial.value,))


def _dot(one: Tuned, colours: Mapping[str, int]) -> str:
    return f'<span class="dot c{colours[one.label]}"></span>{escape(one.label)}'


def _sources(tuned: Sequence[Tuned], colours: Mapping[str, int]) -> str:
    rows: list[list[str | Cell]] = []
    for one in tuned:
        value = _value(one.best)
        ended = sum(trial.value is not None for trial in one.trials)
        pruned = sum(trial.status.startswith("pruned") for trial in one.trials)
        failed = sum(trial.status.startswith("failed") for trial in one.trials)
        counts = [Cell(str(count), (count,)) for count in (len(one.trials), ended, pruned, failed)]
        command = "–" if one.best is None else f"<code>{escape(one.command)}</code>"
        rows.append([_dot(one, colours), value, *counts, command])
    return html_table(["Source", "Best value", "Trials", "Finished", "Pruned", "Failed", "Command"], rows)


def _importances(tuned: Sequence[Tuned], varied: Mapping[str, Axis]) -> str:
    """A row for each setting; empty while too few trials have ended."""
    known = [one for one in tuned if one.importances]
    if not known:
        return ""
    rows: list[list[str | Cell]] = []
    for name in varied:
        shares = [one.importances.get(name) for one in known]
        cells = [NOTHING if share is None else Cell(percent(share), (100 * share,)) for share in shares]
        rows.append([escape(name), *cells])
    heads = ["Setting", *(escape(one.label or "Importance") for one in known)]
    return f"<h2>Importances</h2>\n{html_table(heads, rows)}"


def _trials(one: Tuned, varied: Mapping[str, Axis]) -> str:
    own = [name for name in varied if any(name in trial.settings for trial in one.trials)]
    rows: list[list[str | Cell]] = []
    for trial in one.trials:
        settings = [
            Cell(escape(trial.settings[name]), tuple(trial.numbers[name] for _ in "1" if name in trial.numbers))
            if name in trial.settings
            else NOTHING
            for name in own
        ]
        rows.append([str(trial.number), _value(trial), *settings, escape(trial.folder), escape(trial.status)])
    return html_table(["Trial", "Value", *map(escape, own), "Folder", "Status"], rows)


def _scatter(name: str, axis: Axis, tuned: Sequence[Tuned], colours: Mapping[str, int]) -> str:
    """The values of the trials that ended against one setting, as a drawing inside the page."""
    points = [
        (one, trial) for one in tuned for trial in one.trials if trial.value is not None and name in trial.settings
    ]
    if not points:
        return ""
    places: list[float]
    x_marks: list[float]
    if axis == "choices":
        ordered = sorted(points, key=lambda one: (one[1].numbers.get(name, 0.0), one[1].settings[name]))
        shown = list(dict.fromkeys(trial.settings[name] for _, trial in ordered))
        places = [float(shown.index(trial.settings[name])) for _, trial in points]
        x_marks = [float(place) for place in range(len(shown))]
    else:
        places = [trial.numbers[name] for _, trial in points]
        x_marks = _log_marks(places) if axis == "log" else _marks(places)
        shown = [f"{mark:g}" for mark in x_marks]
    values = [trial.value for _, trial in points if trial.value is not None]
    x = _scale([*places, *x_marks], _LEFT, _WIDTH - _RIGHT, axis == "log")
    y_marks = _marks(values)
    y = _scale([*values, *y_marks], _HEIGHT - _BOTTOM, _TOP)
    drawn = []
    for mark, words in zip(x_marks, shown):
        at = x(mark)
        drawn.append(f'<line x1="{at}" x2="{at}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        drawn.append(f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(words)}</text>')
    for mark in y_marks:
        at = y(mark)
        drawn.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{number(mark)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    drawn.append(f'<text class="title" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(name)}</text>')
    for (one, trial), place, value in zip(points, places, values):
        told = f"{_named(f'trial {trial.number}', one)}: {number(value)} at {trial.settings[name]}"
        fill = f"var(--c{colours[one.label]})"
        drawn.append(
            f'<circle cx="{x(place)}" cy="{y(value)}" r="4.5" fill="{fill}"><title>{escape(told)}</title></circle>'
        )
    caption = f"The value of each trial that was trained to its end, against {name}."
    label = f'role="img" aria-label="{escape(caption)}"'
    style = "display:block;width:100%;max-width:600px;margin:0 auto;font-size:12px"
    inside = f'<svg {label} viewBox="0 0 {_WIDTH} {_HEIGHT}" style="{style}"><g class="axes">{"".join(drawn)}</g></svg>'
    return f"<figure>{inside}<figcaption>{escape(caption)}</figcaption></figure>"


def _marks(values: Sequence[float]) -> list[float]:
    """About four round numbers over the span of the values."""
    low, high = min(values), max(values)
    rough = (high - low) / 4 or abs(low) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(size for size in (1, 2, 2.5, 5, 10) if size * power >= rough * 0.999)
    return [step * at for at in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _log_marks(values: Sequence[float]) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)]


def _scale(values: Sequence[float], start: float, end: float, is_log: bool = False):
    """Where a number lies on an axis that has these values between its ends."""
    place = math.log if is_log else float
    low, high = place(min(values)), place(max(values))
    margin = 0.04 * (high - low) or 0.5

    def at(value: float) -> float:
        share = (place(value) - low + margin) / (high - low + 2 * margin)
        return round(start + share * (end - start), 1)

    return at
