"""An episode of a data set, in the form in which every reader gives it and the store keeps it.

Shape letters: T steps of the episode.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class End(IntEnum):
    """How an episode ended. Only the last step of an episode can have one of the end flags."""

    UNKNOWN = 0  # the data do not tell a termination from a time limit
    TERMINATED = 1  # it ended in the environment: no value follows
    TRUNCATED = 2  # a time limit ended it, or the recording: the value of the last observation still counts


class Episode(NamedTuple):
    """Whole steps only: each has the observation that follows. Frames of a stack come one by one."""

    obs: np.ndarray  # [T+1, ...]
    action: np.ndarray  # [T] or [T, A], as the actions of environments/spec.py are
    reward: np.ndarray  # [T]
    end: End
    group: int = 0  # the part of the data that it belongs to, such as a checkpoint of the agent that acted
