"""A search for settings: trials of one recipe with settings that optuna draws, each trained by a process of its own.

A search is a folder. `search.json` says what is searched, `journal.log` is the journal of optuna's studies, one for
each source of targets, and `trials/0007` is the run of trial 7. The journal knows which trials were begun and how they
ended, so a search that was killed goes on, and its next settings are those that it would have drawn.
"""

import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sharedq import formats
from sharedq.child_process import last_line
from sharedq.comparison import folders_of
from sharedq.errors import SharedqError, Stopped, missing_extra
from sharedq.experiment import TABLES, Experiment
from sharedq.json_files import Maybe, read_json
from sharedq.reports import trials as page
from sharedq.reports.trials import CHECKS, FIRST_CHECK, RANDOM, UNPRUNED, values_of
from sharedq.runs import RunDirectory, atomic_write
from sharedq.runs.durable import cut, open_to_append, unfinished_name
from sharedq.runs.lock import Locked, locked
from sharedq.search_space import Source, Varied, check, drawn, number_of, read_varied, sources_of
from sharedq.settings import require
from sharedq.trainer import prepared, use_cores_for
from sharedq.training.progress import counted as counted_seeds
from sharedq.training.signals import stop_requests

SEARCH, JOURNAL, LOCK, TRIALS = formats.SEARCH_FILE, "journal.log", "lock", "trials"
POLL = 0.2  # ours: seconds between two looks at the processes
READING = 0.05  # ours: the most of the time that reading the logs of running trials takes
REMEDY = "choose another --out, or restore it"
FORM: dict[str, Any] = {
    "schema": int,
    "recipe": str,
    "command": str,
    "options": {str: str},
    "vary": [str],
    "targets": [str],
    "experiment": {str: Any},
    "trials": int,
    "start": int,
    "trust": Maybe(bool),
}


class Search(NamedTuple):
    """What is searched."""

    recipe: str  # a name, or the path of an experiment.json, as it is typed
    base: Experiment
    options: dict[str, str]  # that all trials have, as they are typed
    varied: list[Varied]
    sources: list[Source]
    ends: list[Experiment]  # at the ends of all ranges
    trials: int  # of each source
    start: int  # the shortest warm-up of all trials, at whose end the areas begin
    trust: bool
    command: str

    def fixed(self, source: Source) -> dict[str, str]:
        return {**self.options, **source.options}

    def experiment(self, source: Source, texts: Mapping[str, str]) -> Experiment:
        return self.base.parse({**self.fixed(source), **texts})

    def words(self, source: Source, texts: Mapping[str, str]) -> list[str]:
        """The arguments of the command that trains with these settings."""
        options = {**self.fixed(source), **texts}
        typed = [word for name, text in options.items() for word in (f"--{name}", text)]
        return ["train", self.recipe, *typed, *["--trust"] * self.trust]


def planned(
    recipe: str,
    base: Experiment,
    options: Mapping[str, Sequence[str]],
    vary: Sequence[str],
    targets: Sequence[str] | None,
    trials: int,
    trust: bool,
    command: str,
) -> Search:
    """The search that a command asks for. Raises if a setting is unknown, or refuses an end of its range."""
    require(trials >= 1, f"--trials must be at least 1, not {trials}")
    for name, values in options.items():
        told = f"--{name} takes one value here: to try several, write --vary {name}={','.join(values)}"
        require(len(values) == 1, told)
    fixed, varied = {name: values[0] for name, values in options.items()}, read_varied(vary)
    sources = sources_of(base, fixed, targets)
    ends = check(base, fixed, sources, varied)
    for one in ends:
        steps = one.training.steps
        told = f"the warm-up takes {_warm_up(one):,} of {steps:,} steps: raise --steps or lower the warm-up"
        require(_warm_up(one) < steps, told)
        is_ranked = one.training.learns_from != "data" or one.training.evaluation_period is not None
        require(is_ranked, "trials that learn from data are ranked by evaluations: add --training.evaluation_period")
    start = min(map(_warm_up, ends))
    return Search(recipe, base, fixed, varied, sources, ends, trials, start, trust, command)


def _warm_up(experiment: Experiment) -> int:
    """Steps in which nothing is learned, or all actions are random. Learning from data has none."""
    if experiment.training.learns_from == "data":
        return 0
    return max(getattr(experiment.training, "warm_up", 0), getattr(experiment.algorithm, "random_steps", 0))


def carry_out(search: Search, vary: Sequence[str], out: Path, jobs: int = 1, *, say: Callable[[str], None]) -> Path:
    """Trains the trials that have not ended, `jobs` at once, and writes the page. Returns the path of the page.

    `vary` has the ranges as they were typed, by which the folder `out` is known again.
    """
    require(jobs >= 1, f"--jobs must be at least 1, not {jobs}")
    if find_spec("optuna") is None:
        raise missing_extra("optuna", "search", "a search")
    plan = _plan(search, vary)
    _check_folder(out, plan)
    if not (out / SEARCH).exists():
        with _without_preallocation():
            use_cores_for(search.ends[0])
            for experiment in search.ends:  # this raises before a folder is made
                prepared(experiment)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, f"another process is searching in {out}: wait for it, or stop it"):
        _check_folder(out, plan)
        atomic_write(out / SEARCH, f"{json.dumps(plan, indent=2)}\n".encode())
        return _Searching(search, out, jobs, say).run()


def _plan(search: Search, vary: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": formats.SEARCH,
        "recipe": search.recipe,
        "command": search.command,
        "options": search.options,
        "vary": list(vary),
        "targets": [" ".join(f"--{name} {text}" for name, text in one.options.items()) for one in search.sources],
        "trials": search.trials,
        "start": search.start,
        "trust": search.trust,
        "experiment": search.base.pinned().to_dict(),
    }


def _check_folder(out: Path, plan: Mapping[str, Any]) -> None:
    """Raises if the folder holds anything else than this search. More trials of a search are the same search."""
    if out.is_symlink():
        raise SharedqError(f"{out} is a link: name the folder that it leads to")
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise SharedqError(f"{out} is not a folder: choose another --out")
    for name in (SEARCH, LOCK, JOURNAL, TRIALS):
        if (out / name).is_symlink():
            raise SharedqError(f"{out / name} is a link, and links inside a search are not followed: remove it")
    page.check_page(out)
    if not (out / SEARCH).exists():
        if strange := {path.name for path in out.iterdir()} - {LOCK, unfinished_name(SEARCH)}:
            raise SharedqError(f"{out} holds {min(strange)} and no search: choose another --out")
        return
    there = read_plan(out)
    for name in ("recipe", "options", "vary", "targets", "experiment"):
        if there[name] != plan[name]:
            raise SharedqError(
                f"{out} holds another search ({_difference(name, there[name], plan[name])}): "
                "choose another --out, or repeat the command in its search.json"
            )
    folders = [path.name for depth in ("*", "*/*") for path in (out / TRIALS).glob(depth) if path.name.isdigit()]
    begun, wanted = max(map(int, folders), default=0), plan["trials"]
    require(wanted >= begun, f"{out} has {begun} trials already: give --trials {begun} or more, not {wanted}")


def read_plan(out: Path) -> dict[str, Any]:
    plan = read_json(out / SEARCH, FORM, REMEDY)
    if plan["schema"] != formats.SEARCH:
        raise SharedqError(f"{out / SEARCH} has schema {plan['schema']}, this version reads {formats.SEARCH}: {REMEDY}")
    return plan


def _difference(name: str, there: Any, here: Any) -> str:
    """The first thing in which two plans differ, in words."""
    if isinstance(there, dict):
        key = next(key for key in {**there, **here} if there.get(key) != here.get(key))
        return _difference(f"{name} {key}", there.get(key), here.get(key))
    there, here = (" ".join(one) if isinstance(one, list) else one for one in (there, here))
    return f"its {name} is {there or 'absent'} and not {here or 'absent'}"


@contextmanager
def _without_preallocation() -> Iterator[None]:
    """Inside, JAX does not reserve the memory of a GPU, which the trials are to have."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@dataclass
class _Active:
    """A trial that has begun and not ended."""

    source: Source
    trial: Any  # optuna's
    texts: dict[str, str]
    folder: Path
    experiment: dict[str, Any] | None = None  # that its run has
    process: subprocess.Popen | None = None
    due: float = 0.0  # when its logs are read again


class _Searching:
    """A search that is carried out by this process."""

    def __init__(self, search: Search, out: Path, jobs: int, say: Callable[[str], None]):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._search, self._out, self._jobs, self._say = optuna, search, out, jobs, say
        self._trusts = any(one.imports() for one in search.ends)
        self._environment = dict(os.environ)
        if jobs > 1:  # the trials share the memory of a GPU
            self._environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        labels = [one.label for one in search.sources]
        self._folders = dict(zip(labels, folders_of(labels, TRIALS) if len(labels) > 1 else [TRIALS]))
        self._studies = dict(zip(labels, self._opened(labels)))
        self._active: list[_Active] = []
        self._left = [(source, frozen) for source in search.sources for frozen in self._unfinished(source)]

    def _unfinished(self, source: Source) -> list[Any]:
        """The trials that a search left behind which was stopped or killed."""
        states = (self._optuna.trial.TrialState.RUNNING,)
        return self._studies[source.label].get_trials(deepcopy=False, states=states)

    def _opened(self, labels: Sequence[str]) -> list[Any]:
        """The study of each source, from the journal."""
        journal, optuna = self._out / JOURNAL, self._optuna
        journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # of a search that was killed: we hold the folder
        with open_to_append(journal):
            pass
        content = journal.read_bytes()
        if not content.endswith(b"\n"):  # the search was killed while it wrote this line
            cut(journal, content.rfind(b"\n") + 1)
        try:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
            pruner = optuna.pruners.MedianPruner(UNPRUNED, FIRST_CHECK)
            options = {"storage": storage, "pruner": pruner, "direction": "maximize", "load_if_exists": True}
            return [optuna.create_study(study_name=label or "search", **options) for label in labels]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SharedqError(f"{journal} was edited or damaged ({error}): {REMEDY}") from None

    def run(self) -> Path:
        with stop_requests() as request:
            try:
                self._loop(request)
            finally:
                self._stop_processes()
        return self._write_page(training=False)

    def _loop(self, request: Any) -> None:
        self._write_page()
        while True:
            while len(self._active) < self._jobs and self._begin_next():
                pass
            if not self._active:
                return
            if request.number is not None:
                self._say("stopping: each trial saves a checkpoint first")
                self._stop_processes()
                self._write_page(training=False)
                raise Stopped(f"stopped the search; to continue, repeat: {self._search.command}", request.number)
            for one in list(self._active):
                if self._advance(one):
                    self._active.remove(one)
                    self._write_page()
            time.sleep(POLL if self._active else 0)

    def _count(self, source: Source) -> int:
        return len(self._studies[source.label].get_trials(deepcopy=False))

    def _begin_next(self) -> bool:
        """Begins a trial that was left behind, or a new one of the source with the fewest. False if none is left."""
        if self._left:
            source, frozen = self._left.pop(0)
            study = self._seeded(source, frozen.number)  # it may have been killed before all its settings were drawn
            self._begin(source, self._optuna.trial.Trial(study, frozen._trial_id))
            return True
        source = min(self._search.sources, key=self._count)
        if self._count(source) >= self._search.trials:
            return False
        self._begin(source, self._seeded(source, self._count(source)).ask())
        return True

    def _seeded(self, source: Source, number: int) -> Any:
        """The study of a source, ready to draw the settings of a trial.

        They depend on the number of the trial and on the trials before it only. So a search that was stopped draws the
        same as one that was not.
        """
        study, seed = self._studies[source.label], self._search.ends[0].seed + number
        sampler = self._optuna.samplers.TPESampler
        study.sampler = sampler(seed=seed, n_startup_trials=RANDOM, constant_liar=self._jobs > 1)
        return study

    def _begin(self, source: Source, trial: Any) -> None:
        def draw(one: Varied, low: Any, high: Any) -> Any:
            suggest = trial.suggest_int if isinstance(low, int) else trial.suggest_float
            return suggest(one.name, low, high, log=one.is_log)

        texts = drawn(
            self._search.base, self._search.fixed(source), self._search.varied, trial.suggest_categorical, draw
        )
        folder = self._out / self._folders[source.label] / f"{trial.number + 1:04d}"
        self._active.append(_Active(source, trial, texts, folder))
        told = ", ".join(f"{name} {text}" for name, text in texts.items())
        self._say(f"trial {trial.number + 1} of {self._search.trials}{_of(source)}: {told}")

    def _advance(self, one: _Active) -> bool:
        """Looks at a trial, and trains it if nothing does. Returns whether it has ended."""
        states = self._optuna.trial.TrialState
        code = None if one.process is None else one.process.poll()
        if code is None and time.monotonic() < one.due:
            return False
        if (twin := self._twin(one)) is not None:  # the same seeds would learn the same again
            one.trial.set_user_attr("twin", twin.number + 1)
            return self._end(one, states.COMPLETE, twin.value)
        began = time.monotonic()
        try:
            run = self._begun(one)
            finished = run is not None and run.finished() is not None  # asked first: the values are whole then
            values = values_of(one.folder, self._search.start) if run is not None else []
        except SharedqError as error:
            return self._end(one, states.FAIL, reason=str(error))
        one.due = time.monotonic() + (time.monotonic() - began) / READING
        if run is not None and run.diverged() is not None:
            return self._end(one, states.FAIL, reason="learning diverged")
        if self._is_pruned(one, values):
            return self._end(one, states.PRUNED)
        if finished:
            if one.process is not None and code is None:  # it has a few lines left to write
                return False
            if len(values) < CHECKS or not math.isfinite(values[-1]):
                return self._end(one, states.FAIL, reason="no episode has ended")
            return self._end(one, states.COMPLETE, values[-1])
        if run is not None and (one.process is None or code is not None) and _is_trained(one.folder):
            one.process = None  # the process of a search that was killed still trains it
        elif one.process is None:
            self._start(one, run is not None)
        elif code is not None:
            told = f"its process was killed by signal {-code}" if code < 0 else last_line(_log(one.folder).read_bytes())
            return self._end(one, states.FAIL, reason=told or f"the process ended with {code}")
        return False

    def _begun(self, one: _Active) -> RunDirectory | None:
        """The run of a trial, if it has begun. Raises if its settings are refused, or if it is another run."""
        if one.experiment is None:
            one.experiment = self._search.experiment(one.source, one.texts).pinned().to_dict()
        if not os.path.lexists(one.folder / "experiment.json"):
            return None
        run = RunDirectory.open(one.folder)
        if run.experiment() != one.experiment:
            raise SharedqError("its folder holds another run")
        return run

    def _twin(self, one: _Active) -> Any:
        """An earlier trial with the same settings that was trained to its end, if there is one."""
        trials = self._studies[one.source.label].get_trials(deepcopy=False)
        earlier = (other for other in trials[: one.trial.number] if other.state.name == "COMPLETE")
        return next((other for other in earlier if other.params == one.trial.params), None)

    def _is_pruned(self, one: _Active, values: Sequence[float]) -> bool:
        """Reports the values that the study does not know yet, in order, until the pruner gives the trial up.

        So it does not matter how often a run was looked at, or whether it ended before anybody looked.
        """
        study = self._studies[one.source.label]
        known = study.get_trials(deepcopy=False)[one.trial.number].intermediate_values
        for place, value in enumerate(values[: CHECKS - 1], start=1):
            if place < max(known, default=0) or not math.isfinite(value):
                continue
            if place not in known:
                one.trial.report(value, place)
            if one.trial.should_prune():
                return True
        return False

    def _start(self, one: _Active, resumes: bool) -> None:
        """Starts the process that trains a trial."""
        words = [*self._search.words(one.source, one.texts), "--out", str(one.folder)]
        if resumes:
            words = ["resume", str(one.folder), *["--trust"] * self._trusts]
        one.folder.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(_log(one.folder)) as log:
            one.process = subprocess.Popen(
                [sys.executable, "-m", "sharedq", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others
            )

    def _end(self, one: _Active, state: Any, value: float | None = None, reason: str = "") -> bool:
        study, complete = self._studies[one.source.label], self._optuna.trial.TrialState.COMPLETE
        if one.process is not None and one.process.poll() is None:
            one.process.terminate()
            one.process.wait()
        if reason:
            one.trial.set_user_attr("reason", _short(reason, self._out))
        study.tell(one.trial, value, state=state if state != complete else None)
        best = _best(study)
        status = _status(study.get_trials(deepcopy=False)[one.trial.number])
        told = status if value is None else f"{value:.4g} (best so far {best.value:.4g}, trial {best.number + 1})"
        self._say(f"trial {one.trial.number + 1}{_of(one.source)}: {told}")
        return True

    def _stop_processes(self) -> None:
        """Lets all running trials save a checkpoint and end."""
        running = [one.process for one in self._active if one.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
        for process in running:
            process.wait()

    def _write_page(self, training: bool = True) -> Path:
        search = self._search
        tuned = [self._tuned(source) for source in search.sources]
        seeds, steps = search.ends[0].seeds, search.ends[0].training.steps
        recipe = Path(search.recipe).stem
        counted = f"{search.trials} trials{' of each source' if len(tuned) > 1 else ''}"
        about = f"Varied from the recipe {recipe}. {counted}, each with {counted_seeds(seeds)} and {steps:,} steps."
        varied: dict[str, page.Axis] = {
            one.name: "log" if one.is_log else "linear" if one.is_range else "choices" for one in search.varied
        }
        return page.write(self._out, f"Search on {recipe}", about, varied, tuned, search.command, training)

    def _tuned(self, source: Source) -> page.Tuned:
        study = self._studies[source.label]
        trials = [self._shown(source, frozen) for frozen in study.get_trials(deepcopy=False)]
        best = _best(study)
        shown = None if best is None else trials[best.number]
        words = [] if shown is None else ["sharedq", *self._search.words(source, shown.settings)]
        kinds = {one.name: one.choices[0] for one in self._search.varied if one.name in TABLES}
        kind = self._search.experiment(source, kinds).kind("target")
        return page.Tuned(source.label, kind, trials, self._importances(study), shown, shlex.join(words))

    def _importances(self, study: Any) -> dict[str, float]:
        """PED-ANOVA's importances, which ask for two different values at least."""
        if len({one.value for one in _completed(study)}) < 2:
            return {}
        try:
            return self._optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError):  # no setting was drawn twice with different values
            return {}

    def _shown(self, source: Source, frozen: Any) -> page.Trial:
        varied = {one.name: one for one in self._search.varied if one.name in frozen.params}
        active = {(one.source.label, one.trial.number): one.texts for one in self._active}
        texts = active.get((source.label, frozen.number)) or self._texts(source, frozen)
        numbers = {name: number_of(varied[name], text) for name, text in texts.items() if name in varied}
        known = {name: number for name, number in numbers.items() if number is not None}
        folder = f"{self._folders[source.label]}/{frozen.number + 1:04d}"
        value = frozen.value if frozen.state.name == "COMPLETE" else None
        return page.Trial(frozen.number + 1, folder, value, _status(frozen), texts, known)

    def _texts(self, source: Source, frozen: Any) -> dict[str, str]:
        """The settings of a trial as they were typed."""
        params = frozen.params
        fixed = self._search.fixed(source)
        try:
            return drawn(
                self._search.base,
                fixed,
                self._search.varied,
                lambda name, _: params[name],
                lambda one, *_: params[one.name],
            )
        except KeyError:  # the search was killed while it drew them
            return {}


def _is_trained(run: Path) -> bool:
    """Whether a process writes the run."""
    try:
        with locked(run / LOCK, "it is trained"):
            return False
    except Locked:
        return True


def _of(source: Source) -> str:
    return f" of {source.label}" if source.label else ""


def _completed(study: Any) -> list[Any]:
    """The trials that were trained to their end."""
    return [one for one in study.get_trials(deepcopy=False) if one.state.name == "COMPLETE"]


def _best(study: Any) -> Any:
    """The trial with the highest value; None if none was trained to its end."""
    return max(_completed(study), key=lambda one: one.value, default=None)


def _status(frozen: Any) -> str:
    """How a trial ended, in words."""
    state = frozen.state.name
    if state == "PRUNED":
        return f"pruned at {100 * max(frozen.intermediate_values) // CHECKS} %"
    if state == "FAIL":
        return f"failed: {frozen.user_attrs.get('reason', 'unknown')}"
    if state == "COMPLETE":
        twin = frozen.user_attrs.get("twin")
        return "finished" if twin is None else f"has the settings of trial {twin}, so it was not trained again"
    return "not finished"


def _log(folder: Path) -> Path:
    """What the process that trains a trial says of errors."""
    return folder.with_name(f"{folder.name}.log")


def _short(reason: str, out: Path) -> str:
    """A reason fit for a page, which names no place of the machine."""
    return reason.replace(f"{out.resolve()}/", "").replace(f"{out}/", "")[:300]
