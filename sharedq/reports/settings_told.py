"""The settings of the runs, and the commands that made them, so that another person can make the runs again."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sharedq import formats
from sharedq.reports.files import printable
from sharedq.reports.load_runs import Run

LONGEST = 80  # characters of a value that a table shows


def shared_and_differing(runs: Sequence[Run]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The settings that have one value in all runs, and the values of the others, one for each run."""
    flat = [_flat(run.experiment) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    values = {name: [one.get(name, "–") for one in flat] for name in names}
    shared = {name: found[0] for name, found in values.items() if len(set(found)) == 1}
    return shared, {name: found for name, found in values.items() if name not in shared}


def _flat(experiment: Mapping[str, Any]) -> dict[str, str]:
    """Every setting by its name on the command line."""
    found = {}
    for part, value in experiment.items():
        if not isinstance(value, Mapping):
            found[printable(part)] = _shown(value)
            continue
        for name, setting in value.items():
            found[printable(part if name == "kind" else f"{part}.{name}")] = _shown(setting)
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:  # nothing of ours is nested so deeply
        return "…"
    text = printable(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def experiment_json(run: Run) -> str:
    """experiment.json, as `sharedq train` takes it; empty if it is nested too deeply to be one of ours."""
    try:
        return json.dumps({"schema": formats.RUN, "experiment": run.experiment}, indent=1)
    except RecursionError:
        return ""


def portable(command: str, folder: Path) -> str:
    """The command without the paths of the machine that it was typed on.

    A path inside `folder` is told from there; of another one only its last part is left.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # not a command of ours
        return command
    told = [_portable_word(word, folder) for word in words]
    return command if told == words else shlex.join(told)


def _portable_word(word: str, folder: Path) -> str:
    """A word, or the value of `--option=value`."""
    found = re.match(r"--[\w.-]+=", word)
    option = found[0] if found else ""
    path = word.removeprefix(option)
    if not (PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()):
        return word
    parts = PurePosixPath(path)
    inside = parts.is_relative_to(folder) and parts != PurePosixPath(folder)
    told = parts.relative_to(folder).as_posix() if inside else PureWindowsPath(path).name
    return option + (told or ".")
