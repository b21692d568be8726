"""The loop around a training program: it logs, saves and reports progress, and stops on request or on divergence.

A run advances from one log step of its program to the next, in compiled code. Checkpoints are written only at log
steps, so a resumed run passes the same log steps and equals an uninterrupted one bit for bit.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharedq.errors import (
    DeviceFailed,
    Diverged,
    EnvironmentFailed,
    SharedqError,
    Stopped,
    Unlearned,
    Unphysical,
    device_errors,
)
from sharedq.errors import told as told_of
from sharedq.json_files import Maybe
from sharedq.runs import MetricsLog, RunDirectory, checkpoints
from sharedq.runs.metrics_log import check as check_log
from sharedq.runs.run_files import EVALUATIONS, HISTOGRAMS, TABLES
from sharedq.training.evaluation import Evaluation
from sharedq.training.memory import check_fits, free_bytes
from sharedq.training.program import ChunkResult, Program
from sharedq.training.progress import Progress, Unit, counted, duration
from sharedq.training.signals import StopRequest, stop_requests
from sharedq.trees import size
from sharedq.units import readable

KEPT = 2  # checkpoints that an unfinished run keeps
META = {
    "seconds": float,
    "compile_seconds": float,
    "evaluation_seconds": Maybe(float),  # of a run that evaluates
    "offsets": {str: int},
    "logs": Maybe({str: str}),
    "files": Maybe({str: str}),
}  # of a checkpoint, beside its arrays
TIMINGS = ("steps_per_second", "seconds")

Mirror = Callable[[int, dict[str, float]], None]  # also receives what is logged, averaged over seeds
Callback = Callable[[int, dict[str, np.ndarray]], bool | None]  # receives it for each seed, and may stop the run


class Saved(NamedTuple):
    """What a run goes on from."""

    path: Path | None  # the newest checkpoint; None if the run begins
    start: Path | None  # the agents that it begins with; None if it begins with new ones
    meta: dict  # of the newest checkpoint
    files: dict[str, str]  # the checksums of what describes the run, as it was when the run began

    @property
    def logs(self) -> tuple[dict, dict | None]:
        """The lengths and the checksums that the log had."""
        return self.meta["offsets"], self.meta.get("logs")


@dataclass
class State:
    """What changes from one row of the log to the next. Nothing else refers to the run, which can be very large."""

    step: int
    seconds: float
    run: Any


class Row(NamedTuple):
    """What is known at a row of the log."""

    told: ChunkResult
    rate: float  # environment steps of all seeds per second, since the row before
    mean_return: float | None  # of the episodes that ended since the row before
    evaluated: np.ndarray | None  # [S] the mean returns of the evaluation, if there was one


def train(
    program: Program,
    directory: RunDirectory,
    progress: Progress,
    *,
    checkpoint_period: int,
    advice: str,
    onwards: str = "",
    keep_replay: bool = False,
    longer: dict | None = None,
    mirror: Mirror | None = None,
    callback: Callback | None = None,
    unit: Unit = "steps",
) -> None:
    """Trains until the last log step of the program, from the last checkpoint if there is one.

    `advice` says what to lower if memory is short; `onwards` is the command that resumes the run. With `keep_replay`
    the last checkpoint holds all that training for longer needs. `longer` is an experiment with more steps, which the
    run is given once it is certain that it can go on. If `callback` returns True, the run is saved and the training
    returns. `unit` is what its steps are called.
    """
    with directory.writing(), _stops(directory, onwards) as request, closing(program), _naming(directory, onwards):
        saved = _saved(program, directory, progress)
        if saved.path and int(saved.path.name) == program.log_steps[-1]:
            _finish_saved(program, directory, progress, saved, longer, unit)
            return
        compile_seconds = _prepare(program, progress, advice)
        with _breakdowns(directory, onwards):
            state = _restore_or_begin(program, directory, progress, saved)
        evaluation = None
        if program.evaluation_steps:
            evaluation = Evaluation(program, directory, progress.say, saved.meta.get("evaluation_seconds", 0.0))
        files = _extended(directory, longer, saved.files)
        seconds_before, last = state.seconds, program.log_steps[-1]
        with _opened_log(program, directory, saved) as log:
            checkpoints.sweep(directory.checkpoints, KEPT)
            for stop in [s for s in program.log_steps if s > state.step]:
                start = state.step
                with _breakdowns(directory, onwards):
                    row = _advance(program, state, stop, log, evaluation)
                asked = _tell(program, directory, progress, stop, row, mirror, callback)
                due = stop // checkpoint_period > start // checkpoint_period
                if due or asked or request.number is not None or stop == last:
                    meta = {"seconds": state.seconds, "compile_seconds": compile_seconds, "files": files}
                    meta |= {} if evaluation is None else {"evaluation_seconds": evaluation.seconds}
                    whole, keep = (keep_replay, 1) if stop == last else (True, KEPT)
                    _save(program, directory, log, state, meta, whole, keep)
                if request.number is not None and stop != last:
                    raise Stopped(f"stopped at step {stop:,}; to continue: {onwards}", request.number)
                if asked and stop != last:
                    progress.say(f"stopped by the callback at step {stop:,}; to continue: {onwards}")
                    return
            _tell_of_measuring(program, progress, state.seconds - seconds_before)
            _finish(program, directory, progress, meta, log, unit)
        if request.number is not None:  # the signal may be for more than this run: a comparison stops here too
            raise Stopped(f"stopped; {directory.path} had just finished", request.number)


def _saved(program: Program, directory: RunDirectory, progress: Progress) -> Saved:
    """What the run goes on from. Checks that its checkpoint belongs to it and that its log is as it was then."""
    path, start = checkpoints.latest(directory.checkpoints), None
    if path and int(path.name) == 0:  # the agents that a run starts from
        path, start = None, path
    if path is None:
        return Saved(None, start, {"offsets": {}}, directory.description())
    meta = _read(directory, path, bool(program.evaluation_steps), bool(program.histograms))
    files = meta.get("files") or directory.description()
    if checkpoints.experiment_of(path) != directory.digest():  # the run was extended since
        files = files | {"experiment.json": directory.description()["experiment.json"]}
    saved = Saved(path, None, meta, files)
    check_log(directory.path, *saved.logs)
    for remark in directory.remarks(files):
        progress.say(remark)
    return saved


def _finish_saved(
    program: Program, directory: RunDirectory, progress: Progress, saved: Saved, longer: dict | None, unit: Unit
) -> None:
    """Finishes a run that was killed after its last checkpoint."""
    assert saved.path is not None
    checkpoints.load_agent(saved.path, program.shapes().agent)  # the checkpoint may have been damaged since
    files = _extended(directory, longer, saved.files)
    with _opened_log(program, directory, saved) as log:
        checkpoints.sweep(directory.checkpoints, keep=1)
        _finish(program, directory, progress, saved.meta | {"files": files}, log, unit)


def _opened_log(program: Program, directory: RunDirectory, saved: Saved) -> MetricsLog:
    evaluates, histograms = bool(program.evaluation_steps), program.histograms
    return MetricsLog(directory, program.metric_names, TIMINGS, *saved.logs, evaluates, histograms)


def _restore_or_begin(program: Program, directory: RunDirectory, progress: Progress, saved: Saved) -> State:
    if saved.path is None:
        return State(0, 0.0, _begin(program, directory, saved.start))
    state = _restore(program, saved.path)
    progress.say(f"continuing from step {state.step:,}")
    return state


def _extended(directory: RunDirectory, longer: dict | None, files: dict[str, str]) -> dict[str, str]:
    """Gives the run the experiment with more steps, if there is one; returns the checksums that are valid then."""
    if longer is None:
        return files
    directory.extend(longer)
    return files | {"experiment.json": directory.description()["experiment.json"]}


def _advance(program: Program, state: State, stop: int, log: MetricsLog, evaluation: Evaluation | None) -> Row:
    """Trains to the next row of the log and writes it, with an evaluation if one is due."""
    began = time.perf_counter()
    state.run, told = program.advance(state.run, state.step, stop)
    passed = time.perf_counter() - began
    rate = (stop - state.step) * len(program.seeds) / passed
    state.step, state.seconds = stop, state.seconds + passed
    mean_return = _write(log, program.seeds, stop, told, rate, state.seconds)
    evaluated = None
    if evaluation is not None and _finite(told).all() and stop in evaluation.due:
        evaluated = evaluation.carry_out(state.run, stop, log)
    return Row(told, rate, mean_return, evaluated)


def _tell(
    program: Program,
    directory: RunDirectory,
    progress: Progress,
    step: int,
    row: Row,
    mirror: Mirror | None,
    callback: Callback | None,
) -> bool:
    """Tells a row to all who want to know it; returns whether the callback asks to stop. Raises if it diverged."""
    progress.update(step, row.rate, row.mean_return, bool(row.told.metrics))
    if mirror is not None:
        _reflect(mirror, step, row)
    _check_finite(program, directory, step, row.told)
    return callback is not None and _asks_to_stop(callback, step, row.told, row.evaluated)


def _tell_of_measuring(program: Program, progress: Progress, seconds: float) -> None:
    """Says how much of the training time of this process the measures took."""
    if program.measuring_seconds:
        share = program.measuring_seconds / max(seconds, 1e-9)
        progress.say(f"measuring took about {100 * share:.1f} % of the time")


def _finish(
    program: Program, directory: RunDirectory, progress: Progress, meta: dict, log: MetricsLog, unit: Unit
) -> None:
    log.flush()
    steps, seconds = program.log_steps[-1], meta["seconds"]
    rate = steps * len(program.seeds) / max(seconds, 1e-9)
    times = {name: meta[name] for name in ("seconds", "compile_seconds", "evaluation_seconds") if name in meta}
    directory.finish({"steps": steps, "steps_per_second": rate} | times, log.checksums(), meta["files"])
    seeds = counted(len(program.seeds))
    progress.say(f"finished {steps:,} {unit} of {seeds} in {duration(seconds)}: {directory.path}")
    if "evaluation_seconds" in meta:
        share = meta["evaluation_seconds"] / max(meta["evaluation_seconds"] + seconds, 1e-9)
        progress.say(f"evaluation took {100 * share:.1f} % of the time")


def _prepare(program: Program, progress: Progress, advice: str) -> float:
    """Compiles and prints how much memory the run needs; refuses one that does not fit, before allocating anything."""
    check_fits(size(program.shapes()), advice)
    progress.say("compiling")
    began = time.perf_counter()
    needed = program.prepare()
    compile_seconds = time.perf_counter() - began
    check_fits(needed, advice)
    free = free_bytes()
    have = "" if free is None else f" of {readable(free)} free"
    progress.say(f"compiled in {compile_seconds:.0f} s; the run holds {readable(needed)}{have}")
    return compile_seconds


def _write(
    log: MetricsLog, seeds: list[int], step: int, told: ChunkResult, rate: float, seconds: float
) -> float | None:
    """Logs a chunk; returns the mean return of the episodes that ended in it."""
    timings = {"steps_per_second": rate, "seconds": seconds}
    for seed, ended in zip(seeds, told.episodes, strict=True):
        log.episodes(ended.steps, seed, ended.returns, ended.lengths)
    log.publish()  # who reads a row of metrics while we write finds the episodes before it
    for place, seed in enumerate(seeds):
        if told.metrics:
            log.metrics(step, seed, {name: values[place] for name, values in told.metrics.items()} | timings)
        if told.histograms:
            log.histograms(step, seed, {name: counts[place] for name, counts in told.histograms.items()})
    log.publish()
    returns = np.concatenate([ended.returns for ended in told.episodes])
    return float(returns.mean()) if returns.size else None


def _reflect(mirror: Mirror, step: int, row: Row) -> None:
    """Hands a row to the mirror, averaged over seeds."""
    values = {name: float(np.mean(value)) for name, value in row.told.metrics.items()} | {"steps_per_second": row.rate}
    values |= {} if row.mean_return is None else {"return": row.mean_return}
    mirror(step, values if row.evaluated is None else values | {"evaluation/return": float(row.evaluated.mean())})


def _asks_to_stop(callback: Callback, step: int, told: ChunkResult, evaluated: np.ndarray | None) -> bool:
    """Calls the callback with the numbers of each seed; returns whether the run is to stop."""
    means = [ended.returns.mean() if ended.returns.size else np.nan for ended in told.episodes]
    evaluation = {} if evaluated is None else {"evaluation_return": evaluated}
    return bool(callback(step, {**told.metrics, "return": np.array(means), **evaluation}))


@contextmanager
def _naming(directory: RunDirectory, onwards: str) -> Iterator[None]:
    """Names a file of the run that could not be written, usually because the disk is full, and says how to resume."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(error.filename).is_relative_to(directory.path):
            raise
        told = f"{error.strerror}: {error.filename}; {_kept(directory)}"
        raise SharedqError(f"{told}; once that is corrected, continue with: {onwards}") from error


@contextmanager
def _stops(directory: RunDirectory, onwards: str) -> Iterator[StopRequest]:
    """Inside, a first signal requests a stop; a second one ends the run at once and says which checkpoint is left."""
    with stop_requests() as request:
        try:
            yield request
        except KeyboardInterrupt:
            number = request.number or signal.SIGINT
            raise Stopped(f"stopped at once; {_kept(directory)}; to continue: {onwards}", number) from None


@contextmanager
def _breakdowns(directory: RunDirectory, onwards: str) -> Iterator[None]:
    """Adds the last good checkpoint to errors of environments and devices; values that are not finite mark the run."""
    try:
        with device_errors():
            yield
    except Unphysical as error:
        raise _diverged(directory, error.what, error.seed, error.step, error.hint) from error
    except (EnvironmentFailed, DeviceFailed) as error:
        raise type(error)(f"{error}; {_kept(directory)}; once it is corrected, continue with: {onwards}") from error


def _finite(told: ChunkResult) -> np.ndarray:
    """Of each seed, whether its losses and its parameters are finite numbers."""
    return (told.bad_step < 0) & told.params_finite


def _check_finite(program: Program, directory: RunDirectory, step: int, told: ChunkResult) -> None:
    broken = np.nonzero(~_finite(told))[0]
    if not broken.size:
        return
    place = int(broken[0])
    what = "the loss" if told.bad_step[place] >= 0 else "a parameter"
    when = told.bad_step[place] if told.bad_step[place] >= 0 else step
    raise _diverged(directory, what, program.seeds[place], int(when), Unlearned.hint)


def _diverged(directory: RunDirectory, what: str, seed: int, step: int, hint: str) -> Diverged:
    """Marks the run as diverged; returns the error that says where it diverged and which checkpoint is left."""
    message = f"{what} of seed {seed} is not a finite number at step {step:,}; {_kept(directory)}; {hint}"
    directory.diverge(step, seed, message)
    return Diverged(message)


def _kept(directory: RunDirectory) -> str:
    good = checkpoints.latest(directory.checkpoints)
    return f"the last good checkpoint is {good}" if good else "no checkpoint was written before"


def _begin(program: Program, directory: RunDirectory, start: Path | None) -> Any:
    """The run before its first step, with the agents that it starts from, if there are any."""
    if start is None:
        return program.begin()
    checkpoints.read_meta(start, directory.digests())
    return program.with_agent(program.begin(), checkpoints.load_agent(start, program.shapes().agent))


def _save(
    program: Program,
    directory: RunDirectory,
    log: MetricsLog,
    state: State,
    meta: dict,
    whole: bool,
    keep: int,
) -> None:
    """Saves all that resuming needs if it is to be `whole`, else only the agent, which is what the end needs."""
    host = program.to_host(state.run)
    parts = {"agent": host.agent}
    if whole:
        parts["rest"] = host._replace(agent=())  # most of it is the replay, and a chunk changes only a part of it
        meta = meta | {"worlds": program.save_worlds()}
    meta = meta | {"offsets": log.offsets(), "logs": log.checksums()}  # asking for them flushes the log to the disk
    checkpoints.save(directory.checkpoints, state.step, parts, directory.digest(), meta, keep, in_pieces=["rest"])


def _read(directory: RunDirectory, path: Path, evaluates: bool, histograms: bool) -> dict:
    """The metadata of a checkpoint. Only a checkpoint of version 0.1.0 may lack the checksums of the log."""
    oldest = directory.oldest_checkpoint()
    form = META if oldest == checkpoints.UNSEALED else META | {"logs": {str: str}}
    meta = checkpoints.read_meta(path, directory.digests(), form, oldest)
    tables = set(TABLES) - {*(() if evaluates else (EVALUATIONS,)), *(() if histograms else (HISTOGRAMS,))}
    if absent := set(tables) - meta["offsets"].keys():
        raise SharedqError(f"{path} does not say how long {min(absent)} was: it was edited, train again")
    return meta


def _restore(program: Program, path: Path) -> State:
    """The state of a checkpoint. Nothing else keeps a reference to the run, which can be very large."""
    shapes = program.shapes()
    agent = checkpoints.load_agent(path, shapes.agent)
    rest = checkpoints.load(path, "rest", shapes._replace(agent=()))
    meta = checkpoints.read_meta(path)
    run = program.to_devices(rest._replace(agent=agent))
    step = int(path.name)
    try:
        program.load_worlds(meta.get("worlds"), step)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"the environments in {path / 'checkpoint.json'} do not fit ({told_of(error)})"
        raise SharedqError(f"{what}: use the settings and version that wrote it") from error
    return State(step, meta["seconds"], run)
