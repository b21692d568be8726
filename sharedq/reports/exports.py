"""The report's numbers as files for other programs: summary.json, summary.csv and curves.csv."""

import csv
import io
import json
import math
from typing import Any

from sharedq import formats
from sharedq.reports.finding import findings, notes
from sharedq.reports.load_runs import Run
from sharedq.reports.statistics import CONFIDENCE, REPETITIONS, Interval
from sharedq.reports.summary import POINTS, SEED, Result, Summary, Task

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a formula begins with in one spreadsheet or another


def summary_json(summary: Summary) -> str:
    content = {
        "schema": formats.SUMMARY,
        "title": summary.comparison.title,
        "finding": findings(summary),
        "notes": notes(summary),
        "method": {"confidence": CONFIDENCE, "repetitions": REPETITIONS, "bootstrap_seed": SEED, "points": POINTS},
        "runs": _rows(summary),
        "overall": [
            {"label": row.label, **_spread("area_ratio", row.relative), **_spread("improvement", row.improvement)}
            for row in summary.overall
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summary_csv(summary: Summary) -> str:
    rows = _rows(summary)
    return _table(list(rows[0]), [list(row.values()) for row in rows])


def curves_csv(summary: Summary) -> str:
    """The learning curves that the figures show."""
    rows = [
        [task.name, result.label, f"{step:g}", *(_plain(bound) for bound in point)]
        for task in summary.tasks
        for result in task.results
        if result.seeds
        for step, *point in zip(task.grid, *result.curve, strict=True)
    ]
    return _table(["environment", "label", "step", "return_iqm", "return_low", "return_high"], rows)


def _rows(summary: Summary) -> list[dict[str, Any]]:
    return [_row(task, result) for task in summary.tasks for result in task.results]


def _row(task: Task, result: Result) -> dict[str, Any]:
    """One run, flat; an absent number is None."""
    run, absent = result.run, Interval(math.nan, math.nan, math.nan)
    parameters, size = run.cost.get("parameters", {}), run.cost.get("bytes", {})
    relative = result.relative or absent
    return {
        "environment": task.name,
        "label": result.label,
        "target": run.target,
        "reference": task.reference,
        "status": _status(run),
        "seeds": result.seeds,
        "steps": int(run.reached.min()),
        "compared_steps": result.compared_steps,
        **_spread("final_return", result.final),
        **_spread("final_human", result.human or absent),
        **_spread("area", result.area),
        **_spread("area_ratio", relative if task.unit == "percent" else absent),
        **_spread("area_difference", relative if task.unit == "difference" else absent),
        **_spread("improvement", result.improvement or absent),
        "parameters_trained": parameters.get("trained"),
        "parameters_held": parameters.get("held"),
        "bytes_weights": size.get("weights"),
        "bytes_beside_weights": run.bytes_beside_weights,
        "compile_seconds": run.timings.get("compile_seconds"),
        "steps_per_second": _plain(run.steps_per_second),
    }


def _status(run: Run) -> str:
    if run.finished:
        return "damaged" if run.damages else "finished"
    return "diverged" if run.diverged else "unfinished"


def _spread(name: str, interval: Interval) -> dict[str, float | None]:
    value, low, high = map(_plain, interval)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _table(header: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it, and is then shown as it is."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA) else value
