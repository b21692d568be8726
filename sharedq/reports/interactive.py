"""What the page's script needs: the numbers of every chart as JSON, the script, and the page's security policy.

A chart is a dictionary. Its `kind` says how it is drawn: "lines" over an axis, "rows" with an interval each, or
"points". The script draws it in place of the picture, which stays where there is no script.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from sharedq.reports.looks import Look
from sharedq.reports.statistics import Interval

Chart = dict[str, Any]
MOST_LINES = 32  # seeds of a run that a chart can show as single curves
DASHES = {"-": "", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}


def lines(
    x: str,
    y: str,
    series: list[dict[str, Any]],
    *,
    form: str = "number",
    x_form: str = "count",
    grey: float = 0,
    line: float | None = None,
    is_steps: bool = False,
    has_log_x: bool = False,
) -> Chart:
    """Lines with their bands; the stretch up to `grey` is grey, and a dotted line stands at `line` of the x axis."""
    chart = {"kind": "lines", "x": x, "y": y, "form": form, "xForm": x_form, "series": series}
    return chart | {"grey": grey, "line": line, "isSteps": is_steps, "hasLogX": has_log_x}


def curve(
    label: str, steps: np.ndarray, values: Interval, names: Iterable[int] = (), seeds: np.ndarray | None = None
) -> dict[str, Any]:
    """One run's line; its seeds only if they are few."""
    found = {"label": label, "x": plain(steps), **bounds(values)}
    if seeds is not None and len(seeds) <= MOST_LINES:
        found |= {"names": [int(name) for name in names], "seeds": [plain(row) for row in seeds]}
    return found


def rows(x: str, entries: list[dict[str, Any]], *, form: str, line: float | None = None) -> Chart:
    """A row for each run: its value with an interval, and what else `row` takes."""
    return {"kind": "rows", "x": x, "form": form, "line": line, "series": entries}


def row(
    label: str,
    values: Interval,
    names: Iterable[int] = (),
    dots: np.ndarray | None = None,
    bar: float | None = None,
) -> dict[str, Any]:
    """One run's row, with a dot for each seed or a bar behind it."""
    found = {"label": label, **bounds(values)}
    if dots is not None:
        found |= {"names": [int(name) for name in names], "dots": plain(dots)}
    return found | ({} if bar is None else {"bar": plain(bar)})


def points(x: str, y: str, entries: list[dict[str, Any]], *, form: str, x_form: str) -> Chart:
    """A point for each run."""
    return {"kind": "points", "x": x, "y": y, "form": form, "xForm": x_form, "series": entries}


def point(label: str, x: float, values: Interval) -> dict[str, Any]:
    return {"label": label, "x": x, **bounds(values)}


def bounds(values: Interval) -> dict[str, Any]:
    """The value and, where there is one, its interval."""
    found = {"value": plain(values.value)}
    if np.isfinite(values.low).any():
        found |= {"low": plain(values.low), "high": plain(values.high)}
    return found


def plain(numbers: Any) -> Any:
    """Numbers with six digits, as JSON takes them; null where there is none."""
    if isinstance(numbers, np.ndarray):
        return [plain(one) for one in numbers]
    if not np.isfinite(numbers):
        return None
    short = float(f"{float(numbers):.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def as_json(looks: Mapping[str, Look], charts: list[Chart]) -> str:
    """All charts of a page, in which each run goes by its place. Nothing in it can end a script or begin a tag."""
    place = {label: at for at, label in enumerate(looks)}
    sources = [
        {"label": label, "colour": look.colour, "dash": DASHES[look.line], "marker": look.marker}
        for label, look in looks.items()
    ]
    told = [chart | {"series": [one | {"label": place[one["label"]]} for one in chart["series"]]} for chart in charts]
    text = json.dumps({"sources": sources, "charts": told}, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def script() -> str:
    return files("sharedq.reports").joinpath("script.js").read_text(encoding="utf-8")


def policy(code: str) -> str:
    """A Content-Security-Policy under which this script runs and no other, and nothing is loaded from elsewhere.

    Pictures inside the page carry styles of their own, which some browsers judge by the policy of the page.
    """
    checksum = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{checksum}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )
