"""Training an experiment into a run directory, and going on with one."""

import shlex
import sys
from pathlib import Path

from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.runs import RunDirectory
from sharedq.training.loop import Mirror
from sharedq.training.loop import train as run_program
from sharedq.training.progress import Progress, Silent
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
    use_all_cores()
    experiment.build()  # an experiment that cannot be built leaves no folder
    command = command or shlex.join(sys.argv)
    directory = RunDirectory.create(out, experiment.to_dict(), command, overwrite)
    return resume(directory.path, progress=progress, mirror=mirror)


def resume(out: str | Path, *, progress: Progress | None = None, mirror: Mirror | None = None) -> RunDirectory:
    """Goes on with a run from its last checkpoint, so that its end equals that of a run that never stopped."""
    use_all_cores()
    directory = RunDirectory.open(out)
    if directory.finished() is not None:
        raise SharedqError(f"{directory.path} is finished already: nothing to resume")
    experiment = Experiment.from_dict(directory.experiment())
    built = experiment.build()
    directory.write_json("cost.json", built.cost().to_dict())
    run_program(
        built.program(), directory, progress or Silent(), experiment.training.checkpoint_period, built.advice(), mirror
    )
    return directory
