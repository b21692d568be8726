"""Writes the report: one HTML file that needs nothing beside it, and its figures and numbers as files.

The page asks for no other file. Figures travel inside it as pictures, for light and for dark screens, and as numbers,
from which a script inside the page draws them again so that they answer to a pointer, a finger and the keyboard.
"""

import base64
import math
from collections.abc import Callable
from html import escape
from pathlib import Path

from sharedq.reports import films, interactive
from sharedq.reports.citations import citations
from sharedq.reports.comparisons import LEVEL, PERMUTATIONS, TOGETHER, Test
from sharedq.reports.exports import curves_csv, measure_curves_csv, seeds_csv, summary_csv, summary_json
from sharedq.reports.figures import HEAT_MAP, HEAT_MAP_SHOWS, Figure, draw
from sharedq.reports.finding import (
    collapsed,
    damages,
    findings,
    improvement,
    interval,
    notes,
    number,
    p_value,
    percent,
    seeds_of,
    signed,
    significant,
)
from sharedq.reports.html import NOTHING, Cell, Head, document, html_table
from sharedq.reports.load_runs import Speed, load
from sharedq.reports.looks import HEAT_SPAN, heat
from sharedq.reports.measures import column
from sharedq.reports.outputs import FIGURES, METHOD_TITLE, PAGE, SUMMARY, write_files
from sharedq.reports.profiles import ENOUGH
from sharedq.reports.settings_told import data_told, experiment_json, portable, shared_and_differing
from sharedq.reports.statistics import CURVE_REPETITIONS, FEWEST, FEWEST_OF_PAIRS, REPETITIONS, Improvement, Interval
from sharedq.reports.summary import COLLAPSED, FINAL_SHARE, MOST_STEPS, POINTS, Result, Summary, Task, summarise
from sharedq.units import readable

_MEASURE = "measure_"  # in the name of a figure
_CURVES = "learning_curves"
_UNFOLDED = 3  # tasks whose sections are open; of more each is folded

_CURVE = f"""
<p>A <b>learning curve</b> has {POINTS} points. Each point is, for each seed, the mean return of the episodes that ended
since the point before; where none ended, the point before is carried on. The line is the <b>interquartile mean</b>
(IQM) over seeds: the mean of what is left without the lowest and the highest quarter.</p>
<p>The <b>final return</b> is the mean of the last {percent(FINAL_SHARE)} of a curve. The <b>area under the curve</b> is
divided by its width, so it is the mean return over training. It begins after the warm-up, in which nothing is learned
and runs of one seed are alike: the points that lie within the shortest warm-up of the runs are left out. Areas are
compared over the steps that both runs have done. Returns are measured from zero: a percentage means something where
zero is a natural bottom.</p>
<p><b>Evaluations</b> are episodes in which the agent of that moment plays without learning. The final evaluation is the
mean of the last {percent(FINAL_SHARE)} of the evaluations. The best evaluation is the highest mean of each seed,
averaged over seeds. It is the highest of many noisy numbers, so that agent would reach less in another evaluation.</p>
"""

_CURVE_FROM_DATA = f"""
<p>Runs that <b>learn from a data set</b> step no environment while they learn, and their steps are <b>gradient
steps</b>. The points of their <b>learning curve</b> are evaluations, in which the agent of that moment plays without
learning: for each seed the mean return of an evaluation’s episodes. With more than {MOST_STEPS} evaluations the curve
has {POINTS} points, each of which is the mean since the point before. The line is the <b>interquartile mean</b> (IQM)
over seeds: the mean of what is left without the lowest and the highest quarter.</p>
<p>The <b>final return</b> of such a run is the mean of the last {percent(FINAL_SHARE)} of its evaluations. The <b>area
under the curve</b> is the mean of the points that both runs have reached; there is no warm-up. It begins at the first
step by which every run was evaluated, so that runs with other evaluation periods are compared over the same steps.
Returns are measured from zero: a percentage means something where zero is a natural bottom. The <b>best evaluation</b>
is the highest mean of each seed, averaged over seeds. It is the highest of many noisy numbers, so that agent would
reach less in another evaluation, and without an environment nobody could have chosen it. The <b>normalised score</b> is
the final return where the data set’s score of a random agent counts 0 and that of an expert 100. Runs are compared only
if they learn from the same data and the same share of them.</p>
"""

_FOR_ALL = f"""
<p><b>The seed is the unit</b>: each seed gives one number, and episodes and steps are averaged within it first.
<b>Intervals</b> are made for 95 %. Seeds are drawn again with replacement within each environment, a run and its
reference independently, {REPETITIONS:,} times, and {CURVE_REPETITIONS:,} times for curves. The percentiles of such a
bootstrap are too narrow with few seeds. So the distances of the bounds from the value are multiplied by
√(n / (n − 1)) · t / z: n is the number of seeds, t is the 97.5 % quantile of Student’s t with the degrees of freedom of
Welch and Satterthwaite, and z that of the normal distribution. In one environment this is 2.69 for 3 seeds, 1.58 for 5
and 1.22 for 10. The scaling is ours. In simulations with 3 to 10 seeds whose scores are about normal, such intervals
hold the truth in 90 to 98 % of cases; if one seed in four collapses, in about 80 % with 3 to 5 seeds. A difference from
the reference is one of means, and its interval is Welch’s. Fewer than {FEWEST} seeds have no interval. Intervals speak
of the spread between seeds only, those of a curve are of each point alone, and they are not
widened for looking at several runs at once.</p>
<p><b>P(better)</b> is the chance that a seed of the run has a larger area than a seed of the reference, ties counting
half. Its interval is Newcombe’s method 5 for the Mann-Whitney statistic. With fewer than {FEWEST_OF_PAIRS} seeds, on
fewer than {FEWEST_OF_PAIRS} environments, the pairs are counted instead.</p>
<p><b>Measures</b> are what each row of the log says of the updates since the row before; a row in which nothing was
measured is left out. Their table has the mean of a seed’s rows over training. <b>Steps per second</b> and updates per
second count the steps of all seeds. Below the speed of the whole run stand the median, and the slowest and the fastest
stretch of the log after the warm-up, if there is one. They include the time of measuring, so the speeds of runs with
other measures, or without any, are not comparable.</p>
<p><b>% of a human</b>, on Atari: the final return where a random player’s mean return counts 0 and a human’s 100. These
are the published references of DQN Zoo, which were not made under sticky actions.</p>
<p>Over several environments or data sets, areas are first divided by the reference’s IQM on the same one. A
<b>profile</b> is the share of these scores of all seeds that lies above each level. It has a band, of each level alone
and without the spread of the reference, where a run has {ENOUGH} scores or more.</p>
"""

_TESTS = f"""
<p><b>Tests.</b> The area of each run is compared with that of the reference by a permutation test: the seeds of an
environment are handed out to the runs in every way, or in {PERMUTATIONS:,} random ways where there are more. The
statistic is the difference of the means, divided by the standard deviation of all these seeds and averaged over
environments. <b>p</b> is the share of the ways, the data’s own among them, in which it is at least as large as in the
data. It is corrected for all runs that are compared with the reference: every set of runs is tested by its largest
difference (max-T), and the p of a run is the largest of the sets that it is in (closed testing). More than {TOGETHER}
runs, or runs that are compared over different steps, are corrected as Holm does. Measures, final returns and curves are
not tested. A run is called above or below the reference only if its interval leaves the reference out and p is below
{LEVEL}.</p>
<p><b>Hedges’ g</b> is the difference of the means in pooled standard deviations, corrected for few seeds; over several
environments it is their mean. The seeds that a difference would take follow a rule of thumb: 16 / g² seeds per run, all
environments together, find it in four of five studies. As g of few seeds is itself uncertain, so is this number. A seed
has <b>collapsed</b> if its area is below {percent(COLLAPSED)} of the reference’s IQM; this limit is ours.</p>
"""


def _method(summary: Summary) -> str:
    """How the numbers of this page are made."""
    plays = {task.plays for task in summary.tasks}
    told = _CURVE * (True in plays) + _CURVE_FROM_DATA * (False in plays) + _FOR_ALL
    families = [([one.test for one in task.results if one.test], 1) for task in summary.tasks]
    families.append(([row.test for row in summary.overall], len(summary.tasks)))
    sizes = dict.fromkeys(_size(*family) for family in families if family[0])
    if not sizes:
        return told
    return told + _TESTS + f"<p>On this page: {'; '.join(sizes)}.</p>"


def _size(family: list[Test], environments: int) -> str:
    """How large tests are, and what they can find at all."""
    where = "1 environment" if environments == 1 else f"{environments} environments or data sets"
    compared = f"{len(family)} comparison{'s' * (len(family) != 1)}"
    smallest = p_value(min(test.smallest for test in family)).removeprefix("p ").removeprefix("= ")
    return f"{seeds_of(family)}, {where}, {compared}, and the smallest p that this allows is {smallest}"


def write(
    folder: str | Path,
    out: str | Path | None = None,
    overwrite: bool = False,
    reference: str | None = None,
    say: Callable[[str], None] | None = None,
    training: bool = False,
) -> Path:
    """Reports on the runs in `folder` into `out` (else into `folder` itself); the path of the page.

    `reference` is the label of the run that the others are compared with, if it is not the one with a target network.
    The report replaces the files of an older one, and others of their names only with `overwrite`. What is not whole of
    the runs is handed to `say`, line by line, besides standing on the page. In `training` the
    page loads itself again every minute.
    """
    out = Path(folder if out is None else out)
    summary = summarise(load(folder, reference))
    drawn = draw(summary)
    contents = {
        PAGE: html(summary, drawn, Path(folder).resolve(), out.resolve(), training).encode(),
        SUMMARY: summary_json(summary).encode(),
        "summary.csv": summary_csv(summary).encode(),
        "seeds.csv": seeds_csv(summary).encode(),
        "curves.csv": curves_csv(summary).encode(),
    }
    if any(result.measures or result.evaluated_apart for task in summary.tasks for result in task.results):
        contents["measure_curves.csv"] = measure_curves_csv(summary).encode()
    for figure in (figure for group in drawn.values() for figure in group):
        contents[f"{FIGURES}/{figure.name}.svg"] = figure.svg
        contents[f"{FIGURES}/{figure.name}.png"] = figure.png
    write_files(out, contents, overwrite)
    if say is not None:
        for line in damages(summary):
            say(line)
    return out / PAGE


def html(summary: Summary, drawn: dict[str, list[Figure]], folder: Path, out: Path, training: bool = False) -> str:
    """The whole page on the runs in `folder`, which will lie in `out`."""
    title = escape(summary.title)
    figures = _Figures()
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="quiet">{escape(_subtitle(summary))}</p>',
        _time_left(summary, training),
        f'<div class="lead">{_list(findings(summary))}</div>',
    ]
    if remarks := notes(summary):
        sections.append(f'<div class="quiet">{_list(remarks)}</div>')
    tasks = [
        _task(number, task, summary, drawn[task.name], figures, folder) for number, task in enumerate(summary.tasks, 1)
    ]
    sections.append(
        '<div class="results">\n<div id="sources" class="sources" role="group" aria-label="Runs in the charts" hidden>'
        "</div>"
    )
    if len(summary.tasks) > 1:
        sections.append(_all_tasks(summary, drawn.get("", []), figures))
    sections += [*tasks, films.section(summary, out), "</div>"]
    sections += [METHOD_TITLE, _method(summary), "<h2>Settings</h2>", _settings(summary, folder)]
    sections += ["<h2>Commands</h2>", _commands(summary, folder), "<h2>Software</h2>", _versions(summary)]
    sections += ["<h2>Cite</h2>", *(f"<pre>{escape(entry)}</pre>" for entry in citations(summary))]
    charts = interactive.as_json(summary.looks, figures.charts)
    return document(title, "\n".join(sections), charts, training)


def _time_left(summary: Summary, training: bool) -> str:
    """How long the rest of a comparison will take."""
    left = summary.comparison.left
    told = [] if left is None else [f"One process will train for about {_duration(left)} more, at the speed so far."]
    told += [
        "While the runs are trained, this page is made again about every minute, and loads itself again."
    ] * training
    return f'<p class="quiet">{" ".join(told)}</p>' if told else ""


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes != 1)}" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _task(number: int, task: Task, summary: Summary, drawn: list[Figure], figures: "_Figures", folder: Path) -> str:
    """The section of one task; folded, if there are many."""
    several = len(summary.tasks) > 1
    heading = f'<h2 id="task-{number}">{escape(task.title)}</h2>' if several else "<h2>Results</h2>"
    of_measures = [figure for figure in drawn if _MEASURE in figure.name]
    parts = []
    if summary.comparison.ranked:
        parts.append('<p class="quiet">Ranked by the area under the learning curve, the best first.</p>')
    for figure in drawn:
        if figure.name.endswith(_CURVES) and figure.chart is not None:
            figures.panels.append(f"{number}:{len(figures.charts)}")
        if figure not in of_measures:
            parts.append(figures.html(figure))
    parts.insert(int(summary.comparison.ranked), _table(task, summary))
    if task.measures:
        parts += ["<h3>Measures</h3>", _measures_table(task, summary), *map(figures.html, of_measures)]
    if not task.plays:
        parts += ["<h3>Data</h3>", _data_table(task, folder)]
    if len(summary.tasks) > _UNFOLDED:
        return "\n".join([f'<details class="task"><summary>{heading}</summary>', *parts, "</details>"])
    return "\n".join([heading, *parts])


def _all_tasks(summary: Summary, drawn: list[Figure], figures: "_Figures") -> str:
    """What is said of all tasks together."""
    parts = [f"<h2>All {summary.what}</h2>"]
    parts += [_overall_table(summary)] if summary.overall else []
    parts += [figures.html(figure) for figure in drawn if figure.name != HEAT_MAP]  # the page has it as a table
    return "\n".join([*parts, _heat_map(summary)])


class _Figures:
    """Writes figures into a page, and collects what its script draws in their place."""

    def __init__(self) -> None:
        self.charts: list[interactive.Chart] = []
        self.panels: list[str] = []  # number of each task and place of its learning curves among the charts

    def html(self, figure: Figure) -> str:
        source, caption = f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}", escape(figure.caption)
        drawn = ""
        if figure.chart is not None:
            drawn = f' data-chart="{len(self.charts)}"'
            self.charts.append(figure.chart)
        elif figure.shows_curves_of_tasks:
            drawn = f' data-panels="{" ".join(self.panels)}"'
        return f'<figure{drawn}><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


_Row = list["str | Cell"]


def _subtitle(summary: Summary) -> str:
    about, runs = summary.comparison.about, summary.comparison.runs
    seeds = sorted({len(run.seeds) for run in runs})
    steps = max(run.planned for run in runs)
    kind = "steps" if any(run.plays for run in runs) else "gradient steps"
    counted = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] != 1)}"
    words = f"{about[0].upper()}{about[1:]}. {counted} per run" + (f", {steps:,} {kind} per seed." if steps else ".")
    if dates := sorted({run.date for run in runs if run.date}):
        words += f" Begun {dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''} UTC."
    return words


def _list(lines: list[str]) -> str:
    if len(lines) == 1:
        return f"<p>{escape(lines[0])}</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


_TEST_HEAD = Head("p<br>Hedges’ g", ("p", "Hedges’ g"))


def _table(task: Task, summary: Summary) -> str:
    heads: list[str | Head] = ["Run", "Final return<br>(IQM)"]
    heads += ["% of a<br>human"] if _is_measured_against_humans(task) else []
    heads += ["Normalised<br>score"] if _is_normalised(task) else []
    heads += ["Final evaluation<br>(IQM)"] if _is_evaluated(task) and task.plays else []
    heads += ["Best evaluation<br>(mean)"] if _is_evaluated(task) else []
    heads += [_area_head(task)]
    heads += ["P(better)", _TEST_HEAD] if task.reference else []
    what = "Steps" if task.plays else "Updates"
    speeds = tuple(f"{what}/s, {which}" for which in ("whole run", "median", "slowest", "fastest"))
    heads += [
        Head("Parameters<br>trained / held", ("Parameters trained", "Parameters held")),
        Head("Bytes, weights; moments,<br>traces and others", ("Bytes of weights", "Bytes beside weights")),
        Head("Compile", ("Compile, seconds",)),
        Head(f"{what}/s, whole run;<br>median, range", speeds),
        Head(f"Seeds<br>and {what.lower()}", ("Seeds", what)),
        "Status",
    ]
    rows = [_row(task, result, summary) for result in task.results]
    return html_table(heads, rows)


def _is_measured_against_humans(task: Task) -> bool:
    return all(result.human is not None for result in task.results)


def _is_normalised(task: Task) -> bool:
    return any(result.normalised for result in task.results)


def _is_evaluated(task: Task) -> bool:
    return any(result.evaluated for result in task.results)


def _area_head(task: Task) -> str:
    heads = {"percent": "% of<br>reference", "difference": "minus<br>reference", "none": "mean<br>return"}
    return f"Area, {heads[task.unit]}"


def _row(task: Task, result: Result, summary: Summary) -> _Row:
    """The cells of one run."""
    run = result.run
    parameters, size = run.cost.get("parameters", {}), run.cost.get("bytes", {})
    reference = result.label == task.reference
    if reference:
        relative = Cell("100 %", (100.0,)) if task.unit == "percent" else Cell("0", (0.0,))
    elif task.unit == "none":
        relative = _estimate(result.area, number)
    elif result.relative is None:
        relative = NOTHING
    else:
        relative = _estimate(result.relative, percent if task.unit == "percent" else signed)
    better = Cell("reference") if reference else _improvement(result.improvement)
    compile_seconds = run.timings.get("compile_seconds")
    evaluated = (result.evaluated.final, result.evaluated.best) if result.evaluated else (None, None)
    evaluations = evaluated if task.plays else evaluated[1:]
    return [
        _label(result.label, summary),
        _estimate(result.final, number),
        *([_estimate(result.human, percent)] if _is_measured_against_humans(task) else []),
        *([_estimate(result.normalised, number)] if _is_normalised(task) else []),
        *([_estimate(one, number) for one in evaluations] if _is_evaluated(task) else []),
        relative,
        *([better, _test(result.test)] if task.reference else []),
        _pair(parameters.get("trained"), parameters.get("held"), _whole),
        _pair(size.get("weights"), run.bytes_beside_weights, readable),
        NOTHING if compile_seconds is None else Cell(f"{compile_seconds:.1f} s", (compile_seconds,)),
        _speed(run.speed),
        _seeds(result),
        escape(result.status),
    ]


def _overall_table(summary: Summary) -> str:
    rows: list[_Row] = [
        [_label(row.label, summary), _estimate(row.relative, percent), _improvement(row.improvement), _test(row.test)]
        for row in summary.overall
    ]
    return html_table(["Run", "Area, % of reference", "P(better)", _TEST_HEAD], rows)


def _measures_table(task: Task, summary: Summary) -> str:
    heads = ["Run", *(escape(column(name)) for name in task.measures)]
    rows: list[_Row] = []
    for result in task.results:
        found = [result.measured(name) for name in task.measures]
        rows.append([_label(result.label, summary), *(_estimate(one, significant) for one in found)])
    return html_table(heads, rows)


def _heat_map(summary: Summary) -> str:
    """Each label's area on each task in % of the reference; empty if no task has percentages."""
    found = summary.heat_map
    if found is None:
        return ""
    rows: list[_Row] = [[_label(label, summary), *map(_heat, values)] for label, values in found.rows.items()]
    left_out = " Where differences are shown instead of percentages, there is no column." * any(
        task.unit != "percent" for task in summary.tasks
    )
    caption = (
        f"{HEAT_MAP_SHOWS} The colours are the strongest from {100 - HEAT_SPAN} % down and from {100 + HEAT_SPAN} % "
        f"up.{left_out}"
    )
    table = html_table(["Run", *map(escape, found.heads)], rows)
    return f'<div class="heat">{table}<p class="quiet">{caption}</p></div>'


def _heat(fraction: float | None) -> Cell:
    if fraction is None:
        return NOTHING
    return Cell(f'<span class="h{heat(100 * fraction)}">{percent(fraction)}</span>', (100 * fraction,))


def _label(label: str, summary: Summary) -> str:
    return f'<span class="dot c{summary.looks[label].colour}"></span>{escape(label)}'


def _estimate(estimate: Interval | None, show: Callable[[float], str]) -> Cell:
    """The value with its interval below, so that columns stay narrow."""
    if estimate is None:
        return NOTHING
    scale = 100 if show is percent else 1
    numbers = [scale * float(bound) for bound in estimate]
    return Cell(_stacked(interval(estimate, show)), tuple(numbers if math.isfinite(numbers[1]) else numbers[:1]))


def _improvement(found: Improvement | None) -> Cell:
    if found is None:
        return NOTHING
    numbers = tuple(map(float, found.share))
    return Cell(_stacked(improvement(found)), numbers if math.isfinite(numbers[1]) else numbers[:1])


def _test(test: Test | None) -> Cell:
    """The p of a test, and the size of the difference below it."""
    if test is None:
        return NOTHING
    shown = f"{escape(p_value(test.p).removeprefix('p = '))}<small>{number(test.effect)}</small>"
    return Cell(shown, (test.p, test.effect))


def _seeds(result: Result) -> Cell:
    """The seeds, the steps that all of them have done, and how many seeds have collapsed."""
    cell = _pair(result.seeds, int(result.run.reached.min()), _whole)
    return cell._replace(html=cell.html + f"<small>{collapsed(result)}</small>") if result.collapsed else cell


def _stacked(text: str) -> str:
    value, _, bounds = text.partition(" [")
    return escape(value) + (f"<small>[{escape(bounds)}</small>" if bounds else "")


def _speed(speed: Speed) -> Cell:
    """The speed of the whole run; below it the median, and the slowest and the fastest stretch."""
    if not math.isfinite(speed.overall):
        return NOTHING
    spread = f"<small>{speed.median:,.0f}</small><small>[{speed.smallest:,.0f}, {speed.largest:,.0f}]</small>"
    return Cell(f"{speed.overall:,.0f}" + (spread if math.isfinite(speed.median) else ""), tuple(speed))


def _pair(first: int | None, second: int | None, show: Callable[[int], str]) -> Cell:
    """Two counts, the second below the first."""
    shown = ["–" if count is None else show(count) for count in (first, second)]
    numbers = tuple(math.nan if count is None else count for count in (first, second))
    return Cell(f"{shown[0]}<small>{shown[1]}</small>", numbers)


def _whole(count: int) -> str:
    return f"{count:,}"


def _data_table(task: Task, folder: Path) -> str:
    """The data set that the runs learn from."""
    told = data_told([result.run for result in task.results], folder)
    return html_table(["Data", ""], [[escape(name), escape(text)] for name, text in told.items()])


def _settings(summary: Summary, folder: Path) -> str:
    """What all runs share, and what differs between them."""
    several = len(summary.tasks) > 1
    results = [(task, result) for task in summary.tasks for result in task.results]
    shared, differing = shared_and_differing([result.run for _, result in results], folder)
    told = html_table(["Setting", "Value"], [[escape(name), escape(value)] for name, value in shared.items()])
    if len(results) > 1:
        told = f"<details><summary>{len(shared)} settings that all runs share</summary>{told}</details>"
    if not differing:
        return told
    heads = [
        _label(result.label, summary) + (f"<small>{escape(task.title)}</small>" if several else "")
        for task, result in results
    ]
    rows = [[escape(name), *map(escape, values)] for name, values in differing.items()]
    return f"<p>These settings differ between the runs.</p>{html_table(['Setting', *heads], rows)}{told}"


def _commands(summary: Summary, folder: Path) -> str:
    """The commands as they were typed, without the paths of the machine; and each experiment as a file to train."""
    comparison = summary.comparison
    commands = [("The comparison", comparison.command)] if comparison.command else []
    commands += [(run.label, run.command) for run in comparison.runs if run.command]
    unique = dict.fromkeys((label, portable(command, folder)) for label, command in commands)
    shown = [f'<p class="quiet">{escape(label)}</p><pre>{escape(command)}</pre>' for label, command in unique]
    shown = shown or ["<p>No run has left its command.</p>"]
    files = [
        f"<details><summary>experiment.json of {escape(run.label)} on {escape(run.environment)}</summary>"
        f"<pre>{escape(text)}</pre></details>"
        for joined in comparison.runs
        for run in joined.parts or (joined,)
        if (text := experiment_json(run, folder))
    ]
    explained = (
        "<p>To make one of the runs again without its folder, save its experiment as <code>experiment.json</code> and "
        "run <code>sharedq train experiment.json</code>.</p>"
    )
    if not all(run.plays for run in comparison.runs):
        explained += (
            "<p>Name the folder of the data with <code>--data</code> if they lie elsewhere. Data with another checksum "
            "are refused.</p>"
        )
    return "\n".join([*shown, explained, *files])


def _versions(summary: Summary) -> str:
    """Each version once; several of the same package side by side."""
    found: dict[str, dict[str, None]] = {}
    for run in summary.comparison.runs:
        for name, version in run.versions.items():
            if name == "date":
                continue
            found.setdefault(name, {})[str(version)] = None
    if not found:
        return "<p>No run has left its versions.</p>"
    rows = [[escape(name), escape(", ".join(versions))] for name, versions in found.items()]
    return html_table(["Package", "Version"], rows)
