"""Algorithms. To add one, write a file with a frozen dataclass that has `gamma` and `build`, and a line here."""

from sharedq.algorithms.algorithm import Algorithm, learning_of
from sharedq.algorithms.dqn import DQN
from sharedq.algorithms.sac import SAC
from sharedq.algorithms.stream_q import StreamQ

ALGORITHMS = {"dqn": DQN, "sac": SAC, "stream_q": StreamQ}

__all__ = ["ALGORITHMS", "DQN", "SAC", "Algorithm", "StreamQ", "learning_of"]
