"""The numbers of a report, computed once from the runs: the page, the figures and the files only show them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sharedq.reports import statistics
from sharedq.reports.human_scores import human_scale
from sharedq.reports.load_runs import Comparison, Run
from sharedq.reports.looks import Look, looks
from sharedq.reports.statistics import Improvement, Interval

POINTS = 50  # of a learning curve over the longest run
MOST_STEPS = 4 * POINTS  # of evaluations or measures that are shown one by one; more are averaged in windows
FINAL_SHARE = 0.1  # of a run's curve that its final return is the mean of
Statistic = Callable[..., np.ndarray]
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # step, seed and value of each
SEED = 0  # of every bootstrap, so that a report made twice says the same


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
    final: Interval
    best: Interval  # mean over seeds of each seed's best evaluation


@dataclass(frozen=True)
class Result:
    """What one run says, alone and against the reference of its environment."""

    run: Run
    seeds: int  # with at least one finished episode, in training or in an evaluation: those that count
    curve: Interval  # IQM over seeds at each point of the task's grid
    final: Interval
    area: Interval
    relative: Interval | None  # area as a fraction of the reference's, or minus it: the task's unit says which
    improvement: Improvement | None
    compared_steps: int  # both runs had reached this step: areas are compared up to here
    measures: Mapping[str, Measured]
    evaluated: Evaluated | None
    seed_names: tuple[int, ...]
    seed_curves: np.ndarray  # [seeds, points] on the task's grid
    seed_areas: np.ndarray  # up to `compared_steps`

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


@dataclass(frozen=True)
class Overall:
    """A label against the reference over all environments."""

    label: str
    relative: Interval
    improvement: Improvement


@dataclass(frozen=True)
class Profile:
    """The share of all runs of a label whose area, in units of the reference's, is above each level."""

    levels: np.ndarray
    share: Interval | None  # None of too few runs
    scores: np.ndarray  # of all seeds and environments, sorted


@dataclass(frozen=True)
class Summary:
    comparison: Comparison
    tasks: tuple[Task, ...]
    overall: tuple[Overall, ...]  # only of several environments, for labels that ran in all of them
    profiles: Mapping[str, Profile]  # of those labels

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each label looks, which the order of the runs decides."""
        kinds: dict[str, str] = {}
        for run in self.comparison.runs:
            kinds.setdefault(run.label, run.target)
        return looks(kinds)

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
    overall = _overall(curves)
    return Summary(comparison, tasks, overall, _profiles(curves, [row.label for row in overall]))


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
        self.names: dict[str, tuple[int, ...]] = {}
        self.reached: dict[str, int] = {}
        for run in runs:
            curve = statistics.learning_curve(run, self.grid)
            self.curves[run.label] = _with_numbers(curve)
            self.names[run.label] = tuple(np.array(run.seeds)[np.isfinite(curve).any(axis=1)].tolist())
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

    def against_reference(self, label: str) -> tuple[np.ndarray, np.ndarray, int] | None:
        """The areas of a run and of the reference up to the step that both have reached, and that step."""
        if self.reference is None or label not in self.curves:
            return None
        until = min(self.reached[label], self.reached[self.reference])
        scores, reference = self.areas(label, until), self.areas(self.reference, until)
        scores, reference = scores[np.isfinite(scores)], reference[np.isfinite(reference)]
        return (scores, reference, until) if len(scores) and len(reference) else None

    def task(self, has_own_name: bool, ranked: bool) -> Task:
        pairs = {run.label: self.against_reference(run.label) for run in self.runs}
        ratios = {label: statistics.ratio([pair[0]], [pair[1]], rng=_rng()) for label, pair in pairs.items() if pair}
        unit = "none"
        if self.reference is not None:  # one unit for all runs of a task, so that they can be read against each other
            unit = "percent" if all(np.isfinite(one.value) for one in ratios.values()) else "difference"
        results = [self._result(run, pairs[run.label], ratios, unit) for run in self.runs]
        if ranked:
            results.sort(key=lambda result: np.nan_to_num(-result.area.value, nan=np.inf))
        name = self.runs[0].task
        title = self.name if has_own_name else name
        return Task(name, title, self.grid, self.start, tuple(results), self.reference, unit)

    def _result(self, run: Run, pair: tuple | None, ratios: dict[str, Interval], unit: str) -> Result:
        curve, until = self.curves[run.label], self.reached[run.label]
        relative = improvement = None
        if pair and run.label != self.reference:
            scores, reference, until = pair
            relative = ratios[run.label] if unit == "percent" else statistics.difference(scores, reference, rng=_rng())
            improvement = statistics.probability_of_improvement([scores], [reference])
        inside = np.flatnonzero(self.grid <= self.reached[run.label])
        tail = inside[-_final_count(len(inside)) :]
        evaluated = self._evaluated(run)
        final = _bootstrap(curve[:, tail].mean(axis=1) if len(tail) else np.empty(0))
        return Result(
            run=run,
            seeds=len(curve),
            curve=_bootstrap(curve),
            final=final if run.plays or evaluated is None else evaluated.final,
            area=_bootstrap(self.areas(run.label, self.reached[run.label])),
            relative=relative,
            improvement=improvement,
            compared_steps=until,
            measures={name: measured for name in run.measures if (measured := self._measured(run, name))},
            evaluated=evaluated,
            seed_names=self.names[run.label],
            seed_curves=curve,
            seed_areas=self.areas(run.label, until),
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
        curve, count = _with_numbers(curve), _final_count(len(steps))
        final = np.array([row[np.isfinite(row)][-count:].mean() for row in curve])
        best = np.nanmax(curve, axis=1)
        return Evaluated(*self._sparse_curve(run, rows), _bootstrap(final), _bootstrap(best, np.mean))

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
    rows = []
    for label in tasks[0].curves:
        pairs = [pair for task in tasks if (pair := task.against_reference(label))]
        if len(pairs) == len(tasks) and any(label != task.reference for task in tasks):
            scores, reference = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            relative = statistics.ratio(scores, reference, rng=_rng())
            improvement = statistics.probability_of_improvement(scores, reference)
            rows.append(Overall(label, relative, improvement))
    return tuple(rows)


def _profiles(tasks: list[_Curves], labels: list[str]) -> dict[str, Profile]:
    found = {}
    for label in labels:
        pairs = [pair for task in tasks if (pair := task.against_reference(label))]
        strata = [areas / statistics.iqm(reference) for areas, reference, _ in pairs]
        found[label] = np.sort(np.concatenate(strata)), strata
    top = max((scores[-1] for scores, _ in found.values()), default=1.0)
    levels = np.linspace(0, top, 101)

    def above(scores: np.ndarray, axis: int) -> np.ndarray:
        return (scores > levels).mean(axis)

    profiles = {}
    for label, (scores, strata) in found.items():
        rows = [row[:, None] for row in strata]
        share = statistics.stratified_bootstrap(rows, above, rng=_rng()) if len(scores) >= 25 else None
        profiles[label] = Profile(levels, share, scores)
    return profiles


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
    return statistics.stratified_bootstrap([scores], statistic, rng=_rng())


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)
