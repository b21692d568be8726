"""The report's numbers as files for other programs: summaries, the scores of each seed, and curves."""

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from sharedq import formats
from sharedq.reports.comparisons import PERMUTATIONS, Test
from sharedq.reports.finding import findings, notes
from sharedq.reports.load_runs import Run
from sharedq.reports.statistics import CONFIDENCE, CURVE_REPETITIONS, REPETITIONS, Interval
from sharedq.reports.summary import POINTS, SEED, Result, Summary, Task

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a formula begins with in one spreadsheet or another


def summary_json(summary: Summary) -> str:
    content = {
        "schema": formats.SUMMARY,
        "title": summary.title,
        "about": summary.comparison.about,
        "finding": findings(summary),
        "notes": notes(summary),
        "left": summary.comparison.left,  # seconds
        "method": {
            "confidence": CONFIDENCE,
            "repetitions": REPETITIONS,
            "curve_repetitions": CURVE_REPETITIONS,
            "permutations": PERMUTATIONS,
            "bootstrap_seed": SEED,
            "points": POINTS,
        },
        "runs": _rows(summary),
        "overall": [
            {
                "label": row.label,
                **_spread("area_ratio", row.relative),
                **_spread("improvement", row.improvement.share),
                **_test(row.test),
            }
            for row in summary.overall
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summary_csv(summary: Summary) -> str:
    rows = _rows(summary)
    return _table(list(rows[0]), [list(row.values()) for row in rows])


def seeds_csv(summary: Summary) -> str:
    """The scores of each seed, which the tests and intervals are made of."""
    rows = [
        [task.name, result.label, seed, _plain(final), _plain(area), _plain(ratio) if task.unit == "percent" else None]
        for task in summary.tasks
        for result in task.results
        for seed, final, area, ratio in zip(
            result.seed_names, result.seed_finals, result.seed_areas, task.relative_areas(result), strict=True
        )
    ]
    return _table(["environment", "label", "seed", "final_return", "area", "area_ratio"], rows)


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


def measure_curves_csv(summary: Summary) -> str:
    """The other curves: evaluations, and what measures found. Only their header, if there are none."""
    rows = [
        [task.name, result.label, name, f"{step:g}", *(_plain(bound) for bound in point)]
        for task in summary.tasks
        for result in task.results
        for name, steps, curve in _other_curves(result)
        for step, *point in zip(steps, *curve, strict=True)
    ]
    return _table(["environment", "label", "measure", "step", "value_iqm", "value_low", "value_high"], rows)


def _other_curves(result: Result) -> Iterator[tuple[str, np.ndarray, Interval]]:
    if (evaluated := result.evaluated_apart) is not None:
        yield "evaluation_return", evaluated.steps, evaluated.curve
    for name, measured in result.measures.items():
        yield name, measured.steps, measured.curve


def _rows(summary: Summary) -> list[dict[str, Any]]:
    measures = list(dict.fromkeys(name for task in summary.tasks for name in task.measures))
    return [_row(task, result, measures) for task in summary.tasks for result in task.results]


def _row(task: Task, result: Result, measures: list[str]) -> dict[str, Any]:
    """One run, flat; an absent number is None. The columns of evaluations are there whether a run has any or not."""
    run, evaluated, absent = result.run, result.evaluated, Interval(math.nan, math.nan, math.nan)
    parameters, size = run.cost.get("parameters", {}), run.cost.get("bytes", {})
    relative = result.relative or absent
    return {
        "environment": task.name,
        "label": result.label,
        "target": run.target,
        "data": None if run.plays else run.experiment.get("replay", {}).get("content") or None,
        "data_fraction": None if run.plays else run.experiment.get("replay", {}).get("fraction"),
        "reference": task.reference,
        "status": _status(run),
        "seeds": result.seeds,
        "steps": int(run.reached.min()),
        "steps_are": "environment steps" if run.plays else "gradient steps",
        "compared_steps": result.compared_steps,
        **_spread("final_return", result.final),
        **_spread("final_human", result.human or absent),
        **_spread("final_normalised", result.normalised or absent),
        **_spread("evaluation_final", evaluated.final if evaluated else absent),
        **_spread("evaluation_best", evaluated.best if evaluated else absent),
        **_spread("area", result.area),
        **_spread("area_ratio", relative if task.unit == "percent" else absent),
        **_spread("area_difference", relative if task.unit == "difference" else absent),
        **_spread("improvement", result.improvement.share if result.improvement else absent),
        **_test(result.test),
        "collapsed": result.collapsed,
        "parameters_trained": parameters.get("trained"),
        "parameters_held": parameters.get("held"),
        "bytes_weights": size.get("weights"),
        "bytes_beside_weights": run.bytes_beside_weights,
        "compile_seconds": run.timings.get("compile_seconds"),
        "steps_per_second": _plain(run.speed.overall),
        "steps_per_second_median": _plain(run.speed.median),
        "steps_per_second_smallest": _plain(run.speed.smallest),
        "steps_per_second_largest": _plain(run.speed.largest),
        **{
            key: value
            for name in measures
            for key, value in _spread(f"measure_{name}", result.measured(name) or absent).items()
        },
    }


def _status(run: Run) -> str:
    if run.finished:
        return "damaged" if run.damages else "finished"
    return "diverged" if run.diverged else "unfinished"


def _spread(name: str, interval: Interval) -> dict[str, float | None]:
    value, low, high = map(_plain, interval)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _test(test: Test | None) -> dict[str, Any]:
    return {
        "p": None if test is None else _plain(test.p),
        "hedges_g": None if test is None else _plain(test.effect),
        "separated": None if test is None else test.separated,
        "seeds_needed": None if test is None else test.seeds_needed,
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _table(header: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it, and is then shown as it is."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA) else value
