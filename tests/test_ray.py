"""Comparisons whose runs are tasks of Ray, on a local cluster, with processes that are killed in the middle."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from sharedq import child_process
from sharedq.command_line import main
from sharedq.comparison import plan, sweep
from sharedq.recipes import recipe

STEPS = 200_000
SMALL = ("--steps", STEPS, "--training.log_period", 4000, "--training.checkpoint_period", 4000)
TWO = ("--targets", "online_network", "target_network")
EIGHT = ("--targets", "online_network", "target_network", "--gamma", 0.8, 0.9, 0.95, 0.99)


def command(out: Path, *options) -> list[str]:
    return [str(word) for word in ("compare", "corridor", *SMALL, *options, "--out", out)]


@pytest.fixture
def apart(monkeypatch):
    """Lets Ray keep its files in a folder of their own. Its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("HOME", folder)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        yield Path(folder)


def with_words(*words: str) -> dict[int, int]:
    """The processes whose command has these words, with their parents."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            said = (status.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if set(words) <= set(said):
                found[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def of_ray(folder: Path) -> list[int]:
    """The processes of the Ray whose files are in a folder."""
    lines = {path: path.with_name("cmdline") for path in Path("/proc").glob("[0-9]*/stat")}
    found = []
    for path, line in lines.items():
        try:
            if str(folder) in line.read_text(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def without_times(found: Any) -> Any:
    """A summary without what a clock measured."""
    if isinstance(found, dict):
        return {k: without_times(x) for k, x in found.items() if "second" not in k}
    return [without_times(one) for one in found] if isinstance(found, list) else found


def results(out: Path) -> dict[str, Any]:
    """What a comparison found: agents, logs, and what the page shows, but not how long anything took."""

    def rows(path: Path) -> list[dict[str, str]]:
        with path.open() as file:
            return [{k: x for k, x in row.items() if "second" not in k} for row in csv.DictReader(file)]

    found: dict[str, Any] = {"summary": without_times(json.loads((out / "summary.json").read_text()))}
    for name in ("curves.csv", "seeds.csv"):
        found[name] = (out / name).read_bytes()
    for figure in (out / "figures").glob("*.svg"):
        if figure.stem != "speed":
            found[figure.name] = figure.read_bytes()
    for run in (out / "runs").iterdir():
        agent = (run / f"checkpoints/{STEPS:012d}/agent.safetensors").read_bytes()
        found[run.name] = agent, rows(run / "metrics.csv"), rows(run / "episodes.csv")
    return found


def carried_out_with_a_kill(out: Path, killed: str, whom: str, *options) -> str:
    """Carries a comparison out on Ray and kills the worker or the process of a run that has a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sharedq", *command(out, *options), "--on", "ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoints = out / "runs" / killed / "checkpoints"
    while not (checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    ((number, parent),) = with_words("--run", killed, str(out.resolve())).items()
    os.kill(parent if whom == "worker" else number, signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "is tried again, from its last checkpoint" in said
    return said


@pytest.mark.parametrize(("whom", "options"), [("run", TWO), ("worker", EIGHT)], ids=["two runs", "eight runs"])
def test_a_killed_task_goes_on_from_its_checkpoint_and_all_ends_as_without_ray(tmp_path, apart, whom, options):
    killed = "target-network" if options == TWO else "target-network--gamma-0-9"
    said = carried_out_with_a_kill(tmp_path / "ray", killed, whom, *options)
    assert said.count("is finished") == (2 if options == TWO else 8)
    assert of_ray(apart) == []
    assert main(command(tmp_path / "alone", *options)) == 0
    assert results(tmp_path / "ray") == results(tmp_path / "alone")


def test_one_run_of_a_comparison_is_trained_by_its_name(tmp_path, capsys):
    out = tmp_path / "two"
    experiments = sweep(recipe("corridor").replace(steps=400, log_period=200), {}, ["online_network", "target_network"])
    plan("corridor", experiments, out, "sharedq compare corridor", overwrite=False)
    assert main(["resume", str(out), "--run", "target-free"]) == 0
    assert [path.name for path in (out / "runs").iterdir()] == ["target-free"]
    assert main(["resume", str(out), "--run", "target-fre"]) == 2
    assert "unknown run 'target-fre': did you mean target-free" in capsys.readouterr().err
    assert main(["resume", str(out / "runs/target-free"), "--run", "target-free"]) == 2
    assert "--run is for a comparison" in capsys.readouterr().err


@pytest.mark.parametrize("answers", [False, True], ids=["nothing there", "not Ray"])
def test_a_cluster_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch, capsys, answers):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if not answers:
            server.close()
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr("sharedq.ray_cluster.REACHED_IN", 5)
        assert main(command(tmp_path / "out", *TWO, "--on", "ray")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no Ray cluster answers at {address}" in line
    assert "RAY_ADDRESS" in line


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sharedq.ray_cluster.find_spec", lambda name: None)
    assert main(command(tmp_path / "out", *TWO, "--on", "ray")) == 2
    assert "pip install 'sharedq[ray]'" in capsys.readouterr().err


def test_a_task_tells_how_its_process_ended(tmp_path):
    ended = child_process.run(["resume", "nothing"], str(tmp_path))
    assert ended.code == 2
    assert "nothing" in ended.last_line
    assert not ended.last_line.startswith("sharedq: ")
