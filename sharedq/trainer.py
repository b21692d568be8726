"""Training an experiment into a run directory, and resuming a run."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from sharedq.environments.spec import JSON_FORM, EnvironmentSpec, from_json, to_json
from sharedq.errors import Diverged, SharedqError
from sharedq.experiment import Built, Experiment, Trust
from sharedq.formats import PLAN_FILE
from sharedq.runs import RunDirectory, checkpoints
from sharedq.settings import require
from sharedq.starting import agents_of
from sharedq.training.loop import Mirror
from sharedq.training.loop import train as run_program
from sharedq.training.memory import check_fits, check_open_files
from sharedq.training.program import Program
from sharedq.training.progress import Progress, Silent
from sharedq.training.seeds import use_all_cores
from sharedq.trees import size


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
    mirror: Mirror | None = None,
    start_from: str | Path | None = None,
    start_checkpoint: str | int = "last",
) -> RunDirectory:
    """Trains every seed of an experiment and writes the run directory `out`.

    With `start_from`, a run, it starts from the agents of a checkpoint of that run; see `starting.py`.
    """
    if Path(out).absolute().name in ("", ".."):
        raise SharedqError(f"{out} names no folder of its own: choose another --out")
    require(
        start_from is not None or start_checkpoint == "last",
        f"checkpoint {start_checkpoint} of which run? Name the run that the agents come from with --from",
    )
    use_cores_for(experiment)
    built, program = prepared(experiment)  # this raises before a folder is made
    start = None if start_from is None else agents_of(start_from, start_checkpoint, built)
    command = command or shlex.join(sys.argv)
    directory = RunDirectory.create(out, experiment.to_dict(), command, overwrite, to_json(built.spec), start)
    return _go_on(built, program, directory, progress, mirror)


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
    progress: Progress | None = None,
    mirror: Mirror | None = None,
) -> RunDirectory:
    """Resumes a run from its last checkpoint. Its result equals that of a run that was never interrupted.

    With `steps` the run trains for longer, to that step, also if it is finished already; a finished run must have kept
    its replay, by `training.keep_replay`. Code that the run names is imported only if `trust` allows it: `True` allows
    all, a list these import strings.
    """
    directory = RunDirectory.open(out)
    if directory.finished() is not None and steps is None:
        raise SharedqError(
            f"{directory.path} is finished already: nothing to resume; to train it for longer, add --steps N"
        )
    if (found := directory.diverged()) is not None:
        raise Diverged(found["message"])
    began = experiment = Experiment.from_dict(directory.experiment(), trust)
    if steps is not None:
        experiment = _for_longer(directory, began, steps)
    use_cores_for(experiment)
    built, program = prepared(experiment)
    if (begun := spec_of(directory)) is not None and to_json(begun) != to_json(built.spec):
        raise SharedqError(
            f"the environment has changed since {directory.path} began (spec.json describes it as it was): "
            "restore it, or train again"
        )
    if experiment != began:
        directory.extend(experiment.to_dict())
    return _go_on(built, program, directory, progress, mirror)


def _for_longer(directory: RunDirectory, experiment: Experiment, steps: int) -> Experiment:
    """The experiment with more steps; raises if the run cannot go on to them."""
    path, longer, has = directory.path, experiment.replace(steps=steps), experiment.training.steps
    asked, saved_at, finished = longer.training.steps, checkpoints.latest(directory.checkpoints), directory.finished()
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
        f"its agents with 'sharedq train {path / 'experiment.json'}{to_trust(experiment)} --from {path}'",
    )
    return longer


def spec_of(directory: RunDirectory) -> EnvironmentSpec | None:
    """The description of the environment that a run was trained in, if the run has one."""
    plain = directory.spec(JSON_FORM)
    try:
        return None if plain is None else from_json(plain)
    except ValueError as error:
        raise SharedqError(f"{directory.path / 'spec.json'} was edited or damaged ({error}): restore it") from None


def use_cores_for(experiment: Experiment) -> None:
    """Sets up all cores before JAX first runs. One seed with an environment on the host usually has a large network."""
    use_all_cores(for_one=experiment.seeds == 1 and experiment.training.on_host)


def _go_on(
    built: Built, program: Program, directory: RunDirectory, progress: Progress | None, mirror: Mirror | None
) -> RunDirectory:
    if not (directory.path / "cost.json").exists():
        directory.write_json("cost.json", built.cost(compiled=False).to_dict())
    progress, training = progress or Silent(), built.experiment.training
    for remark in _remarks(built.experiment):
        progress.say(remark)
    onwards = f"sharedq resume {directory.path}{to_trust(built.experiment)}"
    period, keeps = training.checkpoint_period, training.keep_replay
    run_program(program, directory, progress, period, built.advice(), mirror, onwards, keeps)
    return directory


def to_trust(experiment: Experiment) -> str:
    """The option that a command needs at its end to read this experiment from a file."""
    return " --trust" if experiment.imports() else ""


def _remarks(experiment: Experiment) -> Iterator[str]:
    """Warnings of the parts about settings that the user probably did not mean."""
    for part in (experiment.training, experiment.algorithm):
        if hasattr(part, "remarks"):
            yield from part.remarks(experiment.training.steps)
