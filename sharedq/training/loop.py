"""The loop around a training program: it logs, saves and reports progress, and stops on request or on divergence.

A run advances from one log step of its program to the next, in compiled code. Checkpoints are written only at log
steps, so a resumed run passes the same log steps and equals an uninterrupted one bit for bit.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

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
from sharedq.runs.run_files import EVALUATIONS, TABLES
from sharedq.training.evaluation import Evaluation
from sharedq.training.memory import check_fits, free_bytes
from sharedq.training.program import ChunkResult, Program
from sharedq.training.progress import Progress, counted, duration
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


def train(
    program: Program,
    directory: RunDirectory,
    progress: Progress,
    *,
    checkpoint_period: int,
    advice: str,
    onwards: str = "",
    keep_replay: bool = False,
    mirror: Mirror | None = None,
    callback: Callback | None = None,
) -> None:
    """Trains until the last log step of the program, from the last checkpoint if there is one.

    `advice` says what to lower if memory is short; `onwards` is the command that resumes the run. With `keep_replay`
    the last checkpoint holds all that training for longer needs. If `callback` returns True, the run is saved and the
    training returns.
    """
    with directory.writing(), _stops(directory, onwards) as request, closing(program), _naming(directory, onwards):
        saved_at = checkpoints.latest(directory.checkpoints)
        start = None
        if saved_at and int(saved_at.name) == 0:  # the agents that a run starts from
            start, saved_at = saved_at, None
        evaluates = bool(program.evaluation_steps)
        saved = _read(directory, saved_at, evaluates) if saved_at else {"offsets": {}}
        logs = (saved["offsets"], saved.get("logs"))
        files = saved.get("files") or directory.description()  # as they were when the run began, whatever came after
        if saved_at:
            if checkpoints.experiment_of(saved_at) != directory.digest():  # the run was extended since
                files = files | {"experiment.json": directory.description()["experiment.json"]}
            check_log(directory.path, *logs)
            for remark in directory.remarks(files):
                progress.say(remark)
        if saved_at and int(saved_at.name) == program.log_steps[-1]:  # killed after its last checkpoint
            checkpoints.load_agent(saved_at, program.shapes().agent)  # which may have been damaged since
            with MetricsLog(directory, program.metric_names, TIMINGS, *logs, evaluates) as log:
                checkpoints.sweep(directory.checkpoints, keep=1)
                _finish(program, directory, progress, saved | {"files": files}, log)
            return
        compile_seconds = _prepare(program, progress, advice)
        with _breakdowns(directory, onwards):
            step, seconds, run = (
                _restore(program, saved_at) if saved_at else (0, 0.0, _begin(program, directory, start))
            )
        if saved_at:
            progress.say(f"continuing from step {step:,}")
        with MetricsLog(directory, program.metric_names, TIMINGS, *logs, evaluates) as log:
            earlier = seconds
            checkpoints.sweep(directory.checkpoints, KEPT)
            evaluation = Evaluation(program, directory, saved.get("evaluation_seconds", 0.0)) if evaluates else None
            for stop in [s for s in program.log_steps if s > step]:
                began = time.perf_counter()
                with _breakdowns(directory, onwards):
                    run, told = program.advance(run, step, stop)
                passed = time.perf_counter() - began
                seconds += passed
                rate = (stop - step) * len(program.seeds) / passed
                mean_return = _write(log, program.seeds, stop, told, rate, seconds)
                evaluated = None
                if evaluation is not None and _finite(told).all() and stop in evaluation.due:
                    with _breakdowns(directory, onwards):
                        evaluated = evaluation.carry_out(run, stop, log)
                    if hasattr(progress, "evaluated"):
                        progress.evaluated(float(evaluated.mean()))
                progress.update(stop, rate, mean_return, bool(told.metrics))
                if mirror is not None:
                    _reflect(mirror, stop, told, rate, mean_return, evaluated)
                _check_finite(program, directory, stop, told)
                last = stop == program.log_steps[-1]
                asked = callback is not None and _asks_to_stop(callback, stop, told, evaluated)
                if last or asked or request.number is not None or stop // checkpoint_period > step // checkpoint_period:
                    meta = {"seconds": seconds, "compile_seconds": compile_seconds, "files": files}
                    if evaluation is not None:
                        meta["evaluation_seconds"] = evaluation.seconds
                    _save(program, directory, log, run, stop, meta, keep_replay or not last, 1 if last else KEPT)
                step = stop
                if request.number is not None and not last:
                    raise Stopped(f"stopped at step {step:,}; to continue: {onwards}", request.number)
                if asked and not last:
                    progress.say(f"stopped by the callback at step {step:,}; to continue: {onwards}")
                    return
            if program.measuring_seconds:
                share = program.measuring_seconds / max(seconds - earlier, 1e-9)
                progress.say(f"measuring took about {100 * share:.1f} % of the time")
            _finish(program, directory, progress, meta, log)
        if request.number is not None:  # the signal may be for more than this run: a comparison stops here too
            raise Stopped(f"stopped; {directory.path} had just finished", request.number)


def _finish(program: Program, directory: RunDirectory, progress: Progress, meta: dict, log: MetricsLog) -> None:
    log.flush()
    steps, seconds = program.log_steps[-1], meta["seconds"]
    rate = steps * len(program.seeds) / max(seconds, 1e-9)
    times = {name: meta[name] for name in ("seconds", "compile_seconds", "evaluation_seconds") if name in meta}
    directory.finish({"steps": steps, "steps_per_second": rate} | times, log.checksums(), meta["files"])
    progress.say(f"finished {steps:,} steps of {counted(len(program.seeds))} in {duration(seconds)}: {directory.path}")
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
    for place, seed in enumerate(seeds):
        if told.metrics:
            log.metrics(step, seed, {name: values[place] for name, values in told.metrics.items()} | timings)
        ended = told.episodes[place]
        log.episodes(ended.steps, seed, ended.returns, ended.lengths)
    returns = np.concatenate([ended.returns for ended in told.episodes])
    return float(returns.mean()) if returns.size else None


def _reflect(
    mirror: Mirror,
    step: int,
    told: ChunkResult,
    rate: float,
    mean_return: float | None,
    evaluated: np.ndarray | None,
) -> None:
    values = {name: float(np.mean(value)) for name, value in told.metrics.items()} | {"steps_per_second": rate}
    values |= {} if mean_return is None else {"return": mean_return}
    mirror(step, values if evaluated is None else values | {"evaluation/return": float(evaluated.mean())})


def _asks_to_stop(callback: Callback, step: int, told: ChunkResult, evaluated: np.ndarray | None) -> bool:
    """Calls the callback with the numbers of each seed; returns whether the run is to stop."""
    means = [ended.returns.mean() if ended.returns.size else np.nan for ended in told.episodes]
    evaluation = {} if evaluated is None else {"evaluation_return": evaluated}
    answer = callback(step, {**told.metrics, "return": np.array(means), **evaluation})
    if not isinstance(answer, (bool, np.bool_, type(None))):
        raise SharedqError(f"the callback must return True to stop the run, or None, not {answer!r}")
    return bool(answer)


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
    run: Any,
    step: int,
    meta: dict,
    whole: bool,
    keep: int,
) -> None:
    """Saves all that resuming needs if it is to be `whole`, else only the agent, which is what the end needs."""
    host = program.to_host(run)
    parts = {"agent": host.agent}
    if whole:
        parts["rest"] = host._replace(agent=())  # most of it is the replay, and a chunk changes only a part of it
        meta = meta | {"worlds": program.save_worlds()}
    meta = meta | {"offsets": log.offsets(), "logs": log.checksums()}  # asking for them flushes the log to the disk
    checkpoints.save(directory.checkpoints, step, parts, directory.digest(), meta, keep, in_pieces=["rest"])


def _read(directory: RunDirectory, path: Path, evaluates: bool) -> dict:
    """The metadata of a checkpoint. Only a checkpoint of version 0.1.0 may lack the checksums of the log."""
    oldest = directory.oldest_checkpoint()
    form = META if oldest == checkpoints.UNSEALED else META | {"logs": {str: str}}
    meta = checkpoints.read_meta(path, directory.digests(), form, oldest)
    tables = TABLES if evaluates else set(TABLES) - {EVALUATIONS}
    if absent := set(tables) - meta["offsets"].keys():
        raise SharedqError(f"{path} does not say how long {min(absent)} was: it was edited, train again")
    return meta


def _restore(program: Program, path: Path) -> tuple[int, float, Any]:
    """The step, seconds and run of a checkpoint. Nothing else keeps a reference to the run, which can be very large."""
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
    return step, meta["seconds"], run
