"""Reads compare.json, the plan of a comparison, which names no folder outside its own."""

from pathlib import Path
from typing import Any

from sharedq import formats
from sharedq.errors import SharedqError
from sharedq.json_files import Maybe
from sharedq.reports.files import printable, read_json, refuse_links

PLAN = formats.PLAN_FILE
FORM = {
    "recipe": Maybe(str),
    "command": Maybe(str),
    "reference": Maybe(str | None),
    "ranked": Maybe(bool),  # whether the report orders the runs by their results, as those of a sweep
    "runs": [{"label": str, "folder": str, "command": Maybe(str), "experiment": Maybe({str: Any})}],
}


def read_plan(folder: Path, remedy: str) -> dict[str, Any]:
    """What the plan in `folder` says, its texts fit to be shown.

    The folders of its runs lie inside `folder`, are told apart, and are no links.
    """
    path = folder / PLAN
    plan = read_json(folder, PLAN, FORM, remedy, formats.PLAN)
    if plan is None:
        raise SharedqError(f"there is no {path}: {remedy}")
    if not plan["runs"]:
        raise SharedqError(f"{path} was edited or damaged (it lists no run): {remedy}")
    taken: set[Path] = set()
    for one in plan["runs"]:
        named, where = one["folder"], Path(one["folder"])
        if not where.parts or where.is_absolute() or ".." in where.parts or printable(named) != named:
            raise SharedqError(f"{path} was edited or damaged ({named[:40]!a} is no folder inside {folder}): {remedy}")
        if where in taken:
            raise SharedqError(f"{path} was edited or damaged (it names the folder {named!a} twice): {remedy}")
        taken.add(where)
        refuse_links(folder, where)
        one["label"], one["command"] = printable(one["label"]), printable(one.get("command", ""), also="\n")
    plan["recipe"] = printable(plan.get("recipe", folder.resolve().name))
    plan["command"] = printable(plan.get("command", ""), also="\n")
    plan["ranked"] = plan.get("ranked", False)
    plan["reference"] = None if plan.get("reference") is None else printable(plan["reference"])
    return plan
