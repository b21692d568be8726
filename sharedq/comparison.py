"""The same experiment on several sources of targets or with several settings, one run each, and a report on them."""

import dataclasses
import json
import math
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from sharedq import formats, ray_cluster, reports
from sharedq.errors import Diverged, SharedqError, Stopped, missing_extra, unknown, visible
from sharedq.experiment import TABLES, Experiment, Trust
from sharedq.reports import PLAN as PLAN
from sharedq.runs import RunDirectory, atomic_write, run_files
from sharedq.runs.durable import unfinished_name
from sharedq.runs.lock import Locked, locked
from sharedq.settings import as_typed, chosen, require
from sharedq.tables import COMPARED
from sharedq.targets import TargetNetwork
from sharedq.trainer import prepared, resume, to_trust, train, use_cores_for
from sharedq.training.progress import Progress

Shown = Callable[[str, Experiment], AbstractContextManager[Progress]]

LOCK, REPORT_LOCK = "lock", "report.lock"
BUSY = "another process is at it"
FRESH = 60.0  # ours: seconds between two reports on a comparison that is being trained
MOST_TIME = 0.02  # ours: the most of the training time that these reports take
UNFINISHED = unfinished_name(PLAN)  # left by a process that was killed while it wrote the plan
OURS = {LOCK, REPORT_LOCK, UNFINISHED}
RUNS = 100  # ours: the most runs of a sweep
OF_DATA = ("replay.path", "replay.fraction", "replay.fraction_of")
LONGEST = 60  # ours: characters in the name of a run's folder, which may have 255 bytes


def with_target(experiment: Experiment, wanted: Any) -> Experiment:
    """The experiment with the source that `name:option=value,option=value` describes, or with these settings."""
    if not isinstance(wanted, str):
        return experiment.replace(target=wanted)
    name, fields = chosen(wanted, TABLES["target"])
    return experiment.parse({"target": name, **{f"target.{option}": text for option, text in fields.items()}})


def labels_of(experiments: Sequence[Experiment]) -> list[str]:
    """A label for each source. Sources with the same name get the settings in which they differ."""
    shared = Counter(one.label for one in experiments)

    def label(one: Experiment) -> str:
        if shared[one.label] == 1:
            return one.label
        alike = [other.target for other in experiments if other.target.label == one.target.label]
        settings = (field.name for field in dataclasses.fields(one.target))
        differing = [name for name in settings if len({getattr(other, name) for other in alike}) > 1]
        words = ", ".join(f"{name} {getattr(one.target, name)}" for name in differing)
        return f"{one.target.label} ({words})" if words else one.target.label

    found = [label(one) for one in experiments]
    twice = [name for name, times in Counter(found).items() if times > 1]
    require(not twice, f"{' and '.join(twice)} would be trained twice: name each source once")
    return found


class Member(NamedTuple):
    """A run of a comparison."""

    label: str  # in the report, where runs in different environments may have the same
    experiment: Experiment


class Planned(NamedTuple):
    """What a comparison trains."""

    members: dict[str, Member]  # by names that tell them all apart
    ranked: bool  # whether the report orders the runs by their results
    folder: Path  # by default
    reference: str | None  # the label that the report measures the others against; None: that of a target network


def planned(
    name: str, base: Experiment, options: Mapping[str, Sequence[str]], targets: Sequence[Any] | None
) -> Planned:
    """What a comparison with this name trains: `base` with `options`, on each of the sources `targets`.

    `options` has values as text, as they are typed. If an option has several values, they are varied, and then the
    source is that of `base` if no targets are given. Runs are ranked if other settings than the source are varied, in
    one environment and on the same data.
    """
    varied = [option for option, values in options.items() if len(values) > 1]
    if "target" in options and (targets or not varied or "target" in varied):
        raise SharedqError(f"compare takes several sources: write --targets {options['target'][0]} ...")
    require(targets is None or len(targets) >= 1, "name at least one source to compare")
    if targets is None:
        targets = () if varied else COMPARED
    members = sweep(base, options, targets)
    first, *others = [one.experiment for one in members.values()]
    with_source = [one for one in (first, *others) if one.uses_target]
    settings = [full for full in _varied_names(base, options) if len(targets) <= 1 or _differ(with_source, full)]
    varies = any(not is_of_task(full) for full in settings)
    ranked = varies and all(_task(one) == _task(first) for one in others)
    reference = next(iter(members.values())).label if varies else None
    folder = Path("comparisons") / "-".join([name, *_varied_names(base, options).values()])
    return Planned(members, ranked, folder, reference)


def sweep(base: Experiment, options: Mapping[str, Sequence[str]], targets: Sequence[Any]) -> dict[str, Member]:
    """The experiments to compare by their names: one for each choice of a value per option and of a source.

    Without `targets`, all runs have the source of `base`. A name has what differs: the source, and the options with
    several values. A label leaves out the options of the environment, because the report treats each environment apart.
    An algorithm that asks no source is trained once, whatever the sources are.
    """
    count = max(len(targets), 1) * math.prod(map(len, options.values()))
    require(count <= RUNS, f"these values ask for {count:,} runs, and {RUNS} are the most: name fewer values")
    full_names = base.full_names({option: values[0] for option, values in options.items()})
    of_targets = [option for option, full in full_names.items() if full.partition(".")[0] == "target"]
    chosen_values = [dict(zip(options, values)) for values in product(*options.values())]
    every = [(values, base.parse(values)) for values in chosen_values]
    with_source = [one for _, one in every if one.uses_target]
    names = _varied_names(base, options)
    told = {full: name for full, name in names.items() if len(targets) <= 1 or _differ(with_source, full)}
    found: dict[str, Member] = {}
    for values, one in every:
        if not one.uses_target and any(values[option] != options[option][0] for option in of_targets):
            continue
        own = told if one.uses_target else _without_source(names)
        in_label = {full: option for full, option in own.items() if not is_of_task(full)}
        experiments = [with_target(one, wanted) for wanted in targets if one.uses_target] or [one]
        for source, experiment in zip(labels_of(experiments), experiments):
            in_words = len(targets) <= 1 and one.uses_target
            name, label = (
                words if in_words and words else ", ".join(filter(None, [source, words]))
                for words in (_words(one, own), _words(one, in_label))
            )
            same = next((other for other, member in found.items() if member.experiment == experiment), None)
            also = "" if same == name else f", also as {same}"
            require(same is None, f"{name} would be trained twice{also}: name each value once")
            found[name] = Member(label, experiment)
    return found


def _differ(experiments: Sequence[Experiment], option: str) -> bool:
    """Whether the experiments have several values of an option."""
    return len({as_typed(one.options()[option].value) for one in experiments}) > 1


def _without_source(names: Mapping[str, str]) -> dict[str, str]:
    """The names of options that tell runs apart whose algorithm asks no source: its label tells the algorithm."""
    return {full: name for full, name in names.items() if full.partition(".")[0] != "target" and full != "algorithm"}


def _words(experiment: Experiment, names: Mapping[str, str]) -> str:
    """The options with these names, and their values."""
    now = experiment.options()
    return ", ".join(f"{name} {visible(as_typed(now[full].value))}" for full, name in names.items())


def _task(experiment: Experiment) -> tuple[Any, ...]:
    """What runs share that a report compares: the environment, and the data that they learn from."""
    return experiment.environment, *getattr(experiment.replay, "part", ())


def is_of_task(option: str) -> bool:
    """Whether an option, by its full name, says in which environment or from which data a run learns."""
    return option.partition(".")[0] == "environment" or option in OF_DATA


def _varied_names(base: Experiment, options: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The name, in labels and folders, of each option that has several values, by its full name.

    It is the last name, or the full name where two of them have the same last name.
    """
    full_names = base.full_names({option: values[0] for option, values in options.items()})
    varied = [full_names[option] for option, values in options.items() if len(values) > 1]
    times = Counter(full.rpartition(".")[2] for full in varied)
    return {full: full if times[last := full.rpartition(".")[2]] > 1 else last for full in varied}


def plan(
    name: str,
    members: Mapping[str, Member],
    out: Path,
    command: str,
    overwrite: bool,
    ranked: bool = False,
    reference: str | None = None,
) -> None:
    """Writes the plan of a comparison of `members`, by their names, to `out`, unless the same plan is there.

    The report measures the runs against that of the label `reference`, by default the first with a target network. It
    orders the runs of a `ranked` comparison by their results.
    """
    labels, trained = [one.label for one in members.values()], [one.experiment.pinned() for one in members.values()]
    _check_report()
    trust = {reference for one in trained for reference in one.imports()}
    described = {
        "schema": formats.PLAN,
        "recipe": name,
        "command": command,
        "reference": reference or _reference(labels, trained),
        **({"ranked": True} if ranked else {}),
        "runs": [_planned(*one, out) for one in zip(labels, folders_of(list(members), "runs"), trained)],
    }
    if _is_planned(out) and not overwrite:
        _require_same(out, described, trust)
        return
    old = _what_may_go(out, described) if _is_planned(out) else []
    if not _is_planned(out) and os.path.lexists(out) and (not out.is_dir() or _names(out) - OURS):
        raise SharedqError(f"{out} is not empty and holds no comparison: choose another --out")
    use_cores_for(trained[0])
    for experiment in trained:  # this raises before a folder is made
        prepared(experiment)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _writing(out):
            if overwrite or not _is_planned(out):
                for run in old:
                    _remove(run)
                atomic_write(out / PLAN, f"{json.dumps(described, indent=2)}\n".encode())
                return
    except Locked:
        if overwrite or not _is_planned(out):
            raise
    _require_same(out, described, trust)  # another process was faster, and may already train


def _is_planned(out: Path) -> bool:
    return os.path.lexists(out / PLAN)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _require_same(out: Path, described: dict[str, Any], trust: Trust) -> None:
    if _experiments(read_plan(out), trust) != _experiments(described, trust):
        raise SharedqError(f"{out} holds another comparison: choose another --out, or add --overwrite")


def _what_may_go(out: Path, described: dict[str, Any]) -> list[Path]:
    """The runs of the comparison at `out`. They are removed, so that none is mistaken for a run of the new comparison.

    Raises, before anything is changed, if a file that is not the comparison's would be removed or is in the way.
    """
    for path in (out, out / PLAN, out / "runs"):
        if path.is_symlink():
            raise SharedqError(f"{path} is a link, and what a link leads to is not replaced: choose another --out")
    try:
        read_plan(out)
    except SharedqError as error:  # edited, damaged, or another file of this name
        if strange := _names(out) - {PLAN, *OURS, "runs", *reports.FILES}:
            raise SharedqError(f"{error}; but {out} also holds {min(strange)}, which no comparison has") from None
    reports.check_place(out)
    old = sorted(path for path in out.glob("runs/*") if os.path.lexists(path / "experiment.json"))
    for path in old:
        _require_run(path)
    for one in described["runs"]:
        folder = out / one["folder"]
        if os.path.lexists(folder) and folder not in old:
            raise SharedqError(f"{folder} is no run, so it is left alone: move it away or choose another --out")
    return old


def _require_run(path: Path) -> None:
    """Raises unless the folder is a run and contains only files of a run."""
    if path.is_symlink():
        raise SharedqError(f"{path} is a link, and what a link leads to is not removed: choose another --out")
    RunDirectory.open(path)
    if (strange := run_files.stranger(path)) is not None:
        raise SharedqError(f"{path} also holds {strange}, which no run has: move it away or choose another --out")


def _remove(run: Path) -> None:
    with RunDirectory.open(run).writing():
        _require_run(run)
        run_files.remove(run)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Locks the comparison for this process, as a run is locked, and removes files that were only begun."""
    _refuse_linked_lock(out)
    with RunDirectory(out).writing():
        (out / UNFINISHED).unlink(missing_ok=True)
        yield


def _refuse_linked_lock(out: Path) -> None:
    if (out / LOCK).is_symlink():
        raise SharedqError(f"{out / LOCK} is a link, and links inside a comparison are not followed: remove it")


def _check_report() -> None:
    """Raises if the report cannot be drawn, before hours of training instead of after them."""
    if find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "report", "the report at the end")


def _experiments(described: dict[str, Any], trust: Trust) -> list[tuple[str, Any]]:
    """Each folder with its experiment, by the names of now: a plan of an older version may be the same."""
    return [(one["folder"], Experiment.described(one["experiment"], trust).to_dict()) for one in described["runs"]]


def _reference(labels: Sequence[str], experiments: Sequence[Experiment]) -> str | None:
    """The first run with a target network."""
    ours = (
        label for label, one in zip(labels, experiments) if one.uses_target and isinstance(one.target, TargetNetwork)
    )
    return next(ours, None)


def folders_of(names: Sequence[str], folder: str) -> list[str]:
    """A folder inside `folder` for each name. Names that differ only in signs get folders with a number."""
    found: list[str] = []
    for run in names:
        name = "".join(c if c.isalnum() else "-" for c in run.replace("=", "")).strip("-").lower()
        name = f"{folder}/{name[:LONGEST]}"
        numbered = (name if n == 1 else f"{name}-{n}" for n in range(1, len(names) + 1))
        found.append(next(one for one in numbered if one not in found))
    return found


def _planned(label: str, folder: str, experiment: Experiment, out: Path) -> dict[str, Any]:
    command = f"sharedq train {shlex.quote(str(out / folder / 'experiment.json'))}{to_trust(experiment)}"
    return {"label": label, "folder": folder, "command": command, "experiment": experiment.to_dict()}


def read_plan(out: Path) -> dict[str, Any]:
    remedy = "repeat the comparison with --overwrite"
    described = reports.read_plan(out, remedy)
    for one in described["runs"]:
        complete = "experiment" in one and Path(one["folder"]).parent == Path("runs")
        require(complete, f"{out / PLAN} was edited or damaged ({one['label']!a} cannot be trained): {remedy}")
    return described


def carry_out(
    out: Path,
    shown: Shown,
    trust: Trust = False,
    *,
    say: Callable[[str], None] = print,
    only: str | None = None,
    on_ray: bool = False,
) -> Path:
    """Trains the runs of the plan at `out` that are not finished, then writes the report. Returns the page.

    Several processes, also on several machines that share the folder, can do this at the same time: each takes a run
    that no other one trains. Code that the plan names is imported only if `trust` allows it: `True` allows all, a list
    these import strings. If a source diverges, the others are still trained; the report says so, and an error is raised
    at the end. `say` gets a line for each run that is not whole.

    With `only`, the name of a run's folder, this run alone is trained, once no other process trains it. With `on_ray`,
    each run is a task of Ray (see `ray_cluster.py`).
    """
    for one in read_plan(out)["runs"]:  # this raises before the lock is made
        Experiment.from_dict(one["experiment"], trust)
    _refuse_linked_lock(out)
    with locked(out / LOCK, f"another process is writing {out}: wait for it, or stop it", shared=True):
        _check_report()
        reports.check_place(out)
        waiting = _planned_runs(out, read_plan(out)["runs"], trust, only)
        if on_ray:
            return _carry_out_on_ray(out, waiting, say)
        return _carry_out(out, waiting, shown, trust, say, only is not None)


class Waiting(NamedTuple):
    """A run of the plan that may have to be trained."""

    planned: dict[str, Any]
    title: str
    experiment: Experiment


def _planned_runs(out: Path, runs: Sequence[dict[str, Any]], trust: Trust, only: str | None) -> list[Waiting]:
    """The runs of the plan, or the one whose folder is called `only`. Raises if a folder holds something else."""
    names = [Path(one["folder"]).name for one in runs]
    if only is not None and only not in names:
        raise unknown("run", only, names)
    times, found = Counter(one["label"] for one in runs), []
    for number, (folder, one) in enumerate(zip(names, runs), start=1):
        if only in (None, folder):
            _begun(out, one)
            name = one["label"] if times[one["label"]] == 1 else folder
            title = f"{number} of {len(runs)}, {name}"
            found.append(Waiting(one, title, Experiment.from_dict(one["experiment"], trust)))
    return found


def _carry_out_on_ray(out: Path, waiting: Sequence[Waiting], say: Callable[[str], None]) -> Path:
    tasks, trust = [], ""
    for one, title, experiment in waiting:
        trust = trust or to_trust(experiment)
        run = _begun(out, one)
        if run is None or run.finished() is None:
            words = ray_cluster.words_for(out, Path(one["folder"]).name, bool(experiment.imports()))
            tasks.append(ray_cluster.Task(title, one["folder"], words))
    try:
        diverged = ray_cluster.carry_out(out, tasks, ray_cluster.onwards(out, trust), say)
    except SharedqError:
        with suppress(SharedqError, OSError):  # a page of what was trained, if anything was
            _report(out, say)
        raise
    page = _report(out, say)
    _tell_of_diverged([title.partition(", ")[2] for title in diverged], page)
    return page


def _tell_of_diverged(names: Sequence[str], page: Path) -> None:
    if names:
        raise Diverged(f"learning diverged on {' and '.join(names)}; the report on what there is: {page}")


def _carry_out(
    out: Path, waiting: list[Waiting], shown: Shown, trust: Trust, say: Callable[[str], None], waits: bool
) -> Path:
    lost = []
    while waiting:
        elsewhere = []
        for number, (one, title, experiment) in enumerate(waiting, start=1):
            try:
                with _claimed(out, one):
                    trained, diverged = _train(out, one, title, experiment, shown, trust)
            except Locked:
                elsewhere.append(Waiting(one, title, experiment))
                continue
            lost += [title.partition(", ")[2]] * diverged
            if trained and number < len(waiting):
                say(f"report so far: {_report(out, say)}")
        if waits and elsewhere:
            time.sleep(1)
        elif len(elsewhere) == len(waiting):  # the others train what is left
            break
        waiting = elsewhere  # who trained these may have been killed since
    page = _report(out, say)
    for _, title, _ in waiting:
        say(f"another process trains {title}; the report has what there is of it")
    _tell_of_diverged(lost, page)
    return page


def _train(
    out: Path, one: dict[str, Any], title: str, experiment: Experiment, shown: Shown, trust: Trust
) -> tuple[bool, bool]:
    """Trains a run of the plan to its end. Returns whether there was anything to train, and whether it diverged."""
    folder, run = out / one["folder"], _begun(out, one)
    if run is not None and run.finished() is not None:
        return False, False
    try:
        with shown(title, experiment) as progress:
            fresh = _WithFreshPage(progress, out)
            try:
                if run is not None:
                    resume(folder, trust=trust, progress=fresh)
                else:
                    train(experiment, folder, command=one["command"], progress=fresh)
            except Diverged as diverged:
                progress.say(f"diverged: {diverged}")
                return True, True
    except Stopped as stopped:
        with suppress(SharedqError, OSError):  # a page that no longer says that the runs are being trained
            _report(out, progress.say)
        onwards = f"sharedq resume {shlex.quote(str(out))}{to_trust(experiment)}"
        raise Stopped(f"stopped in {title}; to continue: {onwards}", stopped.exit_code - 128) from None
    return True, False


@contextmanager
def _claimed(out: Path, one: dict[str, Any]) -> Iterator[None]:
    """Claims a run of the plan for this process; raises `Locked` if another process has claimed it."""
    claim = out / f"{one['folder']}.claim"
    claim.parent.mkdir(exist_ok=True)
    with locked(claim, BUSY):
        try:
            yield
        finally:
            claim.unlink(missing_ok=True)


def _report(out: Path, say: Callable[[str], None]) -> Path:
    """Writes the report once no other process writes it."""
    while True:
        try:
            with locked(out / REPORT_LOCK, BUSY):
                return reports.write(out, say=say)
        except Locked:
            time.sleep(0.1)


class _WithFreshPage:
    """The progress of a run, which also writes the report again from time to time."""

    def __init__(self, progress: Progress, out: Path):
        self._progress, self._out, self._due = progress, out, time.monotonic() + FRESH

    def say(self, text: str) -> None:
        self._progress.say(text)

    def update(self, step: int, rate: float, mean_return: float | None, learning: bool) -> None:
        self._progress.update(step, rate, mean_return, learning)
        began = time.monotonic()
        if began < self._due:
            return
        # The report at the end tells of errors. Training goes on whatever happens to a page.
        with suppress(SharedqError, OSError), locked(self._out / REPORT_LOCK, BUSY):
            reports.write(self._out, training=True)
        taken = time.monotonic() - began
        self._due = began + max(FRESH, taken / MOST_TIME)


def _begun(out: Path, one: dict[str, Any]) -> RunDirectory | None:
    """The run that the plan names, if it has begun."""
    folder = out / one["folder"]
    if not os.path.lexists(folder / "experiment.json"):
        if os.path.lexists(folder) and (not folder.is_dir() or _names(folder)):
            raise SharedqError(f"{folder} is no run, so it is left alone: move it away to go on")
        return None
    run = RunDirectory.open(folder)
    if run.experiment() != one["experiment"]:
        raise SharedqError(f"{folder} holds another run than {PLAN} asks for: remove it to train it again")
    return run
