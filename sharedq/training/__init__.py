"""Loops. To add one: a file with a frozen dataclass that has `build(...)` and gives a `Program`, and a line here."""

from sharedq.training.fused import Fused

TRAININGS = {"fused": Fused}

__all__ = ["TRAININGS", "Fused"]
