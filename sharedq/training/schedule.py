"""The settings that all training loops share: how long a run trains, how often it updates and how often it logs."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sharedq.environments.spec import EnvironmentSpec
from sharedq.settings import COUNTABLE, check_count, chosen, require
from sharedq.tables import needs_import

ENVIRONMENTS = 1_000_000  # per seed; this limit and the next three are ours
ROWS = 1_000_000  # of the log, per seed
STRETCH = 10_000_000  # environment steps between two rows of the log; the episodes between them are kept in memory
UPDATES = 1_000_000  # per cycle
EPISODES = 10_000  # of one evaluation, per seed


@dataclass(frozen=True)
class Length:
    """The settings of every training loop."""

    on_host: ClassVar = False  # whether the host steps the environments in every case
    lengthens_a_row: ClassVar = "training.log_period"  # what puts more steps between two rows of the log

    steps: int = 1_000_000  # environment steps per seed, summed over its environments
    reward_bound: float | None = None  # learn from rewards clipped to -bound .. bound; logs have the unclipped rewards
    log_period: int = 10_000  # environment steps between two rows of the log
    checkpoint_period: int = 100_000  # environment steps between two checkpoints
    evaluation_period: int | None = None  # environment steps between two evaluations, and the most between two log rows
    evaluation_episodes: int = 10  # episodes that each seed plays in one evaluation
    measures: tuple[str, ...] = ()  # what to measure of learning, for example gradient_alignment,target_churn,rank
    measure_period: int = 97  # updates between two that the measures look at; a prime meets no rhythm of refreshes

    def __post_init__(self):
        for name in ("steps", "log_period", "checkpoint_period", "measure_period"):
            check_count(f"training.{name}", getattr(self, name))
        check_count("training.evaluation_episodes", self.evaluation_episodes, most=EPISODES)
        bound = self.reward_bound
        require(bound is None or bound > 0, f"training.reward_bound must be above 0 or none, not {bound}")

    def imports(self) -> list[str]:
        """The import strings of measures that are not ours."""
        return [kind for kind in (chosen(text).kind for text in self.measures) if needs_import(kind)]

    @property
    def cycle(self) -> int:
        """Environment steps of one cycle: every environment steps, and all updates that are due are made."""
        raise NotImplementedError

    @property
    def updates(self) -> int:
        """The number of the last update."""
        return self.steps

    def check_length(self) -> None:
        """Refuses combinations of numbers that are too large, before anything of that size is allocated."""
        last = self.steps + self.cycle
        require(last <= COUNTABLE, f"training.steps can be about {COUNTABLE:,} at most, not {self.steps:,}")
        self._check_evaluation()
        stretch = self.cycles_between_logs * self.cycle
        require(
            stretch <= STRETCH,
            f"there would be {stretch:,} steps between two rows of the log, and {STRETCH:,} are allowed: lower "
            f"{self.lengthens_a_row}",
        )
        rows = self.cycles(self.steps) * self.cycle // stretch
        shorter = "log" if self.log_period <= (self.evaluation_period or self.log_period) else "evaluation"
        advice = f"raise training.{shorter}_period"
        require(
            rows <= ROWS,
            f"the log would have {rows:,} rows for each seed, and {ROWS:,} are allowed: {advice}",
        )

    def _check_evaluation(self) -> None:
        period, least = self.evaluation_period, min(self.cycle, self.steps)
        if period is None:
            return
        told = f"training.evaluation_period must be none or from {least:,} to {self.steps:,}, not {period:,}"
        require(period >= least, f"{told}: raise it to at least {least:,}, the steps between two times of learning")
        require(period <= self.steps, f"{told}: lower it, or raise --steps, which is {self.steps:,}")

    def cycles(self, steps: int) -> int:
        """The number of cycles that cover this many environment steps."""
        return -(-steps // self.cycle)

    @cached_property
    def log_steps(self) -> list[int]:
        """The steps at which to log; the end of the training is among them."""
        end, room = self.cycles(self.steps), self.cycles_between_logs
        return [c * self.cycle for c in sorted({*range(room, end, room), *self._also_logged, end} - {0})]

    @property
    def _also_logged(self) -> list[int]:
        """Further cycles after which to log."""
        return []

    @cached_property
    def evaluation_steps(self) -> list[int]:
        """The log steps at which to evaluate: the first at or after each multiple of the period, and the last."""
        period = self.evaluation_period
        if period is None:
            return []
        stretches = itertools.pairwise([0, *self.log_steps])
        due = [stop for start, stop in stretches if stop // period > start // period]
        return sorted({*due, self.log_steps[-1]})

    @property
    def cycles_between_logs(self) -> int:
        """The most cycles between two rows of the log. An evaluation is made at a row, so its period counts too."""
        period, end = self.evaluation_period, self.cycles(self.steps)
        most = end if period is None else min(self.cycles(period), end)
        return min(max(self.log_period // self.cycle, 1), most)


@dataclass(frozen=True)
class Collecting(Length):
    """The settings of loops that step environments."""

    lengthens_a_row: ClassVar = "training.log_period, training.environments or training.update_period"

    environments: int = 8  # environments per seed, stepped in parallel
    keep_replay: bool = False  # also save the replay and the environments at the end, for resume --steps

    def __post_init__(self):
        super().__post_init__()
        check_count("training.environments", self.environments, most=ENVIRONMENTS)


@dataclass(frozen=True)
class Schedule(Collecting):
    """Settings of loops with a replay. A *cycle* is the smallest number of steps after which whole updates are due."""

    learns_from: ClassVar = "replay"

    warm_up: int = 5_000  # environment steps before the first update
    update_period: int = 4  # environment steps between two updates
    gradient_steps: int = 1  # gradient steps at each of these updates, one after another

    def __post_init__(self):
        super().__post_init__()
        check_count("training.warm_up", self.warm_up, least=0)
        for name in ("update_period", "gradient_steps"):
            check_count(f"training.{name}", getattr(self, name))

    def check_length(self) -> None:
        super().check_length()
        updates = self.updates
        require(
            updates <= COUNTABLE and self.updates_per_cycle <= UPDATES,
            f"there would be {updates:,} updates, {self.updates_per_cycle:,} in each cycle; {COUNTABLE:,} and "
            f"{UPDATES:,} are allowed: lower training.gradient_steps or training.steps",
        )

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        if self.warms_up(self.log_steps[-1]):
            yield (
                f"nothing will be learned: the warm-up takes {self.warm_up:,} steps, and the run has {self.steps:,}; "
                "raise --steps or lower --training.warm_up"
            )

    @property
    def cycle(self) -> int:
        """Environment steps in one cycle."""
        return math.lcm(self.environments, self.update_period)

    @property
    def steps_per_cycle(self) -> int:
        """Steps of each environment in one cycle."""
        return self.cycle // self.environments

    @property
    def updates(self) -> int:
        return self.updates_per_cycle * self.cycles(self.steps)  # the numbers of those in the warm-up are left out

    @property
    def updates_per_cycle(self) -> int:
        """Updates in one cycle."""
        return self.cycle // self.update_period * self.gradient_steps

    def measured_updates(self, start: int, stop: int) -> int:
        """How many of the updates between two environment steps are measured."""
        first, last = (step // self.cycle * self.updates_per_cycle for step in (start, stop))
        return last // self.measure_period - first // self.measure_period

    def step_of(self, update: Any) -> Any:
        """The environment steps at which updates are made. The first update of the run has number 1."""
        return -(-update // self.gradient_steps) * self.update_period

    @property
    def _also_logged(self) -> list[int]:
        """The end of the warm-up."""
        return [min(self.cycles(self.warm_up), self.cycles(self.steps))]

    def warms_up(self, stop: int) -> bool:
        """Whether the chunk that ends at `stop` only collects steps, and makes no updates yet."""
        return stop <= self.cycles(self.warm_up) * self.cycle
