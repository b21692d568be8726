"""How long a run trains, how often it learns and how often it writes that down: the settings that all loops share."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sharedq.settings import COUNTABLE, check_count, require

ENVIRONMENTS = 1_000_000  # ours, as are those that follow: of each seed
ROWS = 1_000_000  # of the log of each seed
STRETCH = 10_000_000  # environment steps from one row to the next: what happens between them is kept until then
UPDATES = 1_000_000  # made at once


@dataclass(frozen=True)
class Length:
    """What every training has, whether or not it makes updates from a replay."""

    on_host: ClassVar = False  # whether environments are stepped by the host in every case

    steps: int = 1_000_000  # environment steps of each seed, all its environments together
    environments: int = 8  # environments of each seed, stepped side by side
    reward_bound: float | None = None  # learn from rewards clipped to -bound .. bound; logs show them as they were
    log_period: int = 10_000  # environment steps between two rows of the log
    checkpoint_period: int = 100_000  # environment steps between two checkpoints

    def __post_init__(self):
        for name in ("steps", "log_period", "checkpoint_period"):
            check_count(f"training.{name}", getattr(self, name))
        check_count("training.environments", self.environments, most=ENVIRONMENTS)
        bound = self.reward_bound
        require(bound is None or bound > 0, f"training.reward_bound must be above 0 or none, not {bound}")

    @property
    def cycle(self) -> int:
        """Environment steps after which all environments have moved, and what is due has been learned."""
        raise NotImplementedError

    def check_length(self) -> None:
        """Refuses what its numbers make together, before anything is as large as they say."""
        last = self.steps + self.cycle
        require(last <= COUNTABLE, f"training.steps can be about {COUNTABLE:,} at most, not {self.steps:,}")
        cycles = -(-self.steps // self.cycle)
        stretch = min(max(self.log_period // self.cycle, 1), cycles) * self.cycle
        require(
            stretch <= STRETCH,
            f"from one row of the log to the next there would be {stretch:,} steps, {STRETCH:,} at most: lower "
            "training.log_period, training.environments or training.update_period",
        )
        rows = cycles * self.cycle // stretch
        require(
            rows <= ROWS,
            f"the log would have {rows:,} rows for each seed, {ROWS:,} at most: raise training.log_period",
        )


@dataclass(frozen=True)
class Schedule(Length):
    """One *cycle* is the smallest number of environment steps after which a whole number of updates is due."""

    learns_from: ClassVar = "replay"

    warm_up: int = 5_000  # environment steps before the first update
    update_period: int = 4  # environment steps from one update to the next
    gradient_steps: int = 1  # updates made there, one after another

    def __post_init__(self):
        super().__post_init__()
        check_count("training.warm_up", self.warm_up, least=0)
        for name in ("update_period", "gradient_steps"):
            check_count(f"training.{name}", getattr(self, name))

    def check_length(self) -> None:
        super().check_length()
        updates = self.updates_per_cycle * self.cycles(self.steps)
        require(
            updates <= COUNTABLE and self.updates_per_cycle <= UPDATES,
            f"there would be {updates:,} updates, {self.updates_per_cycle:,} of them at once; {COUNTABLE:,} and "
            f"{UPDATES:,} are allowed: lower training.gradient_steps or training.steps",
        )

    def remarks(self, steps: int) -> Iterator[str]:
        if self.warms_up(self.log_steps[-1]):
            yield (
                f"nothing will be learned: all {steps:,} steps are warm-up, which takes {self.warm_up:,}; "
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
    def updates_per_cycle(self) -> int:
        """Updates in one cycle."""
        return self.cycle // self.update_period * self.gradient_steps

    def step_of(self, update: Any) -> Any:
        """The environment steps at which updates, counted from the run's first as 1, are made."""
        return -(-update // self.gradient_steps) * self.update_period

    def cycles(self, steps: int) -> int:
        """The cycles that cover so many environment steps."""
        return -(-steps // self.cycle)

    @cached_property
    def log_steps(self) -> list[int]:
        """The environment steps at which to log, the end of the warm-up and of the training among them."""
        warm, end = self.cycles(self.warm_up), self.cycles(self.steps)
        room = self.cycles_between_logs
        return [c * self.cycle for c in sorted({*range(room, end, room), min(warm, end), end} - {0})]

    @property
    def cycles_between_logs(self) -> int:
        return min(max(self.log_period // self.cycle, 1), self.cycles(self.steps))

    def warms_up(self, stop: int) -> bool:
        """Whether the stretch that ends at `stop` still only steps_per_cycle."""
        return stop <= self.cycles(self.warm_up) * self.cycle
