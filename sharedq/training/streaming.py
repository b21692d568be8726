"""Learning from each step as it happens, without a replay, for environments on the device and on the host."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from sharedq.algorithms.algorithm import Algorithm
from sharedq.environments.contract import Environment, HostEnvironment
from sharedq.replay.replay import Replay
from sharedq.training.fused import Fused
from sharedq.training.interactive import Interactive
from sharedq.training.measuring import NOTHING, Measuring
from sharedq.training.program import Program
from sharedq.training.schedule import Collecting


@dataclass(frozen=True)
class Streaming(Collecting):
    """For algorithms that learn from one step at a time, without a replay: act, step, observe."""

    learns_from: ClassVar = "stream"

    environments: int = 1  # environments per seed, stepped in parallel

    @property
    def cycle(self) -> int:
        """Environment steps after which all environments have moved."""
        return self.environments

    def build(
        self,
        environment: Environment | HostEnvironment,
        algorithm: Algorithm,
        replay: Replay,
        seeds: list[int],
        measuring: Measuring = NOTHING,
    ) -> Program:
        settings = dataclasses.asdict(self) | {"warm_up": 0, "update_period": self.environments}
        if isinstance(environment, HostEnvironment):
            return Interactive(**settings).build(environment, algorithm, replay, seeds, measuring)
        return Fused(**settings).build(environment, algorithm, replay, seeds, measuring)
