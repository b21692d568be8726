"""Writes the report: one HTML file that needs nothing beside it, and its figures and numbers as files.

The page has no script and asks for no other file; figures travel inside it, for light and for dark screens.
"""

import base64
from collections.abc import Callable
from html import escape
from pathlib import Path

from sharedq.reports.exports import curves_csv, summary_csv, summary_json
from sharedq.reports.figures import LIGHT, Figure, draw
from sharedq.reports.finding import damages, findings, interval, notes, number, percent, signed
from sharedq.reports.load_runs import load
from sharedq.reports.outputs import FIGURES, METHOD_TITLE, PAGE, PAGE_BEGINS, SUMMARY, write_files
from sharedq.reports.statistics import REPETITIONS, Interval
from sharedq.reports.stylesheet import STYLESHEET
from sharedq.reports.summary import FINAL_SHARE, POINTS, Result, Summary, Task, summarise
from sharedq.units import readable

METHOD = f"""
<p>A <b>learning curve</b> has {POINTS} points. Each point is, for each seed, the mean return of the episodes that ended
since the point before; where none ended, the point before is carried on. The line is the <b>interquartile mean</b>
(IQM) over seeds: the mean of what is left without the lowest and the highest quarter.</p>
<p>The <b>final return</b> is the mean of the last {percent(FINAL_SHARE)} of a curve. The <b>area under the curve</b> is
divided by its width, so it is the mean return over training; it is compared with that of the reference over the steps
that both runs have done. Returns are measured from zero: a percentage means something where zero is a natural
bottom.</p>
<p><b>Intervals</b> hold 95 % of {REPETITIONS:,} bootstrap repetitions, in each of which seeds are drawn again with
replacement, within each environment; a run and its reference are drawn independently. They speak of the spread between
seeds only, and are not widened for looking at several runs at once. <b>P(better)</b> is the chance that a seed of the
run has a larger area than a seed of the reference, ties counting half.</p>
<p><b>% of a human</b>, on Atari: the final return where a random player’s mean return counts 0 and a human’s 100. These
are the published references of DQN Zoo, which were not made under sticky actions.</p>
<p>Over several environments, areas are first divided by the reference’s IQM in the same environment.</p>
"""


def write(
    folder: str | Path,
    out: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Reports on the runs in `folder` into `out` (else into `folder` itself); the path of the page.

    It replaces the files of an older report, and others of their names only with `overwrite`. What is not whole of the
    runs is handed to `say`, line by line, besides standing on the page.
    """
    out = Path(folder if out is None else out)
    summary = summarise(load(folder))
    drawn = draw(summary)
    contents = {
        PAGE: html(summary, drawn).encode(),
        SUMMARY: summary_json(summary).encode(),
        "summary.csv": summary_csv(summary).encode(),
        "curves.csv": curves_csv(summary).encode(),
    }
    for figure in (figure for group in drawn.values() for figure in group):
        contents[f"{FIGURES}/{figure.name}.svg"] = figure.svg
        contents[f"{FIGURES}/{figure.name}.png"] = figure.png
    write_files(out, contents, overwrite)
    if say is not None:
        for line in damages(summary):
            say(line)
    return out / PAGE


def html(summary: Summary, drawn: dict[str, list[Figure]]) -> str:
    """The whole page."""
    title = escape(summary.comparison.title)
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="quiet">{escape(_subtitle(summary))}</p>',
        f'<div class="lead">{_list(findings(summary))}</div>',
    ]
    if remarks := notes(summary):
        sections.append(f'<div class="quiet">{_list(remarks)}</div>')
    if summary.overall:
        sections += ["<h2>All environments</h2>", _overall_table(summary), *map(_figure, drawn[""])]
    for task in summary.tasks:
        heading = task.name if len(summary.tasks) > 1 else "Results"
        sections += [f"<h2>{escape(heading)}</h2>", _table(task, summary), *map(_figure, drawn[task.name])]
    sections += [METHOD_TITLE, METHOD, "<h2>Commands</h2>", _commands(summary)]
    sections += ["<h2>Software</h2>", _versions(summary)]
    body = "\n".join(sections)
    return (
        f'{PAGE_BEGINS}<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{STYLESHEET}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _subtitle(summary: Summary) -> str:
    seeds = sorted({len(run.seeds) for run in summary.comparison.runs})
    steps = max(run.planned for run in summary.comparison.runs)
    names = ", ".join(task.name for task in summary.tasks)
    counted = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] != 1)}"
    return f"{names}. {counted} per run" + (f", {steps:,} steps per seed." if steps else ".")


def _list(lines: list[str]) -> str:
    if len(lines) == 1:
        return f"<p>{escape(lines[0])}</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _figure(figure: Figure) -> str:
    source, caption = f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}", escape(figure.caption)
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _table(task: Task, summary: Summary) -> str:
    heads = ["Run", "Final return<br>(IQM)"]
    heads += ["% of a<br>human"] if _is_measured_against_humans(task) else []
    heads += [_area_head(task)]
    heads += ["P(better)"] if task.reference else []
    heads += ["Parameters<br>trained / held", "Bytes, weights; moments,<br>traces and others"]
    heads += ["Compile", "Steps/s", "Seeds<br>and steps", "Status"]
    rows = [_row(task, result, summary) for result in task.results]
    return _html_table(heads, rows)


def _is_measured_against_humans(task: Task) -> bool:
    return all(result.human is not None for result in task.results)


def _area_head(task: Task) -> str:
    heads = {"percent": "% of<br>reference", "difference": "minus<br>reference", "none": "mean<br>return"}
    return f"Area, {heads[task.unit]}"


def _row(task: Task, result: Result, summary: Summary) -> list[str]:
    """The cells of one run, as HTML."""
    run = result.run
    parameters, size = run.cost.get("parameters", {}), run.cost.get("bytes", {})
    reference = result.label == task.reference
    if reference:
        relative = "100 %" if task.unit == "percent" else "0"
    elif task.unit == "none":
        relative = _estimate(result.area, number)
    elif result.relative is None:
        relative = "–"
    else:
        relative = _estimate(result.relative, percent if task.unit == "percent" else signed)
    improvement = "reference" if reference else _estimate(result.improvement, "{:.2f}".format)
    compile_seconds = run.timings.get("compile_seconds")
    return [
        _label(result.label, summary),
        _estimate(result.final, number),
        *([_estimate(result.human, percent)] if _is_measured_against_humans(task) else []),
        relative,
        *([improvement] if task.reference else []),
        f"{_whole(parameters.get('trained'))}<small>{_whole(parameters.get('held'))}</small>",
        f"{_bytes(size.get('weights'))}<small>{_bytes(run.bytes_beside_weights)}</small>",
        "–" if compile_seconds is None else f"{compile_seconds:.1f} s",
        f"{run.steps_per_second:,.0f}" if run.steps_per_second == run.steps_per_second else "–",
        f"{result.seeds}<small>{int(run.reached.min()):,}</small>",
        escape(result.status),
    ]


def _overall_table(summary: Summary) -> str:
    rows = [
        [
            _label(row.label, summary),
            _estimate(row.relative, percent),
            _estimate(row.improvement, "{:.2f}".format),
        ]
        for row in summary.overall
    ]
    return _html_table(["Run", "Area, % of reference", "P(better)"], rows)


def _html_table(heads: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML already, scrolling inside its own box."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _label(label: str, summary: Summary) -> str:
    place = summary.labels.index(label) % len(LIGHT.colours)
    return f'<span class="dot c{place}"></span>{escape(label)}'


def _estimate(estimate: Interval | None, show: Callable[[float], str]) -> str:
    """The value with its interval below, so that columns stay narrow."""
    if estimate is None:
        return "–"
    value, _, bounds = interval(estimate, show).partition(" [")
    return f"{value}<small>[{bounds}</small>" if bounds else value


def _bytes(count: int | None) -> str:
    return "–" if count is None else readable(count)


def _whole(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _commands(summary: Summary) -> str:
    comparison = summary.comparison
    commands = [("The comparison", comparison.command)] if comparison.command else []
    commands += [(run.label, run.command) for run in comparison.runs if run.command]
    unique = dict.fromkeys(commands)
    shown = (f'<p class="quiet">{escape(label)}</p><pre>{escape(command)}</pre>' for label, command in unique)
    return "\n".join(shown) or "<p>No run has left its command.</p>"


def _versions(summary: Summary) -> str:
    """Each version once; several of the same package side by side."""
    found: dict[str, dict[str, None]] = {}
    for run in summary.comparison.runs:
        for name, version in run.versions.items():
            found.setdefault(name, {})[str(version)] = None
    if not found:
        return "<p>No run has left its versions.</p>"
    rows = [[escape(name), escape(", ".join(versions))] for name, versions in found.items()]
    return _html_table(["Package", "Version"], rows)
