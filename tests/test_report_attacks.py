"""Edited and hostile runs: a report works or refuses in one line, and never touches what lies outside the folder."""

import contextlib
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
from attacks.damages import edit_table

from sharedq import reports
from sharedq.comparison import carry_out
from sharedq.errors import SharedqError
from sharedq.training.progress import Silent

FIXTURE = Path(__file__).parent / "fixtures" / "0.1.0" / "comparison"
RUN_FILES = ("experiment.json", "finished.json", "diverged.json", "cost.json", "versions.json", "command.txt")
TABLES = ("episodes.csv", "metrics.csv", "evaluations.csv")
ATTACKED = ["compare.json", *(f"runs/target-free/{name}" for name in (*RUN_FILES, *TABLES))]
VALUES = (
    *(None, True, False, 0, -1, 1, 1.5, 1e12, 1e308, 10**15, 10**30, 10**400, -(10**400), float("nan"), float("inf")),
    *("", "x", "=1+1", "../../x", "/etc/passwd", "\x1b[31mred", "<script>", "\ud800", "\u202e", "雪", "a" * 5000, "\0"),
    *([], {}, [1], [[1]], {"a": {"b": []}}, {"kind": 7}),
)


def hostile_copy(root: Path) -> Path:
    """The comparison of the fixtures with every optional file, in a folder of its own beside something to protect."""
    folder = shutil.copytree(FIXTURE, root / "inside" / "comparison")
    (folder / "runs/target-free/diverged.json").write_text('{"step": 7, "seed": 0, "message": "m"}')
    for run in (folder / "runs").iterdir():
        header, *rows = (run / "metrics.csv").read_text().splitlines()
        measured = [
            f"{header},measures/rank,measures/<b>",
            *(f"{row},{at},{'' if at else 3}" for at, row in enumerate(rows)),
        ]
        (run / "metrics.csv").write_text("\n".join(measured) + "\n")
        played = "".join(f"{step},0,{e},5\n" for step in (500, 1000) for e in range(2))
        (run / "evaluations.csv").write_text(f"step,seed,return,length\n{played}")
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
    """One damage to one file; whether the report refused or left a run out. Anything but it or an error is raised."""
    rng = random.Random(f"{name} {number}")
    folder = hostile_copy(root)
    damage(folder / name, rng, root / "precious")
    before = outside(root)
    said: list[str] = []
    told = ""
    try:
        page = reports.write(folder, say=lambda line: said.append(line.encode().decode()))
    except SharedqError as error:
        told = str(error)
    else:
        assert not re.search("\x1b|<script>", page.read_text())
        json.loads((folder / "summary.json").read_text())
    told += "".join(line for line in said if "is left out" in line)
    assert "\n" not in told and "\x1b" not in told
    assert outside(root) == before
    return bool(told)


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


@pytest.mark.parametrize("number", range(40))
def test_an_edited_plan_trains_into_no_other_folder(tmp_path, undrawn, monkeypatch, number):
    folder, rng = hostile_copy(tmp_path), random.Random(number)
    shutil.rmtree(folder / "runs/target-network")
    trained = []
    monkeypatch.setattr("sharedq.comparison.train", lambda experiment, out, **_: trained.append(out))
    monkeypatch.setattr("sharedq.comparison.resume", lambda out, **_: trained.append(out))
    damage(folder / "compare.json", rng, tmp_path / "precious")
    before = outside(tmp_path)
    with contextlib.suppress(SharedqError):
        carry_out(folder, lambda *_: contextlib.nullcontext(Silent()))
    assert outside(tmp_path) == before
    assert all(where.resolve().parent == folder / "runs" for where in trained)


@pytest.mark.parametrize("where", ["../../precious/target-free", "/absolute", "..", ".", "", "runs/../..", "runs/link"])
def test_a_plan_that_leads_outside_is_refused_before_anything_changes(tmp_path, where):
    folder = hostile_copy(tmp_path)
    (folder / "runs/link").symlink_to(tmp_path / "precious")
    plan = json.loads((folder / "compare.json").read_text())
    plan["runs"][0]["folder"] = str(tmp_path / "precious/target-free") if where == "/absolute" else where
    (folder / "compare.json").write_text(json.dumps(plan))
    before, inside = outside(tmp_path), sorted(folder.rglob("*"))
    for call in (reports.write, lambda folder: carry_out(folder, lambda *_: contextlib.nullcontext(Silent()))):
        with pytest.raises(SharedqError, match=r"is no folder inside|is a link"):
            call(folder)
    assert outside(tmp_path) == before and sorted(folder.rglob("*")) == inside


@pytest.mark.parametrize("name", ["runs", "runs/target-free", "runs/target-free/episodes.csv", "compare.json"])
def test_no_link_inside_a_comparison_is_followed(tmp_path, undrawn, name):
    folder = hostile_copy(tmp_path)
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    told = "is a link, and links inside a run or a comparison are not followed"
    if name.endswith(".csv"):  # the other runs are reported
        said: list[str] = []
        reports.write(folder, say=said.append)
        assert any(line.endswith(" is left out: episodes.csv is a link" + told[9:] + ": remove it.") for line in said)
        return
    with pytest.raises(SharedqError, match=told):
        reports.write(folder)


@pytest.mark.parametrize("name", ["report.html", "summary.csv", "figures", "figures/areas.png"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_through_a_link(tmp_path, undrawn, name, overwrite):
    folder = hostile_copy(tmp_path)
    goal = tmp_path / "precious" / ("target-free" if name == "figures" else "thesis.txt")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(goal)
    before = outside(tmp_path)
    with pytest.raises(SharedqError, match="nothing is written through a link"):
        reports.write(folder, overwrite=overwrite)
    assert outside(tmp_path) == before and not (folder / "summary.json").exists()
