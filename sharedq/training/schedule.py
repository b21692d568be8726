"""How long a run trains, how often it learns and how often it writes that down: the settings that all loops share."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sharedq.settings import require


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
        for name in ("steps", "environments", "log_period", "checkpoint_period"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1, not {getattr(self, name)}")
        bound = self.reward_bound
        require(bound is None or bound > 0, f"training.reward_bound must be above 0 or none, not {bound}")


@dataclass(frozen=True)
class Schedule(Length):
    """One *cycle* is the smallest number of environment steps after which a whole number of updates is due."""

    learns_from: ClassVar = "replay"

    warm_up: int = 5_000  # environment steps before the first update
    update_period: int = 4  # environment steps from one update to the next
    updates_at_once: int = 1  # updates made there, one after another

    def __post_init__(self):
        super().__post_init__()
        require(self.warm_up >= 0, f"training.warm_up cannot be negative: {self.warm_up}")
        for name in ("update_period", "updates_at_once"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1, not {getattr(self, name)}")

    def remarks(self, steps: int) -> Iterator[str]:
        if self.warms_up(self.stops[-1]):
            yield (
                f"nothing will be learned: all {steps:,} steps are warm-up, which takes {self.warm_up:,}; "
                "raise --steps or lower --training.warm_up"
            )

    @property
    def cycle(self) -> int:
        """Environment steps in one cycle."""
        return math.lcm(self.environments, self.update_period)

    @property
    def collects(self) -> int:
        """Steps of each environment in one cycle."""
        return self.cycle // self.environments

    @property
    def updates(self) -> int:
        """Updates in one cycle."""
        return self.cycle // self.update_period * self.updates_at_once

    def step_of(self, update: Any) -> Any:
        """The environment steps at which updates, counted from the run's first as 1, are made."""
        return -(-update // self.updates_at_once) * self.update_period

    def cycles(self, steps: int) -> int:
        """The cycles that cover so many environment steps."""
        return -(-steps // self.cycle)

    @cached_property
    def stops(self) -> list[int]:
        """The environment steps at which to log, the end of the warm-up and of the training among them."""
        warm, end = self.cycles(self.warm_up), self.cycles(self.steps)
        room = self.cycles_between_logs
        return [c * self.cycle for c in sorted({*range(room, end, room), min(warm, end), end} - {0})]

    @property
    def cycles_between_logs(self) -> int:
        return min(max(self.log_period // self.cycle, 1), self.cycles(self.steps))

    def warms_up(self, stop: int) -> bool:
        """Whether the stretch that ends at `stop` still only collects."""
        return stop <= self.cycles(self.warm_up) * self.cycle
