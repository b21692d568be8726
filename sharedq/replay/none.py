"""No replay: for algorithms that learn from each step as it happens."""

from dataclasses import dataclass
from typing import ClassVar

from sharedq.replay.replay import Replay
from sharedq.transitions import Batch, Step


@dataclass(frozen=True)
class NoReplay:
    """No replay, for streaming algorithms."""

    learns_from: ClassVar = "stream"
    room: ClassVar = 0

    def build(self, step: Step, gamma: float, environments: int) -> Replay:
        def sample(data, written, key) -> Batch:
            raise TypeError("there is no replay to sample from")

        return Replay(1, lambda: (), lambda data, written, steps: data, sample, lambda data, ids, errors: data)
