"""Reads compare.json, the plan of a comparison, which names no folder outside its own."""

from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError
from sharedq.json_files import Maybe
from sharedq.reports.files import printable, read_json, refuse_links

PLAN = "compare.json"
SCHEMA = 1
FORM = {
    "recipe": Maybe(str),
    "command": Maybe(str),
    "reference": Maybe(str | None),
    "runs": [{"label": str, "folder": str, "command": Maybe(str), "experiment": Maybe({str: Any})}],
}
SHOWN = ("recipe", "reference", "label", "command")


def read_plan(folder: Path, remedy: str) -> dict[str, Any]:
    """What the plan in `folder` says. The folders of its runs lie inside `folder`, are told apart, and are no links."""
    path = folder / PLAN
    plan = read_json(folder, PLAN, FORM, remedy, SCHEMA)
    if plan is None:
        raise SharedqError(f"there is no {path}: {remedy}")
    if not plan["runs"]:
        raise SharedqError(f"{path} was edited or damaged (it lists no run): {remedy}")
    named = [Path(one["folder"]) for one in plan["runs"]]
    for where in named:
        if not where.parts or where.is_absolute() or ".." in where.parts or "\0" in str(where):
            raise SharedqError(f"{path} was edited or damaged ({str(where)!a} is no folder inside {folder}): {remedy}")
        if named.count(where) > 1:
            raise SharedqError(f"{path} was edited or damaged (it names the folder {str(where)!a} twice): {remedy}")
        refuse_links(folder, where)
    for one in (plan, *plan["runs"]):
        one |= {name: printable(one[name], "\n" * (name == "command")) for name in SHOWN if one.get(name) is not None}
    return plan
