"""Tables of costs, as text for people and as JSON or CSV for programs."""

import csv
import io
import json
import re
from collections.abc import Mapping

from sharedq.analysis.cost import Cost


def cost_table(costs: Mapping[str, Cost], kind: str) -> str:
    """The table as text, json or csv. Sources are the columns of the text and the rows of the CSV."""
    if kind == "json":
        return json.dumps({label: cost.to_dict() for label, cost in costs.items()}, indent=2)
    rows = {label: _flat(cost) for label, cost in costs.items()}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if kind == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["source", *(re.sub(r"\W+", "_", name) for name in names)])
        writer.writerows([label, *(row.get(name, "") for name in names)] for label, row in rows.items())
        return out.getvalue().rstrip("\n")
    table = [["", *rows], *([name, *(_shown(name, row.get(name)) for row in rows.values())] for name in names)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = (
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in table
    )
    return "\n".join(line.rstrip() for line in lines)


def _flat(cost: Cost) -> dict[str, float | None]:
    plain = cost.to_dict()
    parameters = {f"parameters, {name}": value for name, value in plain.pop("parameters").items()}
    sizes = {f"bytes, {name}": value for name, value in plain.pop("bytes").items()}
    return parameters | sizes | {name.replace("_", " "): value for name, value in plain.items()}


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e6:,.0f} us" if name.endswith("seconds") else f"{value:,.0f}"
