"""Algorithms. To add one: a file with a frozen dataclass that has `build(source)`, and a line here."""

from sharedq.algorithms.algorithm import Algorithm, State
from sharedq.algorithms.dqn import DQN

ALGORITHMS = {"dqn": DQN}

__all__ = ["ALGORITHMS", "DQN", "Algorithm", "State"]
