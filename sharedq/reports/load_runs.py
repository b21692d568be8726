"""Reads run directories: what a report knows about a run is what the run wrote down, as CSV and JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharedq.errors import SharedqError

SCHEMA = 1  # of compare.json and experiment.json
DEPTH = 3  # folders below the one asked for in which runs are looked for
EPISODE_COLUMNS = ("step", "seed", "return", "length")


class Episodes(NamedTuple):
    """The finished episodes of a run, one entry per episode, in the order they were written."""

    step: np.ndarray  # of its own seed, at which the episode ended
    seed: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Run:
    """One run directory. Absent optional files are empty mappings; numbers are as the run wrote them."""

    label: str
    folder: Path
    experiment: Mapping[str, Any]
    seeds: tuple[int, ...]
    episodes: Episodes
    metrics: Mapping[str, np.ndarray]  # column of metrics.csv -> values, timings included
    cost: Mapping[str, Any]
    timings: Mapping[str, Any]  # finished.json
    finished: bool
    diverged: Mapping[str, Any]  # diverged.json
    command: str
    versions: Mapping[str, Any]

    @property
    def target(self) -> str:
        """The kind of the target source."""
        return str(self.experiment.get("target", {}).get("kind", "unknown"))

    @property
    def bytes_beside_weights(self) -> int | None:
        """Of moments, traces and whatever else an agent learns with, the replay and a batch's activations apart."""
        parts = self.cost.get("bytes", {})
        return parts["agent"] - parts["weights"] if "agent" in parts else None

    @property
    def environment(self) -> str:
        """The environment with every option that is set; runs are compared only within the same one."""
        options = dict(self.experiment.get("environment", {}))
        words = [str(options.pop("kind", "environment"))]
        words += [value for value in options.values() if isinstance(value, str) and value]
        rest = [
            f"{name} {value}" for name, value in options.items() if value is not None and not isinstance(value, str)
        ]
        return " ".join(words) + (f" ({', '.join(rest)})" if rest else "")

    @property
    def planned(self) -> int:
        """Steps per seed that the experiment asks for; 0 if it does not say."""
        return int(self.experiment.get("training", {}).get("steps", 0))

    @property
    def reached(self) -> np.ndarray:
        """Steps that each seed is known to have done."""
        if self.finished and "steps" in self.timings:
            return np.full(len(self.seeds), int(self.timings["steps"]))
        reached = np.zeros(len(self.seeds), int)
        for step, seed in ((self.episodes.step, self.episodes.seed), (self.metrics["step"], self.metrics["seed"])):
            np.maximum.at(reached, np.searchsorted(self.seeds, seed), step.astype(int))
        return reached

    @property
    def steps_per_second(self) -> float:
        """As recorded at the end, else the median of what was recorded on the way; nan if nothing was."""
        if "steps_per_second" in self.timings:
            return float(self.timings["steps_per_second"])
        recorded = self.metrics.get("steps_per_second", np.empty(0))
        recorded = recorded[np.isfinite(recorded)]
        return float(np.median(recorded)) if recorded.size else float("nan")


@dataclass(frozen=True)
class Comparison:
    """The runs of one report, in the order in which they are shown."""

    title: str
    command: str
    reference: str | None  # the label that compare.json names
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()  # labels of planned runs that have not started


def load(folder: str | Path) -> Comparison:
    """The comparison in `folder`: what compare.json lists, else the folder itself, else every run found below it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise SharedqError(f"{folder} is not a folder: name the folder of a run or of a comparison")
    if (folder / "compare.json").is_file():
        return _load_listed(folder)
    if (folder / "experiment.json").is_file():
        run = load_run(folder, folder.resolve().name)
        return Comparison(run.label, run.command, None, (run,))
    found = _search(folder)
    if not found:
        raise SharedqError(f"no run in {folder}: train one first, for example  sharedq train --out {folder}/first")
    runs = tuple(load_run(path, path.name) for path in found)
    taken = Counter((run.environment, run.label) for run in runs)
    if max(taken.values()) > 1:
        runs = tuple(load_run(path, path.relative_to(folder).as_posix()) for path in found)
    return Comparison(folder.resolve().name, "", None, runs)


def _search(folder: Path) -> list[Path]:
    """Run directories below `folder`, sorted; hidden folders are half-made ones."""
    patterns = ("/".join(["*"] * depth) + "/experiment.json" for depth in range(1, DEPTH + 1))
    paths = (path.parent for pattern in patterns for path in folder.glob(pattern))
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _load_listed(folder: Path) -> Comparison:
    path = folder / "compare.json"
    listed = _read_json(path, SCHEMA)
    try:
        planned = [(str(entry["label"]), folder / entry["folder"]) for entry in listed["runs"]]
    except (KeyError, TypeError):
        raise SharedqError(f"{path} lists no runs with label and folder: run the comparison again") from None
    started = [(label, where) for label, where in planned if (where / "experiment.json").is_file()]
    if not started:
        raise SharedqError(f"no run of the comparison in {folder} has started: run it first")
    reference = listed.get("reference")
    if reference is not None and reference not in dict(planned):
        raise SharedqError(f"{path} names the reference '{reference}', which is none of its runs: correct its label")
    runs = tuple(load_run(where, label) for label, where in started)
    for (environment, label), count in Counter((run.environment, run.label) for run in runs).items():
        if count > 1:
            raise SharedqError(f"{path} lists '{label}' {count} times for {environment}: give each run its own label")
    missing = tuple(label for label, where in planned if (label, where) not in started)
    return Comparison(str(listed.get("recipe", folder.name)), str(listed.get("command", "")), reference, runs, missing)


def load_run(folder: Path, label: str) -> Run:
    """The run in `folder`, under the name it has in the report."""
    try:
        experiment = _read_json(folder / "experiment.json", SCHEMA)["experiment"]
        first, count = int(experiment["seed"]), int(experiment["seeds"])
    except (KeyError, TypeError, ValueError):
        raise SharedqError(f"{folder / 'experiment.json'} names no experiment with seeds: remove this folder") from None
    seeds = tuple(range(first, first + count))
    episodes = _read_table(folder / "episodes.csv", EPISODE_COLUMNS, seeds)
    timings = _read_optional(folder / "finished.json")
    return Run(
        label=label,
        folder=folder,
        experiment=experiment,
        seeds=seeds,
        episodes=Episodes(*(episodes[name] for name in EPISODE_COLUMNS)),
        metrics=_read_table(folder / "metrics.csv", ("step", "seed"), seeds),
        cost=_read_optional(folder / "cost.json"),
        timings=timings,
        finished=bool(timings),
        diverged=_read_optional(folder / "diverged.json"),
        command=_read_text(folder / "command.txt").strip(),
        versions=_read_optional(folder / "versions.json"),
    )


def _read_text(path: Path) -> str:
    """The text of a file, empty if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise SharedqError(f"{path} cannot be read ({error}): restore it or remove its folder") from None


def _read_json(path: Path, schema: int | None = None) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise SharedqError(f"{path} is not valid JSON ({error}): restore it or remove its folder") from None
    if not isinstance(content, dict):
        raise SharedqError(f"{path} does not hold a JSON object: restore it or remove its folder")
    if schema is not None and content.get("schema") != schema:
        raise SharedqError(f"{path} has schema {content.get('schema')}, this version reads {schema}: update sharedq")
    return content


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _read_table(path: Path, needed: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The columns of a CSV file; an absent file has the needed columns without rows, an empty cell is nan.

    A run that is being written, or was killed, may end in half a line: it is left out.
    """
    lines = _read_text(path).split("\n")[:-1]
    names = lines[0].split(",") if lines else list(needed)
    if absent := [name for name in needed if name not in names]:
        raise SharedqError(f"{path} has no column '{absent[0]}': restore it or remove its folder")
    if len(lines) < 2:
        return {name: np.empty(0) for name in names}
    try:
        table = np.loadtxt(
            lines[1:], delimiter=",", ndmin=2, converters=lambda cell: float(cell or "nan"), encoding=None
        )
    except ValueError as error:
        raise SharedqError(f"{path} cannot be read ({error}): restore it or remove its folder") from None
    if table.shape[1] != len(names):
        raise SharedqError(
            f"{path} has {len(names)} names for {table.shape[1]} columns: restore it or remove its folder"
        )
    columns = dict(zip(names, table.T, strict=True))
    if strangers := set(columns["seed"]) - set(seeds):
        raise SharedqError(
            f"{path} has seed {min(strangers):g}, which experiment.json does not list: remove its folder"
        )
    return columns
