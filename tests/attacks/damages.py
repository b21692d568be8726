"""Damages to one file of a run: what disks, careless hands and strangers do to it."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

VALUES = (
    *(None, True, False, 0, -1, 1, 1.5, 1e12, 1e308, 10**15, 10**30, 10**400, float("nan"), float("inf")),
    *("", "x", "=1+1", "../../x", "/etc/passwd", "\x1b[31mred", "\ud800", "\u202e", "雪", "a" * 5000, "\0"),
    *([], {}, [1], [[1]], {"a": {"b": []}}, {"kind": 7}),
)
CELLS = (
    "",
    "nan",
    "-3",
    "1e300",
    "-inf",
    "1e999",
    "x",
    "1,1",
    "1.5",
    "-0",
    "9" * 400,
    "0x1",
    "1_0",
    "\x00",
    '"1"',
    "2",
    "=1",
    "#",
)
KINDS = (
    *("flip", "flip", "flip", "cut", "cut", "longer", "gone", "empty", "zeros", "exchanged"),
    *("link", "dangling link", "folder", "pipe", "edit", "edit", "edit", "edit"),
)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def damage(path: Path, kind: str, draw: random.Random, others: Path) -> bool:
    """Damages a file; whether its content is another now. `others` are runs from which a file may come instead."""
    content = path.read_bytes()
    if path.stat().st_nlink > 1 and draw.random() < 0.5:  # this name of the file alone, as a new write would
        path.unlink()
    if kind in ("link", "dangling link", "folder", "pipe", "gone"):
        path.unlink(missing_ok=True)
        if kind == "link":
            goal = others / "thesis.txt"
            path.symlink_to(draw.choice([goal, *sorted(others.rglob(path.name))]))
        elif kind == "dangling link":
            path.symlink_to(others / "absent")
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        return True
    path.write_bytes(changed := _changed(path, content, kind, draw, others))
    return changed != content


def _changed(path: Path, content: bytes, kind: str, draw: random.Random, others: Path) -> bytes:
    at = draw.randrange(max(len(content), 1))
    if kind == "flip" and content:
        return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "longer":
        return content + draw.choice([b"\n", b" ", b"\0" * 8, content[-60:], b"1,0,1.0,1\n"])
    if kind == "zeros":
        return b"\0" * len(content)
    if kind == "exchanged":
        found = [one for one in sorted(others.rglob(path.name)) if one.read_bytes() != content]
        return draw.choice(found).read_bytes() if found else b""
    if kind == "edit":
        return _edited(path, content, draw)
    return b""


def _edited(path: Path, content: bytes, draw: random.Random) -> bytes:
    if path.suffix == ".json":
        return edit_json(content, draw)
    if path.suffix == ".csv":
        return edit_table(content, draw)
    if path.suffix == ".safetensors":
        return edit_tensors(content, draw)
    return str(draw.choice(VALUES)).encode(errors="replace")


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def edit_json(content: bytes, draw: random.Random) -> bytes:
    value = json.loads(content)
    path = draw.choice([one for one in places(value) if one])
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if draw.random() < 0.3:
        del inner[path[-1]]
    elif isinstance(inner[path[-1]], (int, float)) and draw.random() < 0.4:
        inner[path[-1]] += draw.choice([-1, 1, 100])
    else:
        inner[path[-1]] = draw.choice(VALUES)
    return json.dumps(value, indent=2).encode()


def edit_table(content: bytes, draw: random.Random) -> bytes:
    lines = content.decode().split("\n")
    row = draw.randrange(len(lines) - 1)
    kind = draw.randrange(6)
    if kind == 0:
        lines.insert(row, draw.choice(lines))
    elif kind == 1:
        del lines[row : row + draw.randint(1, 200)]
    elif kind == 2:
        lines[row], lines[-2] = lines[-2], lines[row]
    else:
        cells = lines[row].split(",")
        cells[draw.randrange(len(cells))] = draw.choice(CELLS)
        lines[row] = ",".join(cells)
    return "\n".join(lines).encode()


def edit_tensors(content: bytes, draw: random.Random) -> bytes:
    """Another header, whose length is right."""
    length = int.from_bytes(content[:8], "little")
    header = edit_json(content[8 : 8 + length], draw)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
