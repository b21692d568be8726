"""Reads run directories: what a report knows about a run is what the run wrote down, as CSV and JSON."""

import hashlib
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharedq import formats
from sharedq.errors import SharedqError, unknown
from sharedq.json_files import Maybe, is_as_sealed
from sharedq.reports.environment_names import environment_name
from sharedq.reports.files import LARGEST_TEXT, REMEDY, is_there, printable, read, read_json
from sharedq.reports.plan import PLAN, read_plan
from sharedq.reports.tables import LARGEST_STEP, Table, read_episodes, read_evaluations, read_histograms, read_metrics

DEPTH = 3  # folders below the one asked for in which runs are looked for
MOST_SEEDS = 10_000  # a bootstrap over more takes hours
LARGEST_COUNT = 2**63  # bytes, parameters
TIMINGS = ("steps_per_second", "compile_seconds")  # of finished.json
LARGEST_RATE = 1e12  # steps, seconds, steps a second

EXPERIMENT = {
    "experiment": {
        "environment": Maybe({str: Any}),
        "target": Maybe({"kind": Maybe(str)}),
        "training": Maybe(
            {
                **{name: Maybe(int) for name in ("steps", "environments", "warm_up", "evaluation_episodes")},
                "evaluation_period": Maybe(int | None),
                "kind": Maybe(str),
            }
        ),
        "algorithm": Maybe({"random_steps": Maybe(int)}),
        "replay": Maybe(
            {
                **{name: Maybe(str) for name in ("path", "content", "fraction_of")},
                **{name: Maybe(int) for name in ("batch_size", "n_step")},
                "fraction": Maybe(float),
            }
        ),
        "seeds": int,
        "seed": int,
    },
}
COST = {"parameters": Maybe({str: int}), "bytes": Maybe({str: int})}
FINISHED = {
    "steps": int,
    "steps_per_second": Maybe(float),
    "compile_seconds": Maybe(float),
    "logs": Maybe({str: str}),
    "files": Maybe({str: str}),
    "sha256": Maybe(str),
}
DATA = {
    "learns_from": Maybe(str),
    **{name: Maybe(str | None) for name in ("source", "reader", "environment", "behaviour", "rewards", "made")},
    **{name: Maybe(int) for name in ("steps", "episodes", "groups", "used")},
    "reference_scores": Maybe(Any),
    "notes": Maybe([str]),
    "ends": Maybe({str: int}),
    "sha256": Maybe(str),
}
DESCRIPTIONS = ("experiment.json", "cost.json", "data.json", "versions.json", "command.txt")  # a page tells of them
DIGITS = 12  # of a checksum of data that are shown
DIVERGED = {"step": int, "seed": int}
VERSIONS = {str: str | int | None}
DATE = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)[\d:.]*(Z|\+00:00)")  # in UTC


class Episodes(NamedTuple):
    """The finished episodes of a run, one entry per episode, in the order they were written."""

    step: np.ndarray  # of its own seed, at which the episode ended
    seed: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


NO_EPISODES = Episodes(*np.empty((4, 0)))


class Speed(NamedTuple):
    """Steps per second, all seeds together: gradient steps of a run that learns from data, environment steps of others.

    Nan where nothing was recorded.
    """

    overall: float  # as recorded at the end, else the median
    median: float  # of the rows of the log after the warm-up, as are the next two
    smallest: float
    largest: float


class Histogram(NamedTuple):
    """How many numbers lie in each bin, all seeds together."""

    edges: np.ndarray
    counts: np.ndarray


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
    damages: tuple[str, ...] = ()  # what of the run's logs is not whole, in sentences
    vouched: bool = True  # whether finished.json, if there is one, has the checksums of the logs
    evaluations: Episodes = NO_EPISODES  # `step` is that of the training at which the evaluation was made
    data: Mapping[str, Any] = field(default_factory=dict)  # data.json, which describes the data set learned from
    histograms: Mapping[str, "Histogram"] = field(default_factory=dict)  # at the last row of the log
    parts: tuple["Run", ...] = ()  # the runs with some of the seeds each, if they were trained apart

    @property
    def target(self) -> str:
        """The kind of the target source; "none" if the algorithm asks no source."""
        return str(self.experiment.get("target", {}).get("kind", "unknown"))

    @property
    def bytes_beside_weights(self) -> int | None:
        """Of moments, traces and whatever else an agent learns with, the replay and a batch's activations apart."""
        parts = self.cost.get("bytes", {})
        return parts["agent"] - parts["weights"] if "agent" in parts and "weights" in parts else None

    @property
    def environment(self) -> str:
        """The environment with every option that is set."""
        options = dict(self.experiment.get("environment", {}))
        words = [str(options.pop("kind", "environment"))]
        words += [value for value in options.values() if isinstance(value, str) and value]
        rest = [
            f"{name} {value}" for name, value in options.items() if value is not None and not isinstance(value, str)
        ]
        return " ".join(words) + (f" ({', '.join(rest)})" if rest else "")

    @property
    def environment_name(self) -> str:
        return environment_name(self.experiment.get("environment", {}))

    @property
    def task(self) -> str:
        """What runs are compared within: the environment, and the data and the share of them that are learned from."""
        return self.environment if self.plays else f"{self.environment}, {self.data_name}"

    @property
    def data_name(self) -> str:
        """The data set by the beginning of its checksum, which does not depend on where it lies, and the share used."""
        settings = self.experiment.get("replay", {})
        content = settings.get("content", "")[:DIGITS] or settings.get("path", "") or "unknown"
        share = settings.get("fraction", 1.0)
        of = "random episodes" if settings.get("fraction_of") == "episodes" else "the first steps"
        return f"data {printable(content)}" + (f", {100 * share:g} % of them ({of})" if share < 1 else "")

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """The return of a random agent and the higher one of an expert, if the data set says them."""
        low, high = self.data.get("reference_scores") or (0, 0)
        return (float(low), float(high)) if low < high else None

    @property
    def plays(self) -> bool:
        """Whether the agent plays while it learns. One that learns from a data set only plays in evaluations."""
        by_kind = "data" if self.experiment.get("training", {}).get("kind") == "offline" else "replay"
        return self.data.get("learns_from", by_kind) != "data"  # older runs do not say it

    @property
    def played(self) -> Episodes:
        """The episodes that learning curves are made of."""
        return self.episodes if self.plays else self.evaluations

    @property
    def warm_up(self) -> int:
        """Steps of each seed at the start in which nothing is learned, or all actions are random."""
        if not self.plays:
            return 0
        training, algorithm = self.experiment.get("training", {}), self.experiment.get("algorithm", {})
        return max(training.get("warm_up", 0), algorithm.get("random_steps", 0))

    @property
    def date(self) -> str:
        """When the run was begun, to the minute in UTC; empty if it did not say."""
        found = DATE.fullmatch(str(self.versions.get("date", "")))
        return f"{found[1]} {found[2]}" if found else ""

    @property
    def measures(self) -> list[str]:
        """The names of what was measured during training, and of what source and sampler say of themselves."""
        measured = (formats.MEASURES, formats.TARGET, formats.SAMPLER)
        return [name.removeprefix(formats.MEASURES) for name in self.metrics if name.startswith(measured)]

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
        for step, seed in (self.played[:2], (self.metrics["step"], self.metrics["seed"])):
            np.maximum.at(reached, np.searchsorted(self.seeds, seed), step.astype(int))
        return reached

    @property
    def speed(self) -> Speed:
        if self.parts:
            overall, median, smallest, largest = zip(*(run.speed for run in self.parts))
            return Speed(*map(float, (np.mean(overall), np.median(median), np.min(smallest), np.max(largest))))
        recorded = self.metrics.get("steps_per_second", np.empty(0))
        step, places = np.unique(self.metrics["step"], return_index=True)  # all seeds have the same speed
        learning = np.append(0, step[:-1]) >= self.warm_up  # since the row before
        speeds = recorded[places] if recorded.size else recorded
        speeds = speeds[learning] if learning.any() and recorded.size else speeds
        speeds = speeds[np.isfinite(speeds)]
        spread = (np.median(speeds), speeds.min(), speeds.max()) if speeds.size else (np.nan,) * 3
        return Speed(*map(float, (self.timings.get("steps_per_second", spread[0]), *spread)))


@dataclass(frozen=True)
class Comparison:
    """The runs of one report, in the order in which they are shown."""

    about: str  # what the runs were varied from, or where they lie
    command: str
    reference: str | None  # the label that was asked for, or that compare.json names
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()  # labels of planned runs that have not started
    links: tuple[str, ...] = ()  # links among the folders searched, which are not followed
    left_out: tuple[str, ...] = ()  # why runs cannot be reported, in a line each
    ranked: bool = False  # whether the runs are settings of which the best is looked for
    left: float | None = None  # seconds of training that are left, by the speed so far; None if unknown or finished


def load(folder: str | Path, reference: str | None = None) -> Comparison:
    """The comparison in `folder`: what compare.json lists, else the folder itself, else every run found below it.

    `reference` is the label of the run that the others are compared with, in place of that of compare.json.
    """
    comparison = _load(Path(folder))
    if reference is None:
        return comparison
    labels = {run.label for run in comparison.runs}
    if reference not in labels:
        raise unknown("reference", printable(reference), labels)
    return replace(comparison, reference=reference)


def _load(folder: Path) -> Comparison:
    if not folder.is_dir():
        raise SharedqError(f"{folder} is not a folder: name the folder of a run or of a comparison")
    if is_there(folder / PLAN):
        return _load_listed(folder)
    if is_there(folder / "experiment.json"):
        run = load_run(folder, folder.resolve().name)
        return Comparison(f"the run {run.label}", run.command, None, (run,))
    links: list[str] = []
    found = sorted(_search(folder, links, DEPTH))
    if not found:
        hint = f" ({links[0]} is a link, which is not followed)" if links else ""
        first = shlex.quote(str(folder / "first"))
        raise SharedqError(
            f"no run in {folder}{hint}: train one first, for example  sharedq train cartpole --out {first}"
        )
    runs, left_out = _readable((path.name, path) for path in found)
    runs = _joined(runs)
    taken = Counter((run.task, run.label) for run in runs)
    if max(taken.values()) > 1:
        runs = tuple(replace(run, label=printable(run.folder.relative_to(folder).as_posix())) for run in runs)
    about = f"the runs in {printable(folder.resolve().name)}"
    return Comparison(about, "", None, runs, links=tuple(sorted(links)), left_out=left_out)


def _readable(named: Iterable[tuple[str, Path]]) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """The runs that can be reported, and why the others cannot; raises if none can."""
    runs, errors, left_out = [], [], []
    for label, folder in named:
        try:
            runs.append(load_run(folder, label))
        except SharedqError as error:
            errors.append(error)
            why = str(error).replace(f"{folder}/", "").replace(str(folder), label)  # a page names no place of its own
            left_out.append(printable(f"{label} is left out: {why}."))
    if not runs:
        raise errors[0]
    return tuple(runs), tuple(left_out)


def _search(folder: Path, links: list[str], depth: int) -> Iterator[Path]:
    """Run directories below `folder`; hidden folders are half-made ones, and the names of links are told in `links`."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SharedqError(f"{folder} cannot be read ({error.strerror}): name a folder that can") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and path.is_dir():
            links.append(printable(entry.name))
        elif entry.is_dir(follow_symlinks=False):
            if is_there(path / "experiment.json"):
                yield path
            if depth > 1:
                yield from _search(path, links, depth - 1)


def _load_listed(folder: Path) -> Comparison:
    path, listed = folder / PLAN, read_plan(folder, "run the comparison again")
    planned = [(one["label"], folder / one["folder"]) for one in listed["runs"]]
    # A run's folder gets its name once it holds an experiment: one that holds something else is damaged, and said so.
    started = [(label, where) for label, where in planned if where.is_dir() and any(where.iterdir())]
    if not started:
        raise SharedqError(f"no run of the comparison in {folder} has started: run it first")
    reference = listed["reference"]
    if reference is not None and reference not in dict(planned):
        raise SharedqError(f"{path} names the reference '{reference}', which is none of its runs: correct its label")
    runs, left_out = _readable(started)
    left = _time_left([*runs], [one for one in listed["runs"] if (one["label"], folder / one["folder"]) not in started])
    runs = _joined(runs)
    for (environment, label), count in Counter((run.task, run.label) for run in runs).items():
        if count > 1:
            raise SharedqError(f"{path} lists '{label}' {count} times for {environment}: give each run its own label")
    missing = tuple(label for label, where in planned if (label, where) not in started)
    about = f"varied from the recipe {listed['recipe']}"
    return Comparison(
        about, listed["command"], reference, runs, missing, ranked=listed["ranked"], left_out=left_out, left=left
    )


def _time_left(runs: Sequence[Run], not_begun: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of training that the runs of a comparison still need, if those that have not begun are as fast."""
    left, steps = 0.0, 0
    for run in runs:
        if not run.finished and not run.diverged and run.planned:
            left += (run.planned - int(run.reached.min())) * len(run.seeds) / (run.speed.overall or np.nan)
    for one in not_begun:
        described = one.get("experiment", {})
        training = described.get("training")
        planned, seeds = (training or {}).get("steps") if isinstance(training, dict) else None, described.get("seeds")
        countable = all(type(number) is int and 0 <= number <= LARGEST_STEP for number in (planned, seeds))
        steps += planned * seeds if countable else 0
    speeds = [run.speed.overall for run in runs if 0 < run.speed.overall < np.inf]
    left += steps / float(np.median(speeds)) if steps and speeds else 0.0 if not steps else np.nan
    return float(left) if 0 < left < np.inf else None


def _joined(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs, where those of one label and task that differ only in their seeds are one run with all these seeds."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        settings = {name: value for name, value in run.experiment.items() if name not in ("seed", "seeds")}
        key = json.dumps([run.label, run.task, settings], sort_keys=True)
        same = groups.setdefault(key, [])
        if any({*run.seeds} & {*other.seeds} for other in same):
            key = f"{key} {run.folder}"
        groups.setdefault(key, []).append(run)
    return tuple(_as_one(group) for group in groups.values() if group)


def _as_one(group: Sequence[Run]) -> Run:
    """One run with the seeds of all."""
    first, *others = group = sorted(group, key=lambda run: run.seeds)
    if not others:
        return first
    finished = all(run.finished for run in group)
    names = dict.fromkeys(name for run in group for name in run.metrics)
    absent = [np.full(len(run.metrics["step"]), np.nan) for run in group]
    timings = {name: value for name, value in first.timings.items() if name not in ("logs", "files", "sha256")}
    if finished:
        timings["steps"] = min(run.timings["steps"] for run in group)
        for name in TIMINGS:
            known = [run.timings[name] for run in group if name in run.timings]
            timings |= {name: float(np.mean(known))} if known else {}
    return replace(
        first,
        experiment=dict(first.experiment) | {"seeds": sum(len(run.seeds) for run in group)},
        seeds=tuple(sorted(seed for run in group for seed in run.seeds)),
        episodes=Episodes(*map(np.concatenate, zip(*(run.episodes for run in group)))),
        evaluations=Episodes(*map(np.concatenate, zip(*(run.evaluations for run in group)))),
        metrics={
            name: np.concatenate([run.metrics.get(name, none) for run, none in zip(group, absent)]) for name in names
        },
        timings=timings if finished else {},
        finished=finished,
        diverged=next((run.diverged for run in group if run.diverged), {}),
        command="\n".join(dict.fromkeys(run.command for run in group if run.command)),
        damages=tuple(damage for run in group for damage in run.damages),
        vouched=all(run.vouched for run in group),
        versions={
            name: ", ".join(dict.fromkeys(str(run.versions[name]) for run in group if name in run.versions))
            for name in dict.fromkeys(name for run in group for name in run.versions)
            if name != "date"
        }
        | ({"date": first.versions["date"]} if "date" in first.versions else {}),
        histograms={},
        parts=tuple(group),
    )


def load_run(folder: Path, label: str) -> Run:
    """The run in `folder`, under the name it has in the report."""
    described = read_json(folder, "experiment.json", EXPERIMENT, schema=formats.RUN)
    if described is None:
        raise SharedqError(f"{folder} holds no run (it has no experiment.json): name the folder of a run")
    experiment = described["experiment"]
    experiment["environment"] = _environment(folder, experiment.get("environment", {}))
    seeds = _seeds(folder, experiment)
    training = experiment.get("training", {})
    random_steps = experiment.get("algorithm", {}).get("random_steps", 0)
    _bound(folder, "experiment.json", {**training, "random_steps": random_steps}, 0, LARGEST_STEP)
    finished, diverged, cost, data, versions = (
        read_json(folder, name, form) or {}
        for name, form in (
            ("finished.json", FINISHED),
            ("diverged.json", DIVERGED),
            ("cost.json", COST),
            ("data.json", DATA),
            ("versions.json", VERSIONS),
        )
    )
    for part in ("parameters", "bytes"):
        _bound(folder, "cost.json", cost.get(part, {}), 0, LARGEST_COUNT)
    _bound(folder, "diverged.json", diverged, 0, LARGEST_STEP)
    _bound(folder, "finished.json", finished, 0, LARGEST_RATE)
    for name, content in (("finished.json", finished), ("data.json", data)):
        if not is_as_sealed(content):
            raise SharedqError(f"{folder / name} was edited or damaged (its checksum differs): {REMEDY}")
    _check_data(folder, experiment, data)
    metrics = read_metrics(folder, seeds)  # first: who writes the run publishes the episodes before a row of metrics
    episodes = read_episodes(folder, seeds, bool(diverged))
    evaluations = read_evaluations(folder, seeds, bool(diverged), training.get("evaluation_episodes"))
    tables = [episodes, metrics]
    asked = training.get("evaluation_period") is not None or "evaluations.csv" in finished.get("logs", {})
    if asked or evaluations.sha256 is not None:
        tables.append(evaluations)
    histograms = read_histograms(folder, seeds)
    if histograms.sha256 is not None or "histograms.csv" in finished.get("logs", {}):
        tables.append(histograms)
    return Run(
        label=printable(label),
        folder=folder,
        experiment=experiment,
        seeds=tuple(seeds),
        episodes=_episodes(episodes),
        metrics={printable(name): values for name, values in metrics.columns.items()},
        cost=cost,
        timings=finished,
        finished=bool(finished),
        diverged=diverged,
        command=_command(folder),
        versions={printable(name): printable(str(version)) for name, version in versions.items()},
        damages=(*_redescribed(folder, finished), *_damages(experiment, seeds, finished, tables)) if finished else (),
        vouched=not finished or "logs" in finished,
        evaluations=_episodes(evaluations),
        data=data,
        histograms=_histograms(histograms),
    )


def _histograms(table: Table) -> dict[str, Histogram]:
    """The histograms of the last step that is logged, by their names."""
    last = table.columns["step"] == table.columns["step"].max(initial=0)
    bins: dict[str, list[tuple[float, float, float]]] = {}
    for column, counts in table.columns.items():
        name, *ends = column.rsplit(":", 2)
        if len(ends) == 2 and last.any():
            try:
                low, high = map(float, ends)
            except ValueError:
                raise SharedqError(f"{table.path} has a column {column[:40]!a} that is no bin: {REMEDY}") from None
            bins.setdefault(printable(name), []).append((low, high, float(counts[last].sum())))
    found = {name: np.array(sorted(rows)) for name, rows in bins.items()}
    return {name: Histogram(np.append(x[:, 0], x[-1:, 1]), x[:, 2]) for name, x in found.items()}


def _episodes(table: Table) -> Episodes:
    return Episodes(*(table.columns[name] for name in ("step", "seed", "return", "length")))


def _seeds(folder: Path, experiment: Mapping[str, Any]) -> range:
    first, count = experiment["seed"], experiment["seeds"]
    if not (0 <= first <= LARGEST_STEP and 1 <= count <= MOST_SEEDS):
        raise SharedqError(
            f"{folder / 'experiment.json'} lists {count} seeds from {first} on, and a report takes 1 to {MOST_SEEDS:,} "
            f"seeds from 0 on: {REMEDY}"
        )
    return range(first, first + count)


def _environment(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the environment, which are shown: each is one value or a list of some."""
    for name, value in options.items():
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, (list, dict)) for part in parts):
            reason = f"environment.{printable(name)} is nested"
            raise SharedqError(f"{folder / 'experiment.json'} was edited or damaged ({reason}): {REMEDY}")
    return {printable(name): printable(x) if isinstance(x, str) else x for name, x in options.items()}


def _bound(folder: Path, name: str, numbers: Mapping[str, Any], low: float, high: float) -> None:
    for key, value in numbers.items():
        if isinstance(value, (int, float)) and not low <= value <= high:
            reason = f"{printable(key)} is not between {low:g} and {high:g}"
            raise SharedqError(f"{folder / name} was edited or damaged ({reason}): {REMEDY}")


def _redescribed(folder: Path, finished: Mapping[str, Any]) -> Iterator[str]:
    """What of the files that describe a finished run is not as it was when the run finished."""
    known = finished.get("files", {})
    for name in DESCRIPTIONS:
        content = read(folder, name, LARGEST_TEXT)
        if name in known and content is None:
            yield f"{name} is missing"
        elif name in known and hashlib.sha256(content or b"").hexdigest() != known[name]:
            yield f"{name} is not the file that the run finished with (its checksum differs)"


def _damages(
    experiment: Mapping[str, Any], seeds: range, finished: Mapping[str, Any], tables: Sequence[Table]
) -> Iterator[str]:
    """What of a finished run's tables is not as it was when the run finished, or cannot be all of it."""
    steps, training = finished["steps"], experiment.get("training", {})
    if steps < training.get("steps", 0):
        yield f"finished.json says that it ended at step {steps:,}, experiment.json asks for {training['steps']:,}"
    for table in tables:
        name, known = table.path.name, finished.get("logs", {}).get(table.path.name)
        if table.sha256 is None:
            yield f"{name} is missing"
        elif "logs" in finished and table.sha256 != known:
            yield f"{name} is not the file that the run finished with (its checksum differs)"
        elif table.cut:
            yield f"{name} ends in half a line"
        if (table.columns["step"] > steps).any():
            yield f"{name} goes beyond step {steps:,}, at which finished.json says that the run ended"
    if "logs" in finished:
        return
    # Without checksums: what tables that are whole would look like.
    episodes, metrics = tables[:2]
    done, longest, last = np.zeros(len(seeds)), np.zeros(len(seeds)), np.zeros(len(seeds))
    place, length = episodes.columns["seed"].astype(int) - seeds.start, episodes.columns["length"]
    np.add.at(done, place, length)
    np.maximum.at(longest, place, length)
    np.maximum.at(last, metrics.columns["seed"].astype(int) - seeds.start, metrics.columns["step"])
    begun = longest * max(training.get("environments", 1), 1)  # steps that the episodes at the end may have taken
    for at in np.flatnonzero((done > 0) & (steps - done > begun))[:1]:
        yield (
            f"episodes.csv has {done[at]:,.0f} of the {steps:,} steps of seed {seeds[at]}: rows are gone, or the "
            "episodes that had not ended were longer than any before"
        )
    for at in np.flatnonzero(last < steps)[:1]:
        if last.any():  # a run that learns nothing has no rows
            yield f"metrics.csv ends at step {last[at]:,.0f} of {steps:,} for seed {seeds[at]}: rows are gone"


def _check_data(folder: Path, experiment: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    replay, scores = experiment.get("replay", {}), data.get("reference_scores")
    counts = {name: replay.get(name) for name in ("batch_size", "n_step", "fraction")}
    _bound(folder, "experiment.json", counts, 0, LARGEST_STEP)
    _bound(folder, "data.json", {**data, **data.get("ends", {})}, 0, LARGEST_STEP)
    numbers = isinstance(scores, list) and len(scores) == 2 and all(type(one) in (int, float) for one in scores)
    if scores is not None and not (numbers and all(abs(one) <= LARGEST_RATE for one in scores)):
        reason = "reference_scores are not two numbers"
        raise SharedqError(f"{folder / 'data.json'} was edited or damaged ({reason}): {REMEDY}")


def _command(folder: Path) -> str:
    content = read(folder, "command.txt", LARGEST_TEXT) or b""
    return printable(content.decode(errors="replace").strip(), also="\n")
