"""No replay: for algorithms that learn from each step as it happens."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from sharedq.replay.replay import Storage
from sharedq.samplers.sampler import Index, SamplerSpec
from sharedq.transitions import Step, Transition


@dataclass(frozen=True)
class NoReplay:
    """No replay, for streaming algorithms."""

    learns_from: ClassVar = "stream"
    room: ClassVar = 0

    def build(self, step: Step, gamma: float, environments: int) -> Storage:
        def read(data: Any, index: Index) -> tuple[Transition, jax.Array]:
            raise TypeError("there is no replay to sample from")

        return Storage(SamplerSpec(0, environments, 1, 1), lambda: (), lambda data, written, steps: data, read)
