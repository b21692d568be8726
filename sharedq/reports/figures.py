"""The figures of a report, each drawn once: as SVG, which a style sheet inside it colours for dark pages, and as PNG.

Beside its picture a figure has the numbers from which the page's script draws it again. A run looks the same in every
figure. Its label stands beside its mark, or in a legend where there is no room. The text
is set in a size that survives being shown 330 pixels wide.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sharedq.errors import missing_extra
from sharedq.formats import SPARSITY
from sharedq.reports import interactive
from sharedq.reports.interactive import Chart
from sharedq.reports.looks import DARK, LIGHT, Look, heat, heat_colour
from sharedq.reports.measures import about, file_names, of_histogram, unit
from sharedq.reports.statistics import Interval
from sharedq.reports.summary import HeatMap, Overall, Profile, Result, Summary, Task
from sharedq.units import readable

WIDTH, HEIGHT = 5.2, 3.4  # inches
EVALUATED = "in evaluations during training, in which the agent does not learn"
LABEL_LENGTH = 36  # characters of a label that a figure shows
PANELS_IN_A_ROW = 2
BESIDE = 20  # characters on each of the two lines that a label may have beside its mark
HEAT_MAP = "overall_heat_map"  # the name of its figure
HEAT_MAP_SHOWS = "Area under the learning curve in % of the reference: blue above 100 %, orange below."
MOST_NUMBERS = 8  # columns of a heat map that have room for numbers
MOST_DOTS = 10  # seeds of a run that are shown as dots beside its interval
LINE_HEIGHT = 0.065  # of a line of text, as a fraction of the height of the axes
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


class Figure(NamedTuple):
    """A drawn figure: what it shows in words, and its files."""

    name: str
    caption: str
    svg: bytes  # light, or dark where the reader's setting is dark
    png: bytes  # on white
    chart: Chart | None = None  # what the page's script draws in place of the picture
    shows_curves_of_tasks: bool = False  # the script then draws the first chart of every task, side by side


Drawing = Callable[[Any, "Pen"], None]  # draws on matplotlib axes, or on a list of them


class Pen(NamedTuple):
    """The colours and looks that a figure is drawn with."""

    ink: str
    faint: str
    looks: Mapping[str, Look]

    def colour(self, label: str) -> str:
        return LIGHT.colours[self.looks[label].colour]


class Plan(NamedTuple):
    """A figure to be drawn."""

    name: str
    caption: str
    drawing: Drawing
    legend: list[str]  # labels that the drawing does not write itself
    height: float
    chart: Chart | None = None
    panels: int = 1  # axes that the drawing takes


def draw(summary: Summary) -> dict[str, list[Figure]]:
    """The figures of each environment by its name, and under "" those over all environments."""
    figures = {}
    for number, task in enumerate(summary.tasks, start=1):
        prefix = f"environment_{number}_" if len(summary.tasks) > 1 else ""
        plans = [plan._replace(name=prefix + plan.name) for plan in _plans(task)]
        figures[task.name] = [_render(plan, summary.looks) for plan in plans]
    if len(summary.tasks) > 1:
        figures[""] = [_render(plan, summary.looks) for plan in _plans_over_all(summary)]
    return figures


def _plans_over_all(summary: Summary) -> list[Plan]:
    """The figures over all environments."""
    plans = []
    if summary.overall:
        caption = f"Area under the learning curve over all {summary.what}, in % of the reference."
        entries = [interactive.row(row.label, _percent(row.relative)) for row in summary.overall]
        chart = interactive.rows("% of the reference", entries, form="percent", line=100)
        height = _rows_height(len(summary.overall))
        plans.append(Plan("overall_areas", caption, _overall(summary.overall), [], height, chart))
    if summary.profiles:
        plans.append(_profiles(summary))
    if summary.heat_map is not None:
        height = 1.2 + 0.36 * len(summary.heat_map.rows)
        plans.append(Plan(HEAT_MAP, HEAT_MAP_SHOWS, _heat_map(summary.heat_map), [], height))
    shown = [task for task in summary.tasks if any(result.seeds for result in task.results)]
    if len(shown) > 1:
        caption = f"Learning curves on all {summary.what}: interquartile mean over seeds, with its 95 % interval."
        labels = list(dict.fromkeys(one.label for task in shown for one in task.results if one.seeds))
        height = 2.1 * -(-len(shown) // PANELS_IN_A_ROW)
        plans.append(Plan("overall_curves", caption, _panels(shown), labels, height, None, len(shown)))
    return plans


def _plans(task: Task) -> list[Plan]:
    """The figures for which the task has numbers."""
    seen = [result for result in task.results if result.seeds]
    priced = [result for result in seen if weight_bytes(result) is not None]
    timed = [result for result in task.results if np.isfinite(result.run.speed.overall)]
    words = _area_words(task)
    plans = []
    if seen:
        curves = {result.label: (task.grid, result.curve) for result in seen}
        where = "in training" if task.plays else EVALUATED
        caption = f"Returns {where}: interquartile mean over seeds; a band is its 95 % interval."
        stretch = "the warm-up" if task.plays else "in which a run has no evaluation yet"
        caption += f" Areas begin where the grey stretch, {stretch}, ends." if _begins_late(task) else ""
        plans.append(_curves("learning_curves", caption, curves, "return", task))
    apart = [(one.label, one.evaluated_apart) for one in seen if one.evaluated_apart]
    if evaluated := {label: (one.steps, one.curve) for label, one in apart}:
        caption = (
            f"Returns {EVALUATED}: interquartile mean over seeds of the mean of each evaluation; a band is its 95 % "
            "interval."
        )
        plans.append(_curves("evaluation_returns", caption, evaluated, "evaluation return", task))
    if seen:
        caption = f"{words}; a whisker is the 95 % interval."
        caption += f" A small dot is a seed, of runs with at most {MOST_DOTS}." if any(map(_has_dots, seen)) else ""
        chart = _areas_chart(task, seen)
        plans.append(Plan("areas", caption, _areas(task, seen), [], _rows_height(len(seen)), chart))
    for measure, name in file_names(task.measures).items():
        found = {one.label: one.measures[measure] for one in task.results if measure in one.measures}
        curves = {label: (one.steps, one.curve) for label, one in found.items()}
        plans.append(_curves(name, about(measure), curves, unit(measure), task))
    histograms = {f"histogram {name}": name for one in task.results for name in one.run.histograms}
    for title, file in file_names(histograms).items():
        plans.append(_histograms(histograms[title], file, task))
    if priced:
        caption = f"What the weights cost and what they bring: {words[0].lower()}{words[1:]}, against bytes of weights."
        at = {one.label: (float(weight_bytes(one) or 0), Interval(*area(task, one))) for one in priced}
        plans.append(_points("memory", caption, at, "bytes of weights", _area_axis(task), _form(task), "bytes"))
    if any(SPARSITY in one.measures for one in seen):
        caption = (
            "Return at the end of training against the share of the weights that are zero then: interquartile mean "
            "over seeds with its 95 % interval. A run that prunes nothing stands at 0 %."
        )
        at = {one.label: (100 * final_sparsity(one), one.final) for one in seen}
        plans.append(_points("return_and_sparsity", caption, at, "weights pruned, %", "return", "number", "percent"))
    if timed:
        caption = (
            f"{_rate(task)[0].upper()}{_rate(task)[1:]}, all seeds together, as each run recorded them: a bar is the "
            "whole run, a whisker goes from the slowest to the fastest stretch of the log"
            f"{' after the warm-up' * task.plays}, a dot is the median."
        )
        chart = _speed_chart(timed, _rate(task))
        plans.append(Plan("speed", caption, _speed(timed, _rate(task)), [], _rows_height(len(timed)), chart))
    return plans


def final_sparsity(result: Result) -> float:
    """The share of weights that are pruned at the end of a run; 0 if it prunes none."""
    found = result.measured(SPARSITY)
    return float(found.value) if found else 0.0


def _percent(fraction: Interval) -> Interval:
    return Interval(*(100 * np.asarray(bound) for bound in fraction))


def _rate(task: Task) -> str:
    return "environment steps per second" if task.plays else "gradient steps (updates) per second"


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


def _has_dots(result: Result) -> bool:
    return 1 < result.seeds <= MOST_DOTS


def seed_areas(task: Task, result: Result) -> np.ndarray:
    """The area of each seed as the figures show it, over the steps that the run and the reference have both done."""
    return task.relative_areas(result) * (100 if task.unit == "percent" else 1)


def _form(task: Task) -> str:
    """How the page writes an area."""
    return {"percent": "percent", "difference": "signed"}.get(task.unit, "number")


def _area_axis(task: Task) -> str:
    return {"percent": "area, % of ref.", "difference": "area minus ref."}.get(task.unit, "mean return")


def _area_level(task: Task) -> float | None:
    """Where the reference lies."""
    return {"percent": 100.0, "difference": 0.0}.get(task.unit)


def _areas_chart(task: Task, results: list[Result]) -> Chart:
    entries = []
    for one in results:
        dots = seed_areas(task, one) if _has_dots(one) else None
        entries.append(interactive.row(one.label, Interval(*area(task, one)), one.seed_names, dots))
    return interactive.rows(_areas_unit(task), entries, form=_form(task), line=_area_level(task))


def _areas_unit(task: Task) -> str:
    return {"percent": "% of the reference", "difference": "minus the reference"}.get(task.unit, "mean return")


def _speed_chart(results: list[Result], unit: str) -> Chart:
    entries = []
    for one in results:
        speed = one.run.speed
        spread = Interval(speed.median, speed.smallest, speed.largest)
        entries.append(interactive.row(one.label, spread, bar=speed.overall))
    return interactive.rows(unit, entries, form="number")


def _curves(name: str, caption: str, curves: Mapping[str, tuple[np.ndarray, Interval]], unit: str, task: Task) -> Plan:
    """Curves over the steps of training with their bands, each with its label at its end."""
    legend = _in_legend(list(curves))
    steps_are = "environment steps per seed" if task.plays else "gradient steps per seed"
    by_seed = {one.label: one for one in task.results if name == "learning_curves"}

    def drawing(axes, pen):
        _draw_curves(axes, pen, curves, task)
        axes.set_xlabel(steps_are)
        axes.set_ylabel(unit)
        if not legend:
            shown = {label: np.flatnonzero(np.isfinite(curve.value)) for label, (_, curve) in curves.items()}
            ends = {label: at[-1] for label, at in shown.items() if len(at)}
            points = {label: (curves[label][0][at], curves[label][1].value[at]) for label, at in ends.items()}
            _write_beside(axes, pen, points)

    series = []
    for label, (steps, curve) in curves.items():
        seeds = (by_seed[label].seed_names, by_seed[label].seed_curves) if label in by_seed else ()
        series.append(interactive.curve(label, steps, curve, *seeds))
    chart = interactive.lines(steps_are, unit, series, grey=task.start if _begins_late(task) else 0)
    return Plan(name, caption, drawing, legend, HEIGHT, chart)


def _draw_curves(axes: Any, pen: Pen, curves: Mapping[str, tuple[np.ndarray, Interval]], task: Task) -> None:
    for label, (steps, curve) in curves.items():
        look, colour = pen.looks[label], pen.colour(label)
        axes.fill_between(steps, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
        every = max(1, len(steps) // 6)
        axes.plot(steps, curve.value, look.line, color=colour, lw=2, marker=look.marker, markevery=every)
    if _begins_late(task):
        axes.axvspan(0, task.start, color=pen.faint, alpha=0.4, lw=0, zorder=0)
    axes.set_xlim(0, 1.02 * task.grid[-1])
    axes.xaxis.set_major_formatter(_short_number)
    axes.xaxis.set_major_locator(_few_ticks())
    axes.grid(color=pen.faint, lw=0.5, alpha=0.6)


def _panels(tasks: list[Task]) -> Drawing:
    """A small panel with the learning curves of each task."""

    def drawing(panels, pen):
        for axes, task in zip(panels, tasks, strict=True):
            _draw_curves(axes, pen, {one.label: (task.grid, one.curve) for one in task.results if one.seeds}, task)
            axes.set_title("\n".join(textwrap.wrap(_shown(task.title), BESIDE)), fontsize=11)
            axes.tick_params(labelsize=10)
            axes.xaxis.set_major_locator(_few_ticks(3))

    return drawing


def _profiles(summary: Summary) -> Plan:
    """For each label the share of its seeds above each level, with a band where there are enough of them."""
    found = summary.profiles
    caption = (
        f"Performance profile: the share of the seeds on all {summary.what} whose area is above so many % of the "
        "reference. A higher line is better; where two lines cross, neither run is the better one everywhere."
    )
    if any(profile.share is not None for profile in found.values()):
        caption += " A band is the 95 % interval of each point."
    shares = {label: profile.share or _share_above(profile) for label, profile in found.items()}

    def drawing(axes, pen):
        for label, share in shares.items():
            levels = 100 * found[label].levels
            axes.fill_between(levels, share.low, share.high, color=pen.colour(label), alpha=0.15, lw=0, step="post")
            axes.step(levels, share.value, pen.looks[label].line, where="post", color=pen.colour(label), lw=2)
        axes.axvline(100, color=pen.ink, lw=1, linestyle=":", zorder=0)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("area, % of the reference")
        axes.set_ylabel("share of seeds above")
        axes.grid(color=pen.faint, lw=0.5, alpha=0.6)

    series = [interactive.curve(label, 100 * found[label].levels, share) for label, share in shares.items()]
    axes_are = ("area, % of the reference", "share of seeds above")
    chart = interactive.lines(*axes_are, series, x_form="percent", line=100, is_steps=True)
    return Plan("overall_profile", caption, drawing, list(found), HEIGHT, chart)


def _share_above(profile: Profile) -> Interval:
    value = (profile.scores > profile.levels[:, None]).mean(axis=1)
    return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))


def _histograms(name: str, file: str, task: Task) -> Plan:
    """The histogram of this name, of every run that has it, as lines in one figure."""
    words = of_histogram(name)
    found = {one.label: one.run.histograms[name] for one in task.results if name in one.run.histograms}
    is_log = all(edges[0] > 0 for edges, _ in found.values())

    def drawing(axes, pen):
        for label, (edges, counts) in found.items():
            share = counts / max(counts.sum(), 1)
            axes.stairs(share, edges, color=pen.colour(label), lw=2, linestyle=pen.looks[label].line)
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(words.title)
        axes.set_ylabel("share of transitions")
        axes.grid(color=pen.faint, lw=0.5, alpha=0.6)

    series = []
    for label, (edges, counts) in found.items():
        share = np.append(counts, counts[-1:]) / max(counts.sum(), 1)  # the last bin ends at the last edge
        series.append(interactive.curve(label, edges, Interval(share, np.nan, np.nan)))
    axes_are = (words.title, "share of transitions")
    chart = interactive.lines(*axes_are, series, x_form="number", is_steps=True, has_log_x=is_log)
    return Plan(file, words.about, drawing, list(found), HEIGHT, chart)


def _begins_late(task: Task) -> bool:
    """Whether areas leave out the beginning of the curves."""
    return task.start >= task.grid[0]


def _in_legend(labels: list[str]) -> list[str]:
    """The labels that need a legend: all or none, if there is no room for them beside their marks."""
    lines = [_broken(label) for label in labels]
    fits = all(len(one) <= 2 and max(map(len, one)) <= BESIDE for one in lines)
    return [] if fits and sum(map(len, lines)) * LINE_HEIGHT <= 0.9 else labels


def _broken(label: str) -> list[str]:
    return textwrap.wrap(_shown(label), BESIDE, break_long_words=False, break_on_hyphens=False) or [""]


def _write_beside(axes: Any, pen: Pen, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes each label to the right of the axes, as near to its point as the others leave room, with a line to it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    labels = sorted(points, key=lambda label: points[label][1])
    lines = [_broken(label) for label in labels]
    wanted = np.array([(points[label][1] - low) / (high - low) for label in labels])
    places = spread(wanted, LINE_HEIGHT * np.array([len(one) for one in lines]))
    line = {"arrowstyle": "-", "lw": 1.2, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2}
    for label, words, place in zip(labels, lines, places, strict=True):
        axes.annotate(
            "\n".join(words),
            points[label],
            xytext=(1.05, place),
            textcoords="axes fraction",
            va="center",
            fontsize=11,
            linespacing=1.0,
            annotation_clip=False,
            arrowprops=line | {"color": pen.colour(label)},
        )


def spread(wanted: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Places between 0 and 1, in the order of those wanted and near to them, of which none lies on another."""
    if not len(wanted):
        return wanted
    between = np.append(0, np.cumsum((heights[:-1] + heights[1:]) / 2))  # of each place from the first, at the least
    up = np.maximum.accumulate(wanted - between)
    down = np.minimum.accumulate((wanted - between)[::-1])[::-1]
    return np.clip((up + down) / 2, heights[0] / 2, 1 - between[-1] - heights[-1] / 2) + between


def _areas(task: Task, results: list[Result]) -> Drawing:
    def drawing(axes, pen):
        _whiskers(axes, pen, [(result.label, area(task, result)) for result in results])
        for place, result in enumerate(results):
            if _has_dots(result):
                dots = seed_areas(task, result)
                colour = pen.colour(result.label)
                axes.plot(dots, np.full(len(dots), place + 0.2), ".", color=colour, ms=5, alpha=0.7)
        axes.set_xlabel(_areas_unit(task))
        if (level := _area_level(task)) is not None:
            axes.axvline(level, color=pen.ink, lw=1, linestyle=":", zorder=0)

    return drawing


def _overall(rows: tuple[Overall, ...]) -> Drawing:
    def drawing(axes, pen):
        _whiskers(axes, pen, [(row.label, 100 * np.array(row.relative)) for row in rows])
        axes.set_xlabel("% of the reference")
        axes.axvline(100, color=pen.ink, lw=1, linestyle=":", zorder=0)

    return drawing


def _heat_map(found: HeatMap) -> Drawing:
    """A coloured field for each label and task, with its percentage where there is room."""

    def drawing(axes, pen):
        from matplotlib.patches import Rectangle

        for row, values in enumerate(found.rows.values()):
            for column, value in enumerate(values):
                if value is None:
                    continue
                colour, cover = heat_colour(LIGHT, heat(100 * value))
                axes.add_patch(Rectangle((column, row), 0.96, 0.92, facecolor=colour, alpha=cover, lw=0))
                if len(values) <= MOST_NUMBERS:
                    axes.text(column + 0.48, row + 0.48, f"{100 * value:.0f}", ha="center", va="center")
        axes.set_xlim(0, len(found.heads))
        axes.set_ylim(len(found.rows), 0)
        axes.set_yticks(np.arange(len(found.rows)) + 0.46, [_shown(label) for label in found.rows])
        heads = ["\n".join(textwrap.wrap(_shown(head), 12)) for head in found.heads]
        axes.set_xticks(np.arange(len(heads)) + 0.48, heads, rotation=40, ha="left", rotation_mode="anchor")
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    return drawing


def _whiskers(axes: Any, pen: Pen, rows: list[tuple[str, np.ndarray]]) -> None:
    """A dot with its interval per row, its label above it, so that long labels cost no width."""
    for place, (label, (value, low, high)) in enumerate(rows):
        colour = pen.colour(label)
        axes.plot([low, high], [place, place], color=colour, lw=2.5, solid_capstyle="butt")
        axes.plot(value, place, color=colour, marker=pen.looks[label].marker, ms=9)
    axes.set_ylim(len(rows) - 0.6, -0.8)
    axes.set_yticks(np.arange(len(rows)) - 0.36, [_shown(label) for label, _ in rows])
    axes.tick_params(axis="y", length=0, pad=-4)
    for text in axes.get_yticklabels():
        text.set_horizontalalignment("left")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.grid(axis="x", color=pen.faint, lw=0.5, alpha=0.6)


def _points(
    name: str, caption: str, at: Mapping[str, tuple[float, Interval]], x: str, y: str, form: str, x_form: str
) -> Plan:
    """A point for each label, at a number and at a value with its interval."""
    legend = _in_legend(list(at))

    def drawing(axes, pen):
        for label, (place, (value, low, high)) in at.items():
            colour = pen.colour(label)
            axes.plot([place, place], [low, high], color=colour, lw=2.5, solid_capstyle="butt")
            axes.plot(place, value, color=colour, marker=pen.looks[label].marker, ms=9, linestyle="none")
        axes.set_xlim(0, 1.1 * max(place for place, _ in at.values()) or 1)
        axes.set_xlabel(x)
        if x_form == "bytes":
            axes.xaxis.set_major_formatter(lambda size, _: readable(size))
        axes.xaxis.set_major_locator(_few_ticks())
        axes.set_ylabel(y)
        axes.grid(color=pen.faint, lw=0.5, alpha=0.6)
        if not legend:
            points = {label: (place, values.value) for label, (place, values) in at.items()}
            _write_beside(axes, pen, {label: point for label, point in points.items() if np.isfinite(point[1])})

    entries = [interactive.point(label, *point) for label, point in at.items()]
    chart = interactive.points(x, y, entries, form=form, x_form=x_form)
    return Plan(name, caption, drawing, legend, HEIGHT, chart)


def _speed(results: list[Result], unit: str) -> Drawing:
    def drawing(axes, pen):
        for place, result in enumerate(results):
            speed, colour = result.run.speed, pen.colour(result.label)
            axes.barh(place, speed.overall, height=0.3, color=colour, alpha=0.35)
            axes.plot([speed.smallest, speed.largest], [place, place], color=colour, lw=2.5, solid_capstyle="butt")
            axes.plot(speed.median, place, color=colour, marker=pen.looks[result.label].marker, ms=7)
        axes.set_ylim(len(results) - 0.6, -0.8)
        axes.set_xlim(left=0)
        axes.set_yticks([])
        for place, result in enumerate(results):
            axes.annotate(
                _shown(result.label), (0, place - 0.36), xytext=(2, 0), textcoords="offset points", va="center"
            )
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter(_short_number)
        axes.grid(axis="x", color=pen.faint, lw=0.5, alpha=0.6)
        axes.set_axisbelow(True)

    return drawing


def _rows_height(rows: int) -> float:
    return 1.0 + 0.62 * rows


def _render(plan: Plan, looks: Mapping[str, Look]) -> Figure:
    """One figure, as SVG and as PNG."""
    try:
        from matplotlib import rc_context
    except ImportError:
        raise missing_extra("matplotlib", "report", "a report") from None
    with rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font does not have is drawn as a box
        canvas = _on_canvas(plan, Pen(LIGHT.ink, LIGHT.faint, looks))
        return Figure(plan.name, plan.caption, _svg(canvas), _png(canvas), plan.chart, plan.panels > 1)


def _on_canvas(plan: Plan, pen: Pen) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    legend, columns = plan.legend, 1 if any(len(label) > 20 for label in plan.legend) else 2
    with rc_context(dict.fromkeys(ink, pen.ink)):
        canvas = Canvas(figsize=(WIDTH, plan.height + 0.23 * -(-len(legend) // columns)), layout="constrained")
        if plan.panels == 1:
            plan.drawing(canvas.add_subplot(), pen)
        else:
            height = -(-plan.panels // PANELS_IN_A_ROW)
            places = range(1, plan.panels + 1)
            plan.drawing([canvas.add_subplot(height, PANELS_IN_A_ROW, place) for place in places], pen)
        if legend:
            handles = [
                Line2D([], [], color=pen.colour(label), linestyle=look.line, marker=look.marker, lw=2)
                for label in legend
                for look in [pen.looks[label]]
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
    return f"@media screen and (prefers-color-scheme:dark){{{''.join(rules)}}}"


def _shown(label: str) -> str:
    """A label on one line, cut where it is too long; matplotlib leaves out labels that begin with an underscore."""
    label = " ".join(label.split())
    label = label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"
    return f" {label}" if label.startswith("_") else label


def _few_ticks(most: int = 5) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most)


def _short_number(value: float, _position: int | None = None) -> str:
    """12,000 as 12k and 3,500,000 as 3.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
