"""The formats of other people's data. A reader is one file here and one line of `READERS`."""

from sharedq.datasets.readers.arrays import Arrays
from sharedq.datasets.readers.d3rlpy import D3rlpy
from sharedq.datasets.readers.d4rl import D4RL
from sharedq.datasets.readers.dqn_replay import DQNReplay
from sharedq.datasets.readers.minari import Minari
from sharedq.datasets.readers.rlu import RLUnplugged

READERS: dict[str, type] = {
    "minari": Minari,
    "d4rl": D4RL,
    "dqn_replay": DQNReplay,
    "rlu": RLUnplugged,
    "d3rlpy": D3rlpy,
    "numpy": Arrays,
}

__all__ = ["READERS"]
