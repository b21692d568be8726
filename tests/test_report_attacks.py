"""Edited and hostile runs: a report works or refuses in one line, and never touches what lies outside the folder."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from sharedq import reports
from sharedq.errors import SharedqError
from sharedq.reports.figures import Figure

FIXTURE = Path(__file__).parent / "fixtures" / "0.1.0" / "comparison"
RUN_FILES = ("experiment.json", "finished.json", "diverged.json", "cost.json", "versions.json", "command.txt")
TABLES = ("episodes.csv", "metrics.csv")
ATTACKED = ["compare.json", *(f"runs/target-free/{name}" for name in (*RUN_FILES, *TABLES))]
VALUES = (
    *(None, True, False, 0, -1, 1, 1.5, 1e12, 1e308, 10**15, 10**30, 10**400, -(10**400), float("nan"), float("inf")),
    *("", "x", "=1+1", "../../x", "/etc/passwd", "\x1b[31mred", "<script>", "\ud800", "\u202e", "雪", "a" * 5000, "\0"),
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
    "=1",
    "\x00",
    "#",
    '"1"',
)


def hostile_copy(root: Path) -> Path:
    """The comparison of the fixtures with every optional file, in a folder of its own beside something to protect."""
    folder = shutil.copytree(FIXTURE, root / "inside" / "comparison")
    (folder / "runs/target-free/diverged.json").write_text('{"step": 7, "seed": 0, "message": "m"}')
    (root / "precious").mkdir()
    (root / "precious/thesis.txt").write_text("years of work")
    for name in ("runs/target-free", "runs/target-network"):
        shutil.copytree(FIXTURE / name, root / "precious" / Path(name).name)
    return folder


def outside(root: Path) -> dict[str, tuple]:
    """What lies beside the comparison, to the byte and to the time of its last change."""
    found = {}
    for path in root.rglob("*"):
        if not path.is_relative_to(root / "inside" / "comparison"):
            state = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            mtime = state.st_mtime_ns if path.name != "inside" else 0
            found[str(path)] = (state.st_mode, state.st_size if content else 0, mtime, content)
    return found


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def edit_json(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(rng.randint(1, 2)):
        path = rng.choice([one for one in places(value) if one] or [()])
        inner = value
        try:
            for key in path[:-1]:
                inner = inner[key]
            if rng.random() < 0.3:
                del inner[path[-1]]
            else:
                inner[path[-1]] = rng.choice(VALUES)
        except (IndexError, KeyError, TypeError):  # the first change took the place of the second away
            value = rng.choice(VALUES)
    return json.dumps(value).encode()


def edit_table(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().split("\n")
    row = rng.randrange(len(lines) - 1)
    kind = rng.randrange(6)
    if kind == 0:
        lines.insert(row, rng.choice(lines))
    elif kind == 1:
        del lines[row : row + rng.randint(1, 200)]
    elif kind == 2:
        lines[row], lines[-2] = lines[-2], lines[row]
    else:
        cells = lines[row].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(CELLS)
        lines[row] = ",".join(cells)
    return "\n".join(lines).encode()


def damage(path: Path, rng: random.Random, precious: Path) -> None:
    """Edits, cuts, flips, nests, empties, or replaces the file by a link, a folder or a pipe."""
    content = path.read_bytes()
    kind = rng.choice(["edit"] * 12 + ["cut", "flip", "nest", "empty", "text", "link", "dangling", "folder", "pipe"])
    if kind == "edit":
        if path.suffix == ".json":
            path.write_bytes(edit_json(content, rng))
        elif path.suffix == ".csv":
            path.write_bytes(edit_table(content, rng))
        else:
            path.write_text(str(rng.choice(VALUES)), errors="replace")
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "flip":
        at = rng.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :])
    elif kind == "nest":
        deep = rng.choice([50, 300, 900, 100_000])
        path.write_bytes(rng.choice([b'{"a":', b"["]) * deep + b"1" + rng.choice([b"}", b"]"]) * deep)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(rng.choice([b"\xff\xfe\x00", b"null", b"\xef\xbb\xbf{}", b"\0" * 100, b"\n" * 9, b"[]"]))
    else:
        path.unlink()
        if kind == "link":
            copy = precious / "target-free" / path.name
            path.symlink_to(copy if copy.exists() else precious / "thesis.txt")
        elif kind == "dangling":
            path.symlink_to(precious / "absent")
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)


def attack(root: Path, name: str, number: int) -> bool:
    """One damage to one file; whether the report refused. Anything but a report or a `SharedqError` is raised."""
    rng = random.Random(f"{name} {number}")
    folder = hostile_copy(root)
    damage(folder / name, rng, root / "precious")
    before = outside(root)
    refused = False
    try:
        page = reports.write(folder, say=lambda line: line.encode())
        assert "\x1b" not in page.read_text() and "<script>" not in page.read_text()
        json.loads((folder / "summary.json").read_text())
    except SharedqError as error:
        refused = True
        assert "\n" not in str(error) and "\x1b" not in str(error)
    assert outside(root) == before
    return refused


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take most of the time of a report."""
    nothing = Figure("areas", "caption", b"light", b"dark", b"png")
    draw = lambda summary: {**{task.name: [nothing] for task in summary.tasks}, "": [nothing]}  # noqa: E731
    monkeypatch.setattr("sharedq.reports.page.draw", draw)


@pytest.mark.parametrize("name", ATTACKED)
def test_damaged_files_are_reported_or_refused(tmp_path, undrawn, name):
    refused = [attack(tmp_path / str(number), name, number) for number in range(20)]
    assert name.endswith("command.txt") or any(refused)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKED)
def test_many_damaged_files_are_reported_or_refused_and_drawn(tmp_path, name):
    for number in range(200):
        attack(tmp_path / "one", name, number)
        shutil.rmtree(tmp_path / "one")
