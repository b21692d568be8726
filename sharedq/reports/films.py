"""Films of trained agents on the page: those that `sharedq record` has left in the folders of the runs."""

import base64
import contextlib
import stat
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from sharedq.errors import SharedqError
from sharedq.reports.files import read, refuse_links
from sharedq.reports.load_runs import Run
from sharedq.reports.summary import Summary

NAMES = {"episode.mp4": b"ftyp", "episode.gif": b"GIF8"}  # and what stands near the beginning of such a file
LARGEST = 2_000_000  # bytes of all films inside one page; a film that has no room is linked to


def section(summary: Summary, out: Path) -> str:
    """The films of the runs; empty if there is none. The page will lie in `out`."""
    room, shown = LARGEST, []
    for task in summary.tasks:
        for result in task.results:
            for name, size in _films(result.run):
                where = f"{result.label} on {task.title}"
                content = read(result.run.folder, name) if size <= room else None
                if content is None:
                    shown.append(_link(result.run.folder / name, where, out))
                elif NAMES[name] in content[:16]:
                    room -= size
                    shown.append(_embedded(name, content, where))
    return "\n".join(["<h2>Films</h2>", '<div class="films">', *shown, "</div>"]) if shown else ""


def _films(run: Run) -> Iterator[tuple[str, int]]:
    """The film of a run, if it has one that is no link, and its size."""
    for name in NAMES:
        with contextlib.suppress(SharedqError, OSError):
            refuse_links(run.folder, name)
            found = (run.folder / name).lstat()
            if stat.S_ISREG(found.st_mode):
                yield name, found.st_size
                return


def _embedded(name: str, content: bytes, where: str) -> str:
    data, words = base64.b64encode(content).decode(), escape(f"An episode of {where}.")
    if name.endswith(".gif"):
        film = f'<img src="data:image/gif;base64,{data}" alt="{words}">'
    else:
        film = f'<video src="data:video/mp4;base64,{data}" controls loop muted playsinline></video>'
    return f"<figure>{film}<figcaption>{words}</figcaption></figure>"


def _link(path: Path, where: str, out: Path) -> str:
    """A link to a film beside the page; of a film elsewhere only its name, because a page tells no paths."""
    words = f"Film of an episode of {escape(where)}"
    if not path.resolve().is_relative_to(out):
        return f"<p>{words}: {path.name} in the folder of the run.</p>"
    return f'<p><a href="{escape(quote(path.resolve().relative_to(out).as_posix()))}">{words}</a></p>'
