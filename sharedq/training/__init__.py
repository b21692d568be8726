"""Loops. To add one: a file with a frozen dataclass that has `build(...)` and gives a `Program`, and a line here."""

from sharedq.training.fused import Fused
from sharedq.training.interactive import Interactive
from sharedq.training.streaming import Streaming

TRAININGS = {"fused": Fused, "interactive": Interactive, "streaming": Streaming}

__all__ = ["TRAININGS", "Fused", "Interactive", "Streaming"]
