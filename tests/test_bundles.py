"""Bundles: a run packed into one file, and opened safely somewhere else."""

import hashlib
import json
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sharedq
from sharedq import bundles
from sharedq.agent import load_all
from sharedq.bundles import bundle, load_bundle
from sharedq.command_line import main
from sharedq.errors import SharedqError
from sharedq.runs.sealed import sealed
from sharedq.runs.verify import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "first"
    experiment = sharedq.recipe("corridor").replace(seeds=2, steps=400)
    sharedq.train(experiment, folder, progress=None)
    (folder / "report.html").write_text("a page")
    (folder / "notes.txt").write_text("of somebody else")
    return folder


@pytest.fixture(scope="module")
def packed(run):
    return bundle(run, run.with_name("it.sharedq.zip"), licence="apache-2.0 | *mine*\n# not a title")


def test_a_bundle_opens_as_the_same_run(run, packed, tmp_path, capsys):
    assert main(["load-bundle", str(packed), "--out", str(tmp_path / "deep" / "again")]) == 0
    again = tmp_path / "deep" / "again"
    assert all(finding.whole for finding in verify(again))
    for agents in zip(load_all(run), load_all(again), strict=True):
        np.testing.assert_array_equal(*(agent.values(np.eye(4, dtype=np.float32)) for agent in agents))
    names = {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()}
    assert {"README.md", "experiment.json", "episodes.csv"} <= names
    assert not names & {"report.html", "notes.txt", "lock", "bundle.json"}
    capsys.readouterr()
    assert main(["evaluate", str(again), "--episodes", "2"]) == 0
    (tmp_path / "beside").mkdir()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["again"]


def test_the_card_tells_how_the_agent_was_trained_and_no_text_breaks_out_of_its_line(packed):
    with zipfile.ZipFile(packed) as archive:
        card = archive.read("README.md").decode()
    head, body = card.split("---\n", 2)[1:]
    front = {name: json.loads(value) for name, value in (line.split(": ", 1) for line in head.splitlines())}
    assert front["library_name"] == "sharedq" and "dqn" in front["tags"]
    (metric,) = front["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] in body
    assert "400 environment steps" in body and "2 seeds" in body and "sharedq evaluate first" in body
    assert "| 0 |" in body and "| 1 |" in body
    assert "\n# not" not in body and "\\*mine\\*" in body


def test_the_same_run_gives_the_same_bytes(run, packed, tmp_path):
    again = bundle(run, tmp_path / "again.zip", licence="apache-2.0 | *mine*\n# not a title")
    assert again.read_bytes() == packed.read_bytes()


def changed(packed: Path, out: Path, change, seals: bool = True) -> Path:
    """The bundle with other content, by somebody who knows how to make its list anew."""
    with zipfile.ZipFile(packed) as archive:
        entries = {entry.filename: (entry, archive.read(entry)) for entry in archive.infolist()}
    listed = json.loads(entries.pop("bundle.json")[1])
    change(entries, listed)
    listed.pop("sha256", None)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("bundle.json", sealed(listed) if seals else json.dumps(listed | {"sha256": "0"}))
        for name, (entry, content) in entries.items():
            entry.filename = name
            archive.writestr(entry, content)
    return out


def with_file(name: str, content: bytes = b"1", mode: int = stat.S_IFREG | 0o644, size: int | None = None):
    def change(entries, listed):
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        entries[name] = entry, content
        told = {"bytes": len(content) if size is None else size, "sha256": hashlib.sha256(content).hexdigest()}
        listed["files"][name] = told

    return change


def set_compression(entries, kind: int) -> None:
    entries["episodes.csv"][0].compress_type = kind


def without(name: str):
    def change(entries, listed):
        del entries[name], listed["files"][name]

    return change


def edited(entries, listed):
    entry, content = entries["episodes.csv"]
    entries["episodes.csv"] = entry, content.replace(b"1", b"2")


def edited_and_listed(entries, listed):
    edited(entries, listed)
    with_file("episodes.csv", entries["episodes.csv"][1])(entries, listed)


HARMS = {
    "a path out of the folder": (with_file("../evil.txt"), "no file of a run"),
    "an absolute path": (with_file("/tmp/evil.txt"), "no file of a run"),
    "another name": (with_file("sitecustomize.py"), "no file of a run"),
    "a hidden name": (with_file(".metrics.csv.new"), "no file of a run"),
    "a link": (with_file("evaluations.csv", b"/etc/passwd", stat.S_IFLNK | 0o777), "no plain file"),
    "more bytes than listed": (with_file("evaluations.csv", b"1" * 9999, size=3), "larger than it is said to be"),
    "fewer bytes than listed": (with_file("evaluations.csv", b"1", size=3), "not as its bundle.json lists it"),
    "very many bytes": (with_file("evaluations.csv", b"1", size=2**60), "too large"),
    "more bytes than the disk has": (with_file("evaluations.csv", b"1", size=2**40 - 2**30), "has room for"),
    "another compression": (lambda entries, listed: set_compression(entries, zipfile.ZIP_LZMA), "in another way"),
    "an edited file": (edited, "not as its bundle.json lists it"),
    "an edited file that is listed": (edited_and_listed, "its run is damaged"),
    "an absent file that is listed nowhere": (without("episodes.csv"), "its run is damaged"),
    "no experiment": (without("experiment.json"), "its run is damaged"),
    "a newer format": (lambda entries, listed: listed.update(schema=9), "format 9"),
    "a list of another form": (lambda entries, listed: listed.update(files=[1]), "edited or damaged"),
    "a file that is not there": (lambda entries, listed: entries.pop("episodes.csv"), "does not hold the files"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_bundle_is_refused_in_one_line_and_leaves_nothing(packed, tmp_path, harm, capsys):
    change, words = HARMS[harm]
    out = tmp_path / "out"
    harmed = changed(packed, tmp_path / "harmed.zip", change)
    assert main(["load-bundle", str(harmed), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["harmed.zip"]


def test_what_is_no_bundle_is_refused(packed, tmp_path):
    content = packed.read_bytes()
    cases = {"cut": content[:-50], "text": b"no zip", "empty": b"", "flipped": content[:700] + b"\0\0" + content[702:]}
    for name, harmed in cases.items():
        (tmp_path / name).write_bytes(harmed)
        with pytest.raises(SharedqError, match="is no bundle, or was damaged"):
            load_bundle(tmp_path / name, tmp_path / "out")
    with pytest.raises(SharedqError, match="is no bundle, or was damaged"):
        load_bundle(changed(packed, tmp_path / "unsealed", lambda *_: None, seals=False), tmp_path / "out")
    with pytest.raises(SharedqError, match="there is no file"):
        load_bundle(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(run, packed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "text.zip").write_text("mine")
    with pytest.raises(SharedqError, match="out already exists"):
        load_bundle(packed, tmp_path / "out")
    with pytest.raises(SharedqError, match="add --overwrite"):
        bundle(run, packed)
    with pytest.raises(SharedqError, match="is no bundle, so it is not replaced"):
        bundle(run, tmp_path / "text.zip", overwrite=True)
    with pytest.raises(SharedqError, match="lies in the run"):
        bundle(run, run / "it.zip")
    assert (tmp_path / "text.zip").read_text() == "mine"
    again = tmp_path / "it.zip"
    again.write_bytes(packed.read_bytes())
    assert bundle(run, again, overwrite=True) == again


def test_what_changes_while_it_is_bundled_is_told_and_no_link_is_followed(run, tmp_path, monkeypatch):
    victim, out = tmp_path / "victim", tmp_path / "it.zip"
    victim.write_text("mine")
    (tmp_path / f".it.zip.{os.getpid()}.new").symlink_to(victim)
    (run / "episode.gif").write_bytes(b"another film")
    told = bundles._told

    def then_changed(path):
        found = told(path)
        if path.suffix == ".gif":
            path.write_bytes(b"a film")
        return found

    monkeypatch.setattr(bundles, "_told", then_changed)
    with pytest.raises(SharedqError, match="was changed while the run was bundled"):
        bundle(run, out)
    (run / "episode.gif").unlink()
    monkeypatch.undo()
    assert bundle(run, out) == out and victim.read_text() == "mine" and not out.is_symlink()


def test_a_run_that_is_unfinished_or_damaged_is_not_bundled(run, packed, tmp_path):
    again = load_bundle(packed, tmp_path / "again")
    episodes = again / "episodes.csv"
    episodes.write_text(episodes.read_text().replace("1", "2"))
    with pytest.raises(SharedqError, match=r"it is damaged: episodes\.csv"):
        bundle(again)
    (again / "finished.json").unlink()
    with pytest.raises(SharedqError, match="is not finished: end it with 'sharedq resume"):
        bundle(again)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
