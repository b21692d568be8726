"""The figures of a report, each drawn once: as SVG, which a style sheet inside it colours for dark pages, and as PNG.

The same label has the same colour, line and marker in every figure. Colours are told apart by colour-blind readers
and stand out from both papers; line styles and markers say the same once more. The text is set in a size that
survives being shown 330 pixels wide.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sharedq.errors import missing_extra
from sharedq.reports.summary import Overall, Result, Summary, Task
from sharedq.units import readable

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH, HEIGHT = 5.2, 3.4  # inches
LABEL_LENGTH = 36  # characters of a label that a figure shows
SETTINGS = {
    "font.size": 12,
    "axes.labelsize": 12,
    "legend.fontsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.xmargin": 0.02,
    "text.parse_math": False,  # a label is shown as it is written, dollar signs too
    "svg.fonttype": "path",  # looks the same on every machine
    "svg.hashsalt": "sharedq",  # the same numbers give the same file
}


class Paper(NamedTuple):
    """The colours that a figure is drawn in; the background is left to the page."""

    name: str
    ink: str
    faint: str
    colours: tuple[str, ...]


LIGHT = Paper("light", "#22262b", "#c9ced6", ("#0b66b0", "#c2410c", "#0a7d5a", "#a03d8f", "#8a6a00", "#5b6470"))
DARK = Paper("dark", "#e4e7eb", "#4a515b", ("#62b5f5", "#ff9466", "#3fcf9f", "#ec9ddb", "#e3c04a", "#aab3bf"))


class Figure(NamedTuple):
    """A drawn figure: what it shows in words, and its files."""

    name: str
    caption: str
    svg: bytes  # light, or dark where the reader's setting is dark
    png: bytes  # on white


class Style(NamedTuple):
    """How one label looks."""

    colour: str
    line: str
    marker: str


Drawing = Callable[[Any, Paper, dict[str, Style]], None]  # draws on matplotlib axes


class Plan(NamedTuple):
    """A figure to be drawn."""

    name: str
    caption: str
    drawing: Drawing
    legend: list[str]  # labels that the drawing does not write itself
    height: float


def draw(summary: Summary) -> dict[str, list[Figure]]:
    """The figures of each environment by its name, and under "" those over all environments."""
    figures = {}
    for number, task in enumerate(summary.tasks, start=1):
        prefix = f"environment_{number}_" if len(summary.tasks) > 1 else ""
        plans = [plan._replace(name=prefix + plan.name) for plan in _plans(task)]
        figures[task.name] = [_render(plan, summary.labels) for plan in plans]
    if summary.overall:
        caption = "Area under the learning curve over all environments, in % of the reference."
        plan = Plan("overall_areas", caption, _overall(summary.overall), [], _rows_height(len(summary.overall)))
        figures[""] = [_render(plan, summary.labels)]
    return figures


def _plans(task: Task) -> list[Plan]:
    """The figures for which the task has numbers."""
    seen = [result for result in task.results if result.seeds]
    measured = [result for result in seen if weight_bytes(result) is not None]
    timed = [result for result in task.results if np.isfinite(result.run.steps_per_second)]
    words = _area_words(task)
    plans = []
    if seen:
        caption = "Learning curves: interquartile mean over seeds; a band is its 95 % bootstrap interval."
        plans.append(Plan("learning_curves", caption, _learning_curves(task, seen), _labels(seen), HEIGHT))
        caption = f"{words}; a whisker is the 95 % bootstrap interval."
        plans.append(Plan("areas", caption, _areas(task, seen), [], _rows_height(len(seen))))
    if measured:
        caption = f"What the weights cost and what they bring: {words[0].lower()}{words[1:]}, against bytes of weights."
        plans.append(Plan("memory", caption, _memory(task, measured), _labels(measured), HEIGHT))
    if timed:
        caption = "Environment steps per second, all seeds together, as each run recorded them."
        plans.append(Plan("speed", caption, _speed(timed), [], _rows_height(len(timed))))
    return plans


def _labels(results: list[Result]) -> list[str]:
    return [result.label for result in results]


def weight_bytes(result: Result) -> int | None:
    return result.run.cost.get("bytes", {}).get("weights")


def _area_words(task: Task) -> str:
    return {
        "percent": f"Area under the learning curve in % of {task.reference}",
        "difference": f"Area under the learning curve minus that of {task.reference} (mean return)",
        "none": "Area under the learning curve (mean return over training)",
    }[task.unit]


def area(task: Task, result: Result) -> np.ndarray:
    """Value, low, high of a result's area in the task's unit; the reference has no interval against itself."""
    if task.unit == "none":
        return np.array(result.area)
    if result.label == task.reference:
        value = 100.0 if task.unit == "percent" else 0.0
        return np.array([value, np.nan, np.nan])
    if result.relative is None:
        return np.full(3, np.nan)
    return np.array(result.relative) * (100 if task.unit == "percent" else 1)


def _learning_curves(task: Task, results: list[Result]) -> Drawing:
    def drawing(axes, paper, looks):
        for result in results:
            style = looks[result.label]
            axes.fill_between(task.grid, result.curve.low, result.curve.high, color=style.colour, alpha=0.15, lw=0)
            axes.plot(
                task.grid, result.curve.value, style.line, color=style.colour, lw=2, marker=style.marker, markevery=8
            )
        axes.set_xlabel("environment steps per seed")
        axes.set_ylabel("return")
        axes.xaxis.set_major_formatter(_short_number)
        axes.grid(color=paper.faint, lw=0.5, alpha=0.6)

    return drawing


def _areas(task: Task, results: list[Result]) -> Drawing:
    def drawing(axes, paper, looks):
        _whiskers(axes, paper, looks, [(result.label, area(task, result)) for result in results])
        axes.set_xlabel(
            {"percent": "% of the reference", "difference": "minus the reference"}.get(task.unit, "mean return")
        )
        if task.unit != "none":
            axes.axvline(100 if task.unit == "percent" else 0, color=paper.ink, lw=1, linestyle=":", zorder=0)

    return drawing


def _overall(rows: tuple[Overall, ...]) -> Drawing:
    def drawing(axes, paper, looks):
        _whiskers(axes, paper, looks, [(row.label, 100 * np.array(row.relative)) for row in rows])
        axes.set_xlabel("% of the reference")
        axes.axvline(100, color=paper.ink, lw=1, linestyle=":", zorder=0)

    return drawing


def _whiskers(axes: Any, paper: Paper, looks: dict[str, Style], rows: list[tuple[str, np.ndarray]]) -> None:
    """A dot with its interval per row, its label above it, so that long labels cost no width."""
    for place, (label, (value, low, high)) in enumerate(rows):
        style = looks[label]
        axes.plot([low, high], [place, place], color=style.colour, lw=2.5, solid_capstyle="butt")
        axes.plot(value, place, color=style.colour, marker=style.marker, ms=9)
    axes.set_ylim(len(rows) - 0.6, -0.8)
    axes.set_yticks(np.arange(len(rows)) - 0.36, [_shown(label) for label, _ in rows])
    axes.tick_params(axis="y", length=0, pad=-4)
    for text in axes.get_yticklabels():
        text.set_horizontalalignment("left")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.grid(axis="x", color=paper.faint, lw=0.5, alpha=0.6)


def _memory(task: Task, results: list[Result]) -> Drawing:
    def drawing(axes, paper, looks):
        for result in results:
            style, (value, low, high), size = looks[result.label], area(task, result), weight_bytes(result)
            axes.plot([size, size], [low, high], color=style.colour, lw=2.5, solid_capstyle="butt")
            axes.plot(size, value, color=style.colour, marker=style.marker, ms=9, linestyle="none")
        axes.set_xlim(0, 1.1 * max(weight_bytes(result) or 0 for result in results) or 1)
        axes.set_xlabel("bytes of weights")
        axes.xaxis.set_major_formatter(lambda size, _: readable(size))
        axes.xaxis.set_major_locator(_few_ticks())
        axes.set_ylabel({"percent": "area, % of ref.", "difference": "area minus ref."}.get(task.unit, "mean return"))
        axes.grid(color=paper.faint, lw=0.5, alpha=0.6)

    return drawing


def _speed(results: list[Result]) -> Drawing:
    def drawing(axes, paper, looks):
        for place, result in enumerate(results):
            axes.barh(place, result.run.steps_per_second, height=0.3, color=looks[result.label].colour)
        axes.set_ylim(len(results) - 0.6, -0.8)
        axes.set_xlim(left=0)
        axes.set_yticks([])
        for place, result in enumerate(results):
            axes.annotate(
                _shown(result.label), (0, place - 0.36), xytext=(2, 0), textcoords="offset points", va="center"
            )
        axes.set_xlabel("environment steps per second")
        axes.xaxis.set_major_formatter(_short_number)
        axes.grid(axis="x", color=paper.faint, lw=0.5, alpha=0.6)
        axes.set_axisbelow(True)

    return drawing


def _rows_height(rows: int) -> float:
    return 1.0 + 0.62 * rows


def _render(plan: Plan, labels: list[str]) -> Figure:
    """One figure, as SVG and as PNG."""
    try:
        from matplotlib import rc_context
    except ImportError:
        raise missing_extra("matplotlib", "report", "a report") from None
    with rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font does not have is drawn as a box
        canvas = _on_paper(LIGHT, plan, labels)
        return Figure(plan.name, plan.caption, _svg(canvas), _png(canvas))


def styles(paper: Paper, labels: list[str]) -> dict[str, Style]:
    """The look of each label by its place; after the last colour the first comes again with another line and marker."""
    found = {}
    for place, label in enumerate(labels):
        turn = place + place // len(paper.colours)
        colour = paper.colours[place % len(paper.colours)]
        found[label] = Style(colour, LINES[turn % len(LINES)], MARKERS[turn % len(MARKERS)])
    return found


def _on_paper(paper: Paper, plan: Plan, labels: list[str]) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    looks = styles(paper, labels)
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    legend, columns = plan.legend, 1 if any(len(label) > 20 for label in plan.legend) else 2
    with rc_context(dict.fromkeys(ink, paper.ink)):
        canvas = Canvas(figsize=(WIDTH, plan.height + 0.23 * -(-len(legend) // columns)), layout="constrained")
        plan.drawing(canvas.add_subplot(), paper, looks)
        if legend:
            handles = [
                Line2D([], [], color=one.colour, linestyle=one.line, marker=one.marker, lw=2)
                for one in (looks[label] for label in legend)
            ]
            names = [_shown(label) for label in legend]
            canvas.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)
    return canvas


def _svg(canvas: Any) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue().replace(b"</style>", b"</style><style>" + _dark_style().encode() + b"</style>", 1)


def _png(canvas: Any) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def _dark_style() -> str:
    """CSS that shows each colour of light paper as that of dark paper, where the reader's setting is dark."""
    pairs = zip((LIGHT.ink, LIGHT.faint, *LIGHT.colours), (DARK.ink, DARK.faint, *DARK.colours), strict=True)
    rules = [
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}' for light, dark in pairs for what in ("fill", "stroke")
    ]
    return f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"


def _shown(label: str) -> str:
    """A label on one line, cut where it is too long; matplotlib leaves out labels that begin with an underscore."""
    label = " ".join(label.split())
    label = label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"
    return f" {label}" if label.startswith("_") else label


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _short_number(value: float, _position: int | None = None) -> str:
    """12,000 as 12k and 3,500,000 as 3.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
