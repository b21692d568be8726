"""Algorithms. To add one: a file with a frozen dataclass that has `gamma` and `build`, and a line here."""

from sharedq.algorithms.algorithm import Algorithm, learning_of
from sharedq.algorithms.dqn import DQN

ALGORITHMS = {"dqn": DQN}

__all__ = ["ALGORITHMS", "DQN", "Algorithm", "learning_of"]
