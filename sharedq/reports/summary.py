"""The numbers of a report, computed once from the runs: the page, the figures and the files only show them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sharedq.reports import statistics
from sharedq.reports.comparisons import Pair, Test, compare
from sharedq.reports.human_scores import human_scale
from sharedq.reports.load_runs import Comparison, Run
from sharedq.reports.looks import Look, looks
from sharedq.reports.measures import counts_at_end
from sharedq.reports.profiles import Profile, profiles
from sharedq.reports.statistics import CURVE_REPETITIONS, REPETITIONS, Improvement, Interval

POINTS = 50  # of a learning curve over the longest run
MOST_STEPS = 4 * POINTS  # of evaluations or measures that are shown one by one; more are averaged in windows
FINAL_SHARE = 0.1  # of a run's curve that its final return is the mean of
COLLAPSED = 0.5  # of the reference's area, below which a seed has collapsed; ours
Statistic = Callable[..., np.ndarray]
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # step, seed and value of each
SEED = 0  # of every bootstrap and test, so that a report made twice says the same


@dataclass(frozen=True)
class Measured:
    """What one measure found during training."""

    steps: np.ndarray
    curve: Interval  # IQM over seeds at each of the steps
    mean: Interval  # IQM over seeds of each seed's mean over training


@dataclass(frozen=True)
class Evaluated:
    """The evaluations during training, in each of which an agent played without learning."""

    steps: np.ndarray
    curve: Interval  # IQM over seeds at each of the steps
    finals: np.ndarray  # of each seed of the run: the mean of its last evaluations, nan without any
    final: Interval
    best: Interval  # mean over seeds of each seed's best evaluation


@dataclass(frozen=True)
class Result:
    """What one run says, alone and against the reference of its environment."""

    run: Run
    seed_names: tuple[int, ...]  # with at least one finished episode, in training or in an evaluation: those that count
    seed_curves: np.ndarray  # of each of them on the task's grid: [seeds, points]
    seed_finals: np.ndarray
    seed_areas: np.ndarray  # up to `compared_steps`
    curve: Interval  # IQM over seeds at each point of the task's grid
    final: Interval
    area: Interval
    relative: Interval | None  # area as a fraction of the reference's, or minus it: the task's unit says which
    improvement: Improvement | None
    test: Test | None  # against the reference
    compared_steps: int  # both runs had reached this step: areas are compared up to here
    reference_areas: np.ndarray | None  # of the reference's seeds over the same steps; None where they are not compared
    measures: Mapping[str, Measured]
    evaluated: Evaluated | None

    @property
    def seeds(self) -> int:
        return len(self.seed_names)

    def measured(self, name: str) -> Interval | None:
        """The mean of a measure over training, or its last value if that is what counts."""
        found = self.measures.get(name)
        if found is None or not counts_at_end(name):
            return found.mean if found else None
        return Interval(*(bound[-1] for bound in found.curve))

    @property
    def scale(self) -> float | None:
        """The IQM of the reference's areas."""
        return None if self.reference_areas is None else float(statistics.iqm(self.reference_areas))

    @property
    def collapsed(self) -> int | None:
        """How many seeds have less than half of the reference's area; None where that is not positive."""
        if self.scale is None or not self.scale > 0:
            return None
        return int((self.seed_areas < COLLAPSED * self.scale).sum())

    @property
    def evaluated_apart(self) -> Evaluated | None:
        """The evaluations, if the learning curve is not made of them."""
        return self.evaluated if self.run.plays else None

    @property
    def label(self) -> str:
        return self.run.label

    @property
    def human(self) -> Interval | None:
        """The final return where a random player has 0 and a human 1; None where these are not known."""
        scale = human_scale(self.run.experiment.get("environment", {}))
        return None if scale is None else self._on(*scale)

    @property
    def normalised(self) -> Interval | None:
        """The final return on the scale of the data set, on which a random agent has 0 and an expert 100, as in D4RL.

        None if the data set says no scores, or those of `human`.
        """
        scale = self.run.reference_scores
        if scale is None or scale == human_scale(self.run.experiment.get("environment", {})):
            return None
        return Interval(*(100 * bound for bound in self._on(*scale)))

    def _on(self, low: float, high: float) -> Interval:
        return Interval(*((bound - low) / (high - low) for bound in self.final))

    @property
    def status(self) -> str:
        if self.run.finished:
            return "finished, but its logs are not whole" if self.run.damages else "finished"
        if self.run.diverged:
            return f"diverged at step {self.run.diverged['step']:,} (seed {self.run.diverged['seed']})"
        planned = f" of {self.run.planned:,}" if self.run.planned else ""
        return f"unfinished: {int(self.run.reached.min()):,}{planned} steps"


@dataclass(frozen=True)
class Task:
    """The runs on one environment. Those that learn from a data set have the same data too."""

    name: str  # the environment with all its settings, and the data
    title: str  # how it is called on the page
    grid: np.ndarray
    start: int  # areas begin after this step: the warm-up of all runs, or the last step before all were evaluated
    results: tuple[Result, ...]
    reference: str | None
    unit: str  # of `relative`: "percent", "difference", or "none" without a usable reference

    @property
    def measures(self) -> list[str]:
        """The names of all measures that a run has, each once."""
        return list(dict.fromkeys(name for result in self.results for name in result.measures))

    @property
    def plays(self) -> bool:
        """Whether the agents play while they learn; if not, they learn from a data set."""
        return self.results[0].run.plays

    def result(self, label: str) -> Result:
        return next(result for result in self.results if result.label == label)

    def _find(self, label: str) -> Result | None:
        return next((result for result in self.results if result.label == label), None)

    def relative_areas(self, result: Result) -> np.ndarray:
        """The area of each seed in the task's unit: of the reference's IQM, minus the reference's mean, or as it is."""
        if self.unit == "none":
            return result.seed_areas
        if result.reference_areas is None:
            return np.full(result.seeds, np.nan)
        if self.unit == "percent":
            return result.seed_areas / result.scale
        return result.seed_areas - result.reference_areas.mean()

    def share_of_reference(self, label: str) -> float | None:
        """The area as a fraction of the reference's, if the run and the number are there."""
        found = self._find(label)
        if found is None or label == self.reference:
            return None if found is None else 1.0
        if found.relative is None or not np.isfinite(found.relative.value):
            return None
        return float(found.relative.value)

    def normalised(self, label: str) -> np.ndarray | None:
        """The areas in units of the reference's IQM, of those seeds that have one; None without a positive IQM."""
        found = self._find(label)
        if self.unit != "percent" or found is None:
            return None
        areas = self.relative_areas(found)
        areas = areas[np.isfinite(areas)]
        return areas if len(areas) else None


@dataclass(frozen=True)
class Overall:
    """A label against the reference over all environments."""

    label: str
    relative: Interval
    improvement: Improvement
    test: Test


class HeatMap(NamedTuple):
    """The area of each label on each task as a fraction of the reference's, and its mean over all tasks."""

    heads: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]  # None where there is no such number


@dataclass(frozen=True)
class Summary:
    comparison: Comparison
    tasks: tuple[Task, ...]
    overall: tuple[Overall, ...]  # only of several environments, for labels that ran in all of them

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each label looks, which the order of the runs decides."""
        kinds: dict[str, str] = {}
        for run in self.comparison.runs:
            kinds.setdefault(run.label, run.target)
        return looks(kinds)

    @cached_property
    def profiles(self) -> Mapping[str, Profile]:
        """The profile of each label that has areas in units of the reference on every task."""
        rows = {label: [task.normalised(label) for task in self.tasks] for label in self.looks}
        whole = {label: [row for row in found if row is not None] for label, found in rows.items()}
        return profiles({label: row for label, row in whole.items() if len(row) == len(self.tasks)}, _rng())

    @cached_property
    def heat_map(self) -> HeatMap | None:
        """The tasks that have percentages. None if no task has any."""
        tasks = [task for task in self.tasks if task.unit == "percent"]
        if not tasks:
            return None
        overall = {row.label: row.relative.value for row in self.overall if np.isfinite(row.relative.value)}
        if overall and len({task.reference for task in tasks}) == 1:
            overall.setdefault(str(tasks[0].reference), 1.0)
        heads = (*(task.title for task in tasks), *([f"All {self.what}"] if overall else []))
        rows = {}
        for label in self.looks:
            values = [task.share_of_reference(label) for task in tasks]
            rows[label] = (*values, *([overall.get(label)] if overall else []))
        return HeatMap(heads, rows)

    @property
    def title(self) -> str:
        """The environments, by name while there is room for their names."""
        titles = [task.title for task in self.tasks]
        return f"{len(titles)} {self.what}" if len(titles) > 3 else ", ".join(titles)

    @property
    def what(self) -> str:
        """What there are several of: environments, or tasks where some of them share an environment."""
        environments = {task.results[0].run.environment for task in self.tasks}
        return "environments" if len(environments) == len(self.tasks) else "tasks"


def summarise(comparison: Comparison) -> Summary:
    """All numbers of the report on these runs."""
    groups = [
        [run for run in comparison.runs if run.task == task]
        for task in dict.fromkeys(run.task for run in comparison.runs)
    ]
    names = Counter(group[0].environment_name for group in groups)
    curves = [_Curves(group, comparison.reference) for group in groups]
    tasks = tuple(one.task(names[one.name] == 1, comparison.ranked) for one in curves)
    return Summary(comparison, tasks, _overall(curves))


class _Curves:
    """The curves of the runs of one task, on one grid, without the seeds that finished no episode."""

    def __init__(self, runs: list[Run], wanted: str | None):
        self.runs, self.name = runs, runs[0].environment_name
        self.start = min(run.warm_up for run in runs)
        span = max(1, max(int(run.reached.max()) for run in runs))
        self.grid = np.linspace(span / POINTS, span, POINTS)
        if not runs[0].plays:
            evaluated = np.unique(np.concatenate([run.played.step for run in runs]))
            self.grid = evaluated if 0 < len(evaluated) <= MOST_STEPS else self.grid
        self.curves: dict[str, np.ndarray] = {}
        self.counted: dict[str, np.ndarray] = {}  # of each seed of a run, whether it has a curve
        self.reached: dict[str, int] = {}
        for run in runs:
            curve = statistics.learning_curve(run, self.grid)
            self.curves[run.label] = _with_numbers(curve)
            self.counted[run.label] = np.isfinite(curve).any(axis=1)
            self.reached[run.label] = int(run.reached[np.isfinite(curve).any(axis=1)].min(initial=span))
        if not runs[0].plays:
            self.start = self._before_all_are_evaluated()
        reference = _reference(runs, wanted)
        self.reference = reference if reference is not None and len(self.curves[reference]) else None

    def _before_all_are_evaluated(self) -> int:
        """The last point of the grid at which a run has no evaluation of a seed yet; 0 if there is none.

        Runs with different periods would else be compared over different spans.
        """
        firsts = [int(np.isfinite(curve).argmax(axis=1).max()) for curve in self.curves.values() if len(curve)]
        first = max(firsts, default=0)
        return int(self.grid[first - 1]) if first else 0

    def areas(self, label: str, until: int) -> np.ndarray:
        return statistics.area_under_curve(self.curves[label][:, (self.grid > self.start) & (self.grid <= until)])

    def against_reference(self, label: str) -> Pair | None:
        """The areas of a run and of the reference up to the step that both have reached."""
        if self.reference is None or label not in self.curves:
            return None
        until = min(self.reached[label], self.reached[self.reference])
        scores, reference = self.areas(label, until), self.areas(self.reference, until)
        scores, reference = scores[np.isfinite(scores)], reference[np.isfinite(reference)]
        return Pair(scores, reference, until) if len(scores) and len(reference) else None

    def task(self, has_own_name: bool, ranked: bool) -> Task:
        found = {run.label: self.against_reference(run.label) for run in self.runs}
        pairs = {label: pair for label, pair in found.items() if pair is not None}
        others = {label: pair for label, pair in pairs.items() if label != self.reference}
        relatives = {
            label: statistics.ratio([pair.scores], [pair.reference], rng=_rng()) for label, pair in pairs.items()
        }
        unit = "none"
        if self.reference is not None:  # one unit for all runs of a task, so that they can be read against each other
            unit = "percent" if all(np.isfinite(one.value) for one in relatives.values()) else "difference"
        if unit == "difference":
            relatives = {label: statistics.difference(pair.scores, pair.reference) for label, pair in pairs.items()}
        level = 1.0 if unit == "percent" else 0.0
        tests = compare({label: [pair] for label, pair in others.items()}, relatives, level, _rng())
        results = [self._result(run, pairs.get(run.label), relatives, tests) for run in self.runs]
        if ranked:
            results.sort(key=lambda result: np.nan_to_num(-result.area.value, nan=np.inf))
        name = self.runs[0].task
        title = self.name if has_own_name else name
        return Task(name, title, self.grid, self.start, tuple(results), self.reference, unit)

    def _result(
        self, run: Run, pair: Pair | None, relatives: Mapping[str, Interval], tests: Mapping[str, Test]
    ) -> Result:
        curve, counted = self.curves[run.label], self.counted[run.label]
        until = pair.until if pair else self.reached[run.label]
        relative = improvement = None
        if pair and run.label != self.reference:
            relative = relatives[run.label]
            improvement = statistics.probability_of_improvement([pair.scores], [pair.reference])
        inside = np.flatnonzero(self.grid <= self.reached[run.label])
        tail = inside[-_final_count(len(inside)) :]
        evaluated = self._evaluated(run)
        finals = curve[:, tail].mean(axis=1) if len(tail) else np.empty(0)
        return Result(
            run=run,
            seed_names=tuple(int(seed) for seed in np.array(run.seeds)[counted]),
            seed_curves=curve,
            seed_finals=finals if run.plays or evaluated is None else evaluated.finals[counted],
            seed_areas=self.areas(run.label, until),
            curve=_bootstrap(curve),
            final=_bootstrap(finals) if run.plays or evaluated is None else evaluated.final,
            area=_bootstrap(self.areas(run.label, self.reached[run.label])),
            relative=relative,
            improvement=improvement,
            test=tests.get(run.label),
            compared_steps=until,
            reference_areas=pair.reference if pair else None,
            measures={name: measured for name in run.measures if (measured := self._measured(run, name))},
            evaluated=evaluated,
        )

    def _measured(self, run: Run, name: str) -> Measured | None:
        rows = statistics.measured(run, name)
        steps, means = statistics.step_means(run, *rows)
        if not len(steps):
            return None
        mean = np.nanmean(_with_numbers(means), axis=1)
        return Measured(*self._sparse_curve(run, rows), _bootstrap(mean))

    def _evaluated(self, run: Run) -> Evaluated | None:
        rows = run.evaluations[:3]
        steps, curve = statistics.step_means(run, *rows)
        if not len(steps):
            return None
        seen, count = np.isfinite(curve).any(axis=1), _final_count(len(steps))
        finals = np.full(len(curve), np.nan)
        finals[seen] = [row[np.isfinite(row)][-count:].mean() for row in curve[seen]]
        best = np.nanmax(curve[seen], axis=1)
        return Evaluated(*self._sparse_curve(run, rows), finals, _bootstrap(finals[seen]), _bootstrap(best, np.mean))

    def _sparse_curve(self, run: Run, rows: Rows) -> tuple[np.ndarray, Interval]:
        """The steps and the curve of numbers that a run has now and then, at the points of the grid if it has many."""
        steps, curve = statistics.step_means(run, *rows)
        if len(steps) > MOST_STEPS:
            steps, curve = self.grid, statistics.window_means(run, self.grid, *rows)
        return steps, _bootstrap(_with_numbers(curve))


def _reference(runs: list[Run], wanted: str | None) -> str | None:
    """The label of the reference: the one asked for, else the only run with a target network."""
    labels = [run.label for run in runs]
    if wanted is not None:
        return wanted if wanted in labels else None
    classic = [run.label for run in runs if run.target == "target_network"]
    return classic[0] if len(classic) == 1 and len(runs) > 1 else None


def _overall(tasks: list[_Curves]) -> tuple[Overall, ...]:
    if len(tasks) < 2 or any(task.reference is None for task in tasks):
        return ()
    found: dict[str, list[Pair]] = {}
    for label in tasks[0].curves:
        pairs = [pair for task in tasks if (pair := task.against_reference(label))]
        if len(pairs) == len(tasks) and any(label != task.reference for task in tasks):
            found[label] = pairs
    sides = {label: ([one.scores for one in pairs], [one.reference for one in pairs]) for label, pairs in found.items()}
    relatives = {label: statistics.ratio(*both, rng=_rng()) for label, both in sides.items()}
    tests = compare(found, relatives, 1.0, _rng())
    return tuple(
        Overall(label, relatives[label], statistics.probability_of_improvement(*both), tests[label])
        for label, both in sides.items()
    )


def _with_numbers(curve: np.ndarray) -> np.ndarray:
    """The curves of the seeds that have a number at all."""
    return curve[np.isfinite(curve).any(axis=1)]


def _final_count(points: int) -> int:
    """How many points at its end a curve's final value is the mean of."""
    return max(1, round(FINAL_SHARE * points))


def _bootstrap(scores: np.ndarray, statistic: Statistic = statistics.iqm) -> Interval:
    """A statistic over seeds with its interval; nan without seeds."""
    if not len(scores):
        empty = np.full(scores.shape[1:], np.nan)[()]
        return Interval(empty, empty, empty)
    repetitions = REPETITIONS if scores.ndim == 1 else CURVE_REPETITIONS
    return statistics.stratified_bootstrap([scores], statistic, repetitions=repetitions, rng=_rng())


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)
