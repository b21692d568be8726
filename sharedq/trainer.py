"""Training an experiment into a run directory, and going on with one."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from sharedq.errors import Diverged, SharedqError
from sharedq.experiment import Built, Experiment
from sharedq.runs import RunDirectory
from sharedq.training import Interactive
from sharedq.training.loop import Mirror
from sharedq.training.loop import train as run_program
from sharedq.training.program import Program
from sharedq.training.progress import Progress, Silent
from sharedq.training.schedule import Schedule
from sharedq.training.seeds import use_all_cores


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
    mirror: Mirror | None = None,
) -> RunDirectory:
    """Trains every seed of an experiment and leaves a run directory at `out`."""
    _use_all_cores(experiment)
    built = experiment.build()
    built.check_fits()  # what cannot be built or does not fit leaves no folder
    program = built.program()
    command = command or shlex.join(sys.argv)
    directory = RunDirectory.create(out, experiment.to_dict(), command, overwrite)
    return _go_on(built, program, directory, progress, mirror)


def resume(out: str | Path, *, progress: Progress | None = None) -> RunDirectory:
    """Goes on with a run from its last checkpoint, so that its end equals that of a run that never stopped."""
    directory = RunDirectory.open(out)
    if directory.finished() is not None:
        raise SharedqError(f"{directory.path} is finished already: nothing to resume")
    if (found := directory.diverged()) is not None:
        raise Diverged(found["message"])
    experiment = Experiment.from_dict(directory.experiment())
    _use_all_cores(experiment)
    built = experiment.build()
    return _go_on(built, built.program(), directory, progress)


def _use_all_cores(experiment: Experiment) -> None:
    """A seed alone on the host's worlds is a large network as a rule, as on Atari."""
    use_all_cores(for_one=experiment.seeds == 1 and isinstance(experiment.training, Interactive))


def _go_on(
    built: Built, program: Program, directory: RunDirectory, progress: Progress | None, mirror: Mirror | None = None
) -> RunDirectory:
    if not (directory.path / "cost.json").exists():
        directory.write_json("cost.json", built.cost(compiled=False).to_dict())
    progress, training = progress or Silent(), built.experiment.training
    for remark in _remarks(built.experiment, program):
        progress.say(remark)
    run_program(program, directory, progress, training.checkpoint_period, built.advice(), mirror)
    return directory


def _remarks(experiment: Experiment, program: Program) -> Iterator[str]:
    """What whoever starts this is likely not to have meant."""
    training, steps = experiment.training, experiment.training.steps
    if isinstance(training, Schedule) and training.warms_up(program.stops[-1]):
        yield (
            f"nothing will be learned: all {steps:,} steps are warm-up, which takes {training.warm_up:,}; "
            "raise --steps or lower --training.warm_up"
        )
    falls, end = (getattr(experiment.algorithm, name, 0) for name in ("epsilon_steps", "epsilon_end"))
    if falls > 2 * steps and end < 0.5:
        yield (
            f"most actions will be random: their share falls over {falls:,} steps, and there are {steps:,}; "
            "lower --algorithm.epsilon_steps"
        )
