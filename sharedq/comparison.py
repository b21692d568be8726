"""The same experiment on several sources of targets, one run each, and a report over them all."""

import dataclasses
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sharedq import reports
from sharedq.errors import Diverged, SharedqError, Stopped, missing_extra
from sharedq.experiment import Experiment, Trust
from sharedq.runs import RunDirectory, atomic_write
from sharedq.settings import require
from sharedq.targets import TargetNetwork
from sharedq.trainer import prepared, resume, to_trust, train, use_cores_for
from sharedq.training.progress import Progress

Shown = Callable[[str, int, int], AbstractContextManager[Progress]]

PLAN = "compare.json"


def with_target(experiment: Experiment, wanted: str) -> Experiment:
    """The experiment on the source that `name:option=value,option=value` describes."""
    name, _, rest = wanted.partition(":")
    texts = {"target": name}
    for pair in filter(None, re.split(r",(?=[^,=]*=)", rest)):  # a part without = goes on with the value before it
        option, equals, value = pair.partition("=")
        require(bool(equals), f"'{wanted}' is not of the form source:option=value,option=value")
        require(f"target.{option}" not in texts, f"'{wanted}' gives {option} twice")
        texts[f"target.{option}"] = value
    return experiment.parse(texts)


def labels_of(experiments: Sequence[Experiment]) -> list[str]:
    """A name for each source; sources of one name are told apart by all that their settings differ in."""
    shared = Counter(one.target.label for one in experiments)

    def label(one: Experiment) -> str:
        if shared[one.target.label] == 1:
            return one.target.label
        alike = [other.target for other in experiments if other.target.label == one.target.label]
        settings = (field.name for field in dataclasses.fields(one.target))
        differing = [name for name in settings if len({getattr(other, name) for other in alike}) > 1]
        words = ", ".join(f"{name} {getattr(one.target, name)}" for name in differing)
        return f"{one.target.label} ({words})" if words else one.target.label

    found = [label(one) for one in experiments]
    twice = [name for name, times in Counter(found).items() if times > 1]
    require(not twice, f"{' and '.join(twice)} would be trained twice: name each source once")
    return found


def plan(name: str, experiments: Sequence[Experiment], out: Path, command: str, overwrite: bool) -> None:
    """Writes down what to compare at `out`, or finds the same comparison there, begun."""
    require(len(experiments) >= 1, "name at least one source to compare")
    labels = labels_of(experiments)
    _check_report()
    described = {
        "schema": 1,
        "recipe": name,
        "command": command,
        "reference": next((x for x, one in zip(labels, experiments) if isinstance(one.target, TargetNetwork)), None),
        "runs": [_planned(label, one, out) for label, one in zip(labels, experiments)],
    }
    there = (out / PLAN).exists()
    if there and not overwrite:
        if _wanted(read_plan(out)) != _wanted(described):
            raise SharedqError(f"{out} holds another comparison: choose another --out, or add --overwrite")
        return
    if out.exists() and not there and (not out.is_dir() or any(out.iterdir())):
        raise SharedqError(f"{out} is not empty and holds no comparison: choose another --out")
    use_cores_for(experiments[0])
    for experiment in experiments:  # what cannot be built or does not fit leaves no folder
        prepared(experiment)
    if there:
        _remove_runs(out)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / PLAN, f"{json.dumps(described, indent=2)}\n".encode())


def _remove_runs(out: Path) -> None:
    """All runs of a comparison, so that none of them is taken for one of the comparison that takes its place."""
    for described in out.glob("runs/*/experiment.json"):
        with RunDirectory.open(described.parent).writing():
            shutil.rmtree(described.parent)


def _check_report() -> None:
    """A report that cannot be drawn is found out before hours of training, not after."""
    if find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "report", "the report at the end")


def _wanted(described: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(one["label"], one["experiment"]) for one in described["runs"]]


def _planned(label: str, experiment: Experiment, out: Path) -> dict[str, Any]:
    folder = "runs/" + "".join(c if c.isalnum() else "-" for c in label.replace("=", "")).strip("-").lower()
    command = f"sharedq train {shlex.quote(str(out / folder / 'experiment.json'))}{to_trust(experiment)}"
    return {"label": label, "folder": folder, "command": command, "experiment": experiment.to_dict()}


def read_plan(out: Path) -> dict[str, Any]:
    try:
        described = json.loads((out / PLAN).read_text())
        complete = all({"label", "folder", "command", "experiment"} <= one.keys() for one in described["runs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        complete = False
    require(complete, f"{out / PLAN} cannot be read or was edited: repeat the comparison with --overwrite")
    return described


def carry_out(out: Path, shown: Shown, trust: Trust = False) -> Path:
    """Trains what the plan at `out` still lacks, then writes the report. Returns the page.

    Code that the plan names is imported only if it is trusted: all of it (`True`), or these import strings. A
    source that diverges does not keep the others from being trained: the report says so, and the end is an error.
    """
    described = read_plan(out)
    _check_report()
    experiments = [Experiment.from_dict(one["experiment"], trust) for one in described["runs"]]
    lost = []
    for number, (one, experiment) in enumerate(zip(described["runs"], experiments), start=1):
        folder = out / one["folder"]
        begun = (folder / "experiment.json").exists()
        if begun:
            run = RunDirectory.open(folder)
            if run.experiment() != one["experiment"]:
                raise SharedqError(f"{folder} holds another run than {PLAN} asks for: remove it to train it again")
            if run.finished() is not None:
                continue
        title = f"{number} of {len(described['runs'])}, {one['label']}"
        try:
            with shown(title, experiment.training.steps, experiment.seeds) as progress:
                try:
                    if begun:
                        resume(folder, trust=trust, progress=progress)
                    else:
                        train(experiment, folder, command=one["command"], progress=progress)
                except Diverged as diverged:
                    progress.say(f"diverged: {diverged}")
                    lost.append(one["label"])
        except Stopped as stopped:
            onwards = f"sharedq resume {out}{to_trust(experiment)}"
            raise Stopped(f"stopped in {title}; to continue: {onwards}", stopped.exit_code - 128) from None
    page = reports.write(out)
    if lost:
        raise Diverged(f"learning diverged on {' and '.join(lost)}; the report on what there is: {page}")
    return page
