"""The settings of the runs, and the commands that made them, so that another person can make the runs again."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sharedq import formats
from sharedq.reports.files import printable
from sharedq.reports.load_runs import DIGITS, Run

LONGEST = 80  # characters of a value that a table shows


PATH = re.compile(r"(?<![\w.])/(?:[^\s/,:;()]+/)+(?=[^\s/,:;()])")  # of a machine, up to its last part


def shared_and_differing(runs: Sequence[Run], folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The settings that have one value in all runs, and the values of the others, one for each run."""
    flat = [_flat(_experiment(run, folder)) for run in runs]
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


def experiment_json(run: Run, folder: Path) -> str:
    """experiment.json, as `sharedq train` takes it; empty if it is nested too deeply to be one of ours."""
    try:
        return json.dumps({"schema": formats.RUN, "experiment": _experiment(run, folder)}, indent=1)
    except RecursionError:
        return ""


def _experiment(run: Run, folder: Path) -> Mapping[str, Any]:
    """The experiment. The place of a data set is told without the paths of the machine, as in a command."""
    replay = run.experiment.get("replay", {})
    if not replay.get("path"):
        return run.experiment
    return {**run.experiment, "replay": {**replay, "path": _portable_word(replay["path"], folder)}}


def data_told(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """What is known of the data set that the runs of a task learn from, line by line."""
    settings = [_experiment(run, folder).get("replay", {}) for run in runs]
    known = next((run.data for run in runs if run.data), {})

    def all_of(name: str) -> str:
        return ", ".join(dict.fromkeys(_shown(one[name]) for one in settings if name in one))

    steps, share = known.get("steps"), settings[0].get("fraction", 1.0)
    count = "" if steps is None else f"{steps:,} in {known.get('episodes', 0):,} episodes"
    used = f", of which {known['used']:,} are used" if share < 1 and "used" in known else ""
    of = "random whole episodes" if settings[0].get("fraction_of") == "episodes" else "the first steps of each group"
    ends = known.get("ends", {})
    scores = runs[0].reference_scores
    lines = {
        "data set": all_of("path"),
        "checksum": settings[0].get("content", "")[:DIGITS],
        "source": PATH.sub("", known.get("source") or ""),
        "recorded in": known.get("environment") or "",
        "behaviour": PATH.sub("", known.get("behaviour") or ""),
        "steps": count + used,
        "share": "all" if share == 1 else f"{100 * share:g} %: {of}",
        "episodes end": ", ".join(f"{count:,} {end}" for end, count in ends.items() if count),
        "rewards": known.get("rewards") or "",
        "batch size": all_of("batch_size"),
        "n-step": all_of("n_step"),
        "reference scores": scores_in_words(*scores) if scores else "",
        **{f"note {place}": PATH.sub("", note) for place, note in enumerate(known.get("notes", []), start=1)},
    }
    return {name: printable(text) for name, text in lines.items() if text}


def scores_in_words(low: float, high: float) -> str:
    """The returns that count 0 and 100 in a normalised score."""
    return f"{low:g} of a random agent, {high:g} of an expert or, on Atari, a human"


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
