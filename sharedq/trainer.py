"""Training an experiment into a run directory, and resuming a run."""

import inspect
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from sharedq.environments.spec import JSON_FORM, EnvironmentSpec, from_json, to_json
from sharedq.errors import Diverged, SharedqError
from sharedq.experiment import TABLES, Built, Experiment, Trust
from sharedq.formats import PLAN_FILE
from sharedq.results import Run
from sharedq.runs import RunDirectory, checkpoints
from sharedq.settings import convert, require
from sharedq.starting import agents_of
from sharedq.training.loop import Callback, Mirror
from sharedq.training.loop import train as run_program
from sharedq.training.memory import check_fits, check_open_files
from sharedq.training.program import Program
from sharedq.training.progress import Wanted, check_progress, displayed, unit_of
from sharedq.training.seeds import use_all_cores
from sharedq.trees import size
from sharedq.validation import path as as_path


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    overwrite: bool = False,
    command: str | None = None,
    progress: Wanted = "auto",
    mirror: Mirror | None = None,
    callback: Callback | None = None,
    start_from: str | Path | None = None,
    start_checkpoint: str | int = "last",
) -> Run:
    """Trains every seed of an experiment and writes the run directory `out`.

    `command` is kept in the run; by default it is the one that repeats the run from its experiment.json. With
    `start_from`, a run, it starts from the agents of a checkpoint of that run; see `starting.py`.
    """
    _check(progress, callback)
    if as_path(out, "out").absolute().name in ("", ".."):
        raise SharedqError(f"{out} names no folder of its own: choose another --out")
    require(
        start_from is not None or start_checkpoint == "last",
        f"checkpoint {start_checkpoint} of which run? Name the run that the agents come from with --from",
    )
    use_cores_for(experiment)
    experiment = experiment.pinned()
    built, program = prepared(experiment)  # this raises before a folder is made
    start = None if start_from is None else agents_of(start_from, start_checkpoint, built)
    command = command or repeat(out, experiment, start_from, start_checkpoint)
    note = experiment.replay.note() if hasattr(experiment.replay, "note") else {}
    learns_from = experiment.training.learns_from
    data = note | {"learns_from": learns_from} if learns_from == "data" else None
    directory = RunDirectory.create(out, experiment.to_dict(), command, overwrite, to_json(built.spec), start, data)
    remarks = [] if start is None or start.remark is None else [start.remark]
    return _go_on(built, program, directory, progress, mirror, callback, remarks=remarks)


def repeat(
    out: str | Path,
    experiment: Experiment,
    start_from: str | Path | None = None,
    start_checkpoint: str | int = "last",
) -> str:
    """The command that repeats the run in `out`."""
    file = shlex.quote(str(Path(out) / "experiment.json"))
    return f"sharedq train {file}{to_start(start_from, start_checkpoint)}{to_trust(experiment)}"


def to_start(start_from: str | Path | None, checkpoint: str | int) -> str:
    """The options that a command needs to start from the agents of another run."""
    if start_from is None:
        return ""
    which = "" if checkpoint == "last" else f" --from-checkpoint {shlex.quote(str(checkpoint))}"
    return f" --from {shlex.quote(str(as_path(start_from, 'start_from')))}{which}"


def new_folder(name: str, experiment: Experiment) -> Path:
    """The folder of a new run if the user names none: one in runs/ that does not exist yet, numbered if necessary."""
    stem = f"{name}-{experiment.label}".replace(" ", "-").replace("=", "").lower()
    numbered = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(path for path in numbered if not path.exists())


def _check(progress: Wanted, callback: Callback | None) -> None:
    check_progress(progress)
    require(callback is None or callable(callback), f"callback must be a function, not {callback!r}")
    if callback is None:
        return
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some built-in functions do not tell theirs
        return
    try:
        signature.bind(0, {})
    except TypeError as error:
        told = f"callback is called as callback(step, metrics), and {callback!r} takes {signature} ({error})"
        raise SharedqError(f"{told}: give it two parameters") from None


def prepared(experiment: Experiment) -> tuple[Built, Program]:
    """Puts the parts of an experiment together without allocating; raises if it needs more than the machine has."""
    check_open_files(experiment.seeds, "lower --seeds, or allow more with  ulimit -n")  # each seed has a log file
    built = experiment.build()
    built.check_fits()
    program = built.program()
    check_fits(size(program.shapes()), built.advice())
    return built, program


def resume(
    out: str | Path,
    *,
    steps: int | None = None,
    trust: Trust = False,
    progress: Wanted = "auto",
    mirror: Mirror | None = None,
    callback: Callback | None = None,
) -> Run:
    """Resumes a run from its last checkpoint. Its result equals that of a run that was never interrupted.

    With `steps` the run trains for longer, to that step, also if it is finished already; a finished run must have kept
    its replay, by `training.keep_replay`. Code that the run names is imported only if `trust` allows it: `True` allows
    all, a list these import strings.
    """
    _check(progress, callback)
    directory = RunDirectory.open(out)
    if directory.finished() is not None and steps is None:
        raise SharedqError(
            f"{directory.path} is finished already: nothing to resume; to train it for longer, add --steps N"
        )
    if (found := directory.diverged()) is not None:
        raise Diverged(found["message"])
    began = experiment = Experiment.from_dict(directory.experiment(), trust)
    if steps is None:
        directory.check_unedited(checkpoints.latest(directory.checkpoints))
    else:
        experiment = for_longer(directory, began, steps)
    use_cores_for(experiment)
    built, program = prepared(experiment)
    if (begun := spec_of(directory)) is not None and to_json(begun) != to_json(built.spec):
        raise SharedqError(
            f"the environment has changed since {directory.path} began (spec.json describes it as it was): "
            "restore it, or train again"
        )
    longer = None if experiment == began else experiment.to_dict()
    return _go_on(built, program, directory, progress, mirror, callback, longer)


def for_longer(directory: RunDirectory, experiment: Experiment, steps: int | str) -> Experiment:
    """The experiment with more steps; raises if the run cannot go on to them."""
    path, asked, has = directory.path, convert(steps, int, "steps"), experiment.training.steps
    saved_at, finished = checkpoints.latest(directory.checkpoints), directory.finished()
    directory.check_unedited(saved_at)
    if finished is None and asked == has:  # it was asked for before, and then stopped
        return experiment
    require(asked > has, f"{path} has {has:,} steps already: give more than that with --steps, not {asked:,}")
    require(
        not (path.parent.name == "runs" and (path.parents[1] / PLAN_FILE).exists()),
        f"{path} belongs to a comparison, whose runs are equally long: copy the run to another folder (cp -a) first",
    )
    require(
        saved_at is None or int(saved_at.name) == 0 or checkpoints.holds(saved_at, "rest"),
        f"{path} did not keep its replay at its end, as runs with --training.keep_replay true do: begin a new run from "
        f"its agents with: {repeat(path, experiment, path)}",
    )
    return experiment.replace(steps=asked)


def spec_of(directory: RunDirectory) -> EnvironmentSpec | None:
    """The description of the environment that a run was trained in, if the run has one."""
    plain = directory.spec(JSON_FORM)
    try:
        return None if plain is None else from_json(plain)
    except ValueError as error:
        raise SharedqError(f"{directory.path / 'spec.json'} was edited or damaged ({error}): restore it") from None


def use_cores_for(experiment: Experiment) -> None:
    """Sets up all cores before JAX first runs. One seed with an environment on the host usually has a large network."""
    on_host, seeds = experiment.training.on_host, experiment.seeds
    use_all_cores(for_one=seeds == 1 and on_host, devices=seeds if on_host else 0)


def _go_on(
    built: Built,
    program: Program,
    directory: RunDirectory,
    wanted: Wanted,
    mirror: Mirror | None,
    callback: Callback | None,
    longer: dict | None = None,
    remarks: Sequence[str] = (),
) -> Run:
    if not (directory.path / "cost.json").exists():
        directory.write_json("cost.json", built.cost(compiled=False).to_dict())
    experiment, training = built.experiment, built.experiment.training
    onwards = f"sharedq resume {shlex.quote(str(directory.path))}{to_trust(experiment)}"
    with displayed(wanted, directory.path.name, experiment) as progress:
        for remark in (*remarks, *_remarks(built)):
            progress.say(remark)
        run_program(
            program,
            directory,
            progress,
            checkpoint_period=training.checkpoint_period,
            keep_replay=training.keep_replay,
            advice=built.advice(),
            onwards=onwards,
            longer=longer,
            mirror=mirror,
            callback=callback,
            unit=unit_of(training),
        )
    return Run(directory.path)


def to_trust(experiment: Experiment) -> str:
    """The option that a command needs at its end to read this experiment from a file."""
    return " --trust" if experiment.imports() else ""


def _remarks(built: Built) -> Iterator[str]:
    """What the parts say about settings that the user probably did not mean, and about the environment."""
    experiment = built.experiment
    for part in TABLES:
        if hasattr(one := getattr(experiment, part), "remarks"):
            yield from one.remarks(experiment, built.spec)
    yield from getattr(built.environment, "remarks", ())
