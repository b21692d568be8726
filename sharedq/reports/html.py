"""Pieces that pages are made of: a whole page with its script, and tables that the script sorts."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from sharedq.reports import interactive
from sharedq.reports.outputs import PAGE_BEGINS
from sharedq.reports.stylesheet import STYLESHEET

_RELOAD = '<meta http-equiv="refresh" content="60">\n'


class Cell(NamedTuple):
    """A cell of a table: HTML, and the numbers in it, by which rows are sorted and which are copied."""

    html: str
    numbers: tuple[float, ...] = ()


NOTHING = Cell("–")


class Head(NamedTuple):
    """The head of a column: HTML, and the names of its numbers if they are no value with its interval."""

    html: str
    parts: tuple[str, ...] = ()


def document(title: str, body: str, charts: str, training: bool) -> str:
    """A whole page. Title and body are HTML, `charts` is what `interactive.as_json` gives.

    In `training` the page loads itself again every minute.
    """
    code = interactive.script()
    # both scripts have attributes, so that a bare tag in the page is always somebody else's
    return (
        f'{PAGE_BEGINS}<meta http-equiv="Content-Security-Policy" content="{interactive.policy(code)}">\n'
        f"{_RELOAD * training}"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{STYLESHEET}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="charts">{charts}</script>\n'
        f'<script id="behaviour">{code}</script>\n</body>\n</html>\n'
    )


def html_table(heads: Sequence[str | Head], rows: Sequence[Sequence[str | Cell]]) -> str:
    """A table of cells that are HTML already, scrolling inside its own box."""
    head = "".join(map(_head, heads))
    body = "".join(
        f'<tr><th scope="row">{_inside(row[0])}</th>' + "".join(map(_cell, row[1:])) + "</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(head: str | Head) -> str:
    parts = f' data-parts="{escape("|".join(head.parts))}"' if isinstance(head, Head) else ""
    return f'<th scope="col"{parts}>{_inside(head)}</th>'


def _cell(cell: str | Cell) -> str:
    numbers = cell.numbers if isinstance(cell, Cell) else ()
    told = ",".join(f"{float(one):.10g}" if math.isfinite(one) else "" for one in numbers)
    return f'<td data-n="{told}">{_inside(cell)}</td>' if numbers else f"<td>{_inside(cell)}</td>"


def _inside(cell: str | Cell | Head) -> str:
    return cell if isinstance(cell, str) else cell.html
