"""The files that a report reads and writes. No link inside a folder is followed, and no text is trusted."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError
from sharedq.json_files import parse_json
from sharedq.processes import lives

REMEDY = "restore it or remove its folder"
LARGEST_TEXT = 16 * 2**20  # bytes of a JSON file or a command, which have a few thousand as a rule


def refuse_links(folder: Path, name: str | Path) -> None:
    """Raises if a part of the path `name` below `folder` is a link; `folder` itself is what the user named."""
    path = folder
    for part in Path(name).parts:
        path = path / part
        try:
            linked = path.is_symlink()
        except OSError as error:  # a name that is too long
            raise SharedqError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from None
        if linked:
            raise SharedqError(f"{path} is a link, and links inside a run or a comparison are not followed: remove it")


def read(folder: Path, name: str, largest: int | None = None) -> bytes | None:
    """The content of the file `name` in `folder`, or None if there is no such file."""
    refuse_links(folder, name)
    path = folder / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # opening a pipe or a device may wait for ever, or do something
            raise SharedqError(f"{path} is no ordinary file: remove it")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            content = file.read() if largest is None else file.read(largest + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SharedqError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from None
    if largest is not None and len(content) > largest:
        raise SharedqError(f"{path} has more than {largest:,} bytes: {REMEDY}")
    return content


def read_json(folder: Path, name: str, form: Any, remedy: str = REMEDY, schema: int | None = None) -> Any:
    """The content of the JSON file `name` in `folder`, of this form and schema; None if there is no such file."""
    path, content = folder / name, read(folder, name, LARGEST_TEXT)
    if content is None:
        return None
    if schema is not None:  # another schema may have another form
        found = parse_json(content, {"schema": int}, str(path), remedy)["schema"]
        if found != schema:
            raise SharedqError(f"{path} has schema {found}, this version reads {schema}: update sharedq")
    return parse_json(content, form, str(path), remedy)


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included."""
    return os.path.lexists(path)


def replace(path: Path, content: bytes) -> None:
    """Writes a file so that a reader meets the old one or the new one, never a half. The umask says who may read it."""
    with unfinished(path, content):
        pass


@contextmanager
def unfinished(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` with this content. It gets that name at the end, unless an error comes before."""
    sweep_beside(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    make_empty(beside)
    try:
        beside.write_bytes(content)
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def sweep_beside(path: Path) -> None:
    """Removes what processes that are no more left of the file while they wrote it."""
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        named = re.fullmatch(re.escape(f".{path.name}.") + "([0-9]{1,9})", left.name)
        if named and not lives(int(named[1])) and (left.is_symlink() or left.is_file()):
            left.unlink(missing_ok=True)


def make_empty(path: Path) -> None:
    """Makes an empty file in place of what a process that was killed may have left there. No link is followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def printable(text: str, also: str = "") -> str:
    """A text from a file, fit for a terminal, a page and a table: what controls them is shown as a question mark."""
    return "".join(one if one in also or not _controls(one) else "\N{REPLACEMENT CHARACTER}" for one in text)


def _controls(one: str) -> bool:
    """Escapes, marks that turn the direction of writing, halves of characters, ends of lines."""
    kind = unicodedata.category(one)
    return kind.startswith("C") or kind in ("Zl", "Zp")
