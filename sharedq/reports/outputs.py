"""The files of a report: they replace those of a report made before, and nothing else unless they are asked to."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sharedq import formats
from sharedq.errors import SharedqError
from sharedq.reports.files import is_there, read, read_json, replace

PAGE, SUMMARY, TABLES = "report.html", "summary.json", ("summary.csv", "seeds.csv", "curves.csv", "measure_curves.csv")
FIGURES = "figures"
FILES = (PAGE, SUMMARY, *TABLES, FIGURES)  # what a report leaves in its folder
PAGE_BEGINS = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
METHOD_TITLE = "<h2>How the numbers are made</h2>"
TABLE_BEGINS = "environment,label,"
SUMMARY_FORM = {"title": str, "finding": [str], "notes": [str], "method": {}, "runs": [{}]}


def check_place(out: Path, names: Iterable[str] = (PAGE, SUMMARY, *TABLES), overwrite: bool = False) -> None:
    """Raises if a report in `out` would replace what is not a report's; `names` are the files it would write."""
    if is_there(out) and not out.is_dir():
        raise SharedqError(f"{out} is not a folder: choose another --out")
    figures = out / FIGURES
    if figures.is_symlink() or (is_there(figures) and not figures.is_dir()):
        raise SharedqError(f"{figures} is not a folder, and nothing is written through a link: remove it")
    for name in names:
        path = out / name
        if path.is_symlink() or (is_there(path) and not path.is_file()):
            raise SharedqError(f"{path} is no ordinary file, and nothing is written through a link: remove it")
        if is_there(path) and not overwrite and not _is_ours(out, name):
            raise SharedqError(
                f"{path} was not written by a report, so it is left alone: choose another --out, move it away, "
                "or replace it with 'sharedq report --overwrite'"
            )


def write_files(out: Path, contents: Mapping[str, bytes], overwrite: bool) -> None:
    """Writes all files of a report, once it is known that all may be written."""
    check_place(out, contents, overwrite)
    for name in sorted(contents, key=lambda name: name != SUMMARY):  # first what a figure is known by
        replace(out / name, contents[name])


def _is_ours(out: Path, name: str) -> bool:
    """Whether a report wrote the file: a page or table is known by its beginning, a figure by the summary beside it."""
    known_by = SUMMARY if name.startswith(FIGURES) else name
    if known_by == SUMMARY:
        try:
            return read_json(out, SUMMARY, SUMMARY_FORM, schema=formats.SUMMARY) is not None
        except SharedqError:
            return False
    content = read(out, known_by) or b""
    if known_by == PAGE:
        return content.startswith(PAGE_BEGINS.encode()) and METHOD_TITLE.encode() in content
    return content.startswith(TABLE_BEGINS.encode())
