"""What a command answered, what it left on the disk, and whether that is how a command may end."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sharedq.command_line import main
from sharedq.errors import Stopped
from sharedq.experiment import Experiment
from sharedq.runs import RunDirectory
from sharedq.runs.run_files import TABLES
from sharedq.trainer import resume, train
from sharedq.training.progress import Silent

PATIENCE = 15.0  # seconds until a command is asked to stop as Ctrl-C would ask it
LONGEST = 60.0  # seconds that a command may take in all
TIMINGS = ("steps_per_second", "seconds")
DESCRIPTIONS = ("experiment.json", "spec.json", "command.txt", "cost.json", "versions.json")


class Answer(NamedTuple):
    """The end of one command; `trouble` says what is wrong with it, and is empty if nothing is."""

    code: int | None
    out: str
    err: str
    trouble: str


def ask(*words: object, folder: Path) -> Answer:
    """Runs a command in this process, in `folder`, as a shell would run it in a process of its own."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code, trouble, began = None, "", time.monotonic()
    with contextlib.chdir(folder), _impatient(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # which Python tells nobody unless asked
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = out, err
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException as error:
            place = error.__traceback__
            while place.tb_next:
                place = place.tb_next
            where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
            trouble = f"traceback: {type(error).__name__}: {error} ({where})"
        finally:
            sys.stdout, sys.stderr = streams
    said, complained = (stream.buffer.getvalue().decode(errors="backslashreplace") for stream in (out, err))
    passed = time.monotonic() - began
    if passed > LONGEST:
        trouble = trouble or f"it took {passed:.0f} seconds"
    if warned:
        trouble = trouble or f"traceback: warning: {warned[0].message}"
    return Answer(code, said, complained, trouble or wrong_end(code, said, complained))


def wrong_end(code: int | None, out: str, err: str) -> str:
    """Why a command may not end so, if it may not."""
    if "Traceback (most recent call last)" in out + err:
        return f"traceback: {err[-300:]}"
    if code not in (0, 2, 3) and not (code is not None and 128 < code < 160):
        return f"exit code {code}: {err}"
    if code == 0 and err:
        return f"a success that complains: {err}"
    silent = code == 128 + signal.SIGPIPE
    if code != 0 and not silent and not re.fullmatch(r"sharedq: [^\n]+\n", err):
        return f"not one line: {err!r}"
    return ""


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Within, Ctrl-C is pressed when patience ends, and again after that."""

    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def states(root: Path, apart_from: Path | None = None) -> dict[str, tuple]:
    """What lies in a folder, to the byte and to the time of its last change, but for one folder in it."""
    found = {}
    for path in sorted(root.rglob("*")):
        if apart_from is not None and (path.is_relative_to(apart_from) or apart_from.is_relative_to(path)):
            continue
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        link = str(path.readlink()) if path.is_symlink() else ""
        changed = status.st_mtime_ns if plain else 0
        found[path.relative_to(root).as_posix()] = (status.st_mode, link, changed, path.read_bytes() if plain else b"")
    return found


def outcome(run: Path) -> dict[str, object]:
    """All that a run ends with, part by part, without the times that it took."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or name == "lock":
            found[name] = "there"
        elif name == "metrics.csv":
            with path.open() as file:
                found[name] = [{k: x for k, x in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]
        elif name == "finished.json":
            found[name] = json.loads(path.read_text())["steps"]
        elif name == "versions.json":
            found[name] = {k: x for k, x in json.loads(path.read_text()).items() if k != "date"}
        elif name in (*TABLES, *DESCRIPTIONS) or name.endswith("agent.safetensors"):
            found[name] = path.read_bytes()
        elif not name.startswith(("tensorboard/", "checkpoints/")):
            found[name] = "there"
    for events in run.rglob("events.out*"):
        found[events.relative_to(run).as_posix()] = events.stat().st_size
    return found


def differences(mine: dict, other: dict) -> list[str]:
    """The names of the parts that differ: a failure names them and does not print what they hold."""
    return sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))


class Asks(Silent):
    """Asks the run to stop at a step, as Ctrl-C would."""

    def __init__(self, step: int):
        self.step = step

    def update(self, step, rate, mean_return, learning):
        if step == self.step:
            signal.raise_signal(signal.SIGINT)


def same_after_a_stop(experiment: Experiment, folder: Path, step: int) -> dict[str, object]:
    """Asserts that a run that is stopped at a step and resumed ends as an unbroken one; what this one ends with."""
    train(experiment, folder / "unbroken", progress=None, command="sharedq train")
    with pytest.raises(Stopped):
        train(experiment, folder / "run", progress=Asks(step), command="sharedq train")
    assert RunDirectory.open(folder / "run").finished() is None
    resume(folder / "run", progress=None)
    whole = outcome(folder / "unbroken")
    assert differences(outcome(folder / "run"), whole) == []
    return whole


class Counts:
    """How many attacks of a part there were and how they ended, and each that ended badly."""

    def __init__(self, part: str):
        self.part, self.ends, self.bad = part, Counter(), []

    def add(self, attack: object, end: str, bad: str = "") -> None:
        self.ends[end] += 1
        if bad:
            kinds = {"traceback": "tracebacks", "silent": "silent acceptances", "outside": "files touched outside"}
            kind = next((word for key, word in kinds.items() if bad.startswith(key)), "other bad ends")
            self.bad.append((kind, f"{attack}: {bad}"))

    def check(self, record_property=None) -> None:
        """Prints the counts, and fails if one attack ended badly."""
        bad = Counter(kind for kind, _ in self.bad)
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        for kind in ("tracebacks", "silent acceptances", "files touched outside", "other bad ends"):
            ends += f"; {bad[kind]} {kind}"
        line = f"{self.ends.total()} {self.part}: {ends}"
        print(f"\n{line}", flush=True)
        for kind, told in self.bad:
            print(f"  {kind}: {told}"[:700], flush=True)
        if record_property is not None:
            record_property(self.part, line)
        assert not self.bad, f"{len(self.bad)} of {line}; the first: {self.bad[0][1]}"
