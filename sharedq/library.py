"""Training and comparing by name, for people who write code: what the commands `train` and `compare` do, in Python."""

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from sharedq import comparison, output
from sharedq.errors import SharedqError, unknown
from sharedq.experiment import SHORT, TABLES, Experiment
from sharedq.recipes import recipe
from sharedq.results import Comparison, Run
from sharedq.settings import as_typed, require
from sharedq.trainer import new_folder, to_start
from sharedq.trainer import train as train_experiment
from sharedq.training.loop import Callback, Mirror
from sharedq.training.progress import Silent, Wanted, check_progress, displayed
from sharedq.validation import path as as_path


def train(
    experiment: Experiment | str,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    command: str | None = None,
    progress: Wanted = "auto",
    mirror: Mirror | None = None,
    callback: Callback | None = None,
    start_from: str | Path | None = None,
    start_checkpoint: str | int = "last",
    **options: Any,
) -> Run:
    """Trains every seed of an experiment, or of the recipe of this name, with other `options` as in `replace`.

    `out` is the folder of the run, by default a new one in runs/. Progress and remarks are printed unless `progress`
    is None; an object with `say` and `update` may take them instead. `callback(step, metrics)` is called at each log
    step, with an array for each metric that has one number per seed; if it returns True, the run is saved and stops.
    With `start_from`, a run, training starts from the agents of that run instead of new ones.
    """
    base, changed = _experiment(experiment, options, train)
    out = new_folder(_stem(experiment, base), changed) if out is None else as_path(out, "out")
    if command is None and (typed := _command("train", experiment, base, changed)) is not None:
        command = typed + to_start(start_from, start_checkpoint)
    return train_experiment(
        changed,
        out,
        overwrite=overwrite,
        command=command,
        progress=progress,
        mirror=mirror,
        callback=callback,
        start_from=start_from,
        start_checkpoint=start_checkpoint,
    )


def compare(
    experiment: Experiment | str,
    targets: Sequence[Any] | None = None,
    out: str | Path | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    overwrite: bool = False,
    progress: Wanted = "auto",
    **options: Any,
) -> Comparison:
    """Trains an experiment, or the recipe of this name, on several sources of targets, and writes the report.

    A source is a text, such as "shared_heads:heads=3", or settings, such as `SharedHeads(heads=3)`. `vary` names
    settings with the values that are tried, such as {"algorithm.learning_rate": [1e-4, 3e-4]}: a run is trained for
    each choice of a value and of a source. Without `targets` these runs have the experiment's own source; if nothing
    has several values, four sources are compared. `out` is the folder, by default one in comparisons/. Runs in it that
    are finished already are not trained again.
    """
    check_progress(progress)
    varied = _varied(vary)
    require("target" not in {**options, **varied}, "compare takes several sources: give them as targets=[...]")
    base, changed = _experiment(experiment, options, compare)
    if targets is not None and (isinstance(targets, str) or not isinstance(targets, Sequence)):
        targets = [targets]
    name = _stem(experiment, base)
    planned = comparison.planned(name, changed, varied, targets)
    out = planned.folder if out is None else as_path(out, "out")
    command = _command("compare", experiment, base, changed, varied, targets or ())
    title = experiment if isinstance(experiment, str) else name
    comparison.plan(title, planned.members, out, command or "", overwrite, planned.ranked, planned.reference)
    trust = {reference for one in planned.members.values() for reference in one.experiment.imports()}
    say = output.say if isinstance(progress, str) else (progress or Silent()).say
    comparison.carry_out(out, partial(displayed, progress), trust, say=say)
    return Comparison(out)


def _varied(vary: Any) -> dict[str, list[str]]:
    """The values of each setting that is varied, as they would be typed."""
    require(vary is None or isinstance(vary, Mapping), f"vary takes settings with lists of values, not {vary!r}")
    for name, values in (vary or {}).items():
        several = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
        require(several, f"vary takes a list of values for {name}, not {values!r}")
    return {name: [as_typed(value) for value in values] for name, values in (vary or {}).items()}


def _experiment(
    given: Experiment | str, options: dict[str, Any], function: Callable[..., Any]
) -> tuple[Experiment, Experiment]:
    """What the function was given, an experiment or the name of a recipe, and the same with the options."""
    if not isinstance(given, (Experiment, str)):
        raise SharedqError(f"give an Experiment or the name of a recipe, not {given!r}")
    base = recipe(given) if isinstance(given, str) else given
    try:
        return base, base.replace(**options)
    except SharedqError as error:
        keywords = [name for name in inspect.signature(function).parameters if name not in ("experiment", "options")]
        for option in options:  # the name of a setting, or of a keyword of the function?
            if str(error).startswith(f"unknown option '{option}'") and get_close_matches(option, keywords):
                raise unknown("option", option, keywords) from None
        raise


def _stem(given: Experiment | str, experiment: Experiment) -> str:
    """The name that a folder gets: of the recipe, or of the environment if no recipe is named."""
    return Path(given).stem if isinstance(given, str) else experiment.kind("environment").replace(":", "-")


def _command(
    verb: str,
    given: Experiment | str,
    base: Experiment,
    changed: Experiment,
    varied: Mapping[str, Sequence[str]] | None = None,
    targets: Sequence[Any] = (),
) -> str | None:
    """The command that asks for the same; None if there is none, as for settings that cannot be typed."""
    options, sources = _typed(base, changed), [_source(changed, one) for one in targets]
    if not isinstance(given, str) or options is None or None in sources:
        return None
    words = ["sharedq", verb, given, *(["--targets", *filter(None, sources)] if sources else [])]
    for name, texts in {**{name: [text] for name, text in options.items()}, **(varied or {})}.items():
        words += [f"--{name}", *texts]
    return shlex.join(words)


def _source(base: Experiment, target: Any) -> str | None:
    """The source as `compare` takes it; None if it cannot be typed."""
    if isinstance(target, str):
        return target
    one = base.replace(target=target)
    typed = _typed(base, one)
    if typed is None:
        return None
    options = ",".join(f"{name.partition('.')[2]}={text}" for name, text in typed.items() if "." in name)
    return f"{one.kind('target')}:{options}" if options else one.kind("target")


def _typed(base: Experiment, changed: Experiment) -> dict[str, str] | None:
    """The options, as they are typed, that make `changed` of `base`; None if none do."""
    short = {full: name for name, full in SHORT.items()}
    kinds = {part: changed.kind(part) for part in TABLES if changed.kind(part) != base.kind(part)}
    try:
        before, after = base.replace(**kinds).options(), changed.options()
        differing = {name: option.value for name, option in after.items() if option.value != before[name].value}
        texts = kinds | {short.get(name, name): as_typed(value) for name, value in differing.items()}
        return texts if base.parse(texts) == changed else None
    except SharedqError:
        return None
