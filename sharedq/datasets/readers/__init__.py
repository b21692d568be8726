"""The formats of other people's data. A reader is one file here and one line of `READERS`."""

from sharedq.datasets.readers.arrays import Arrays
from sharedq.datasets.readers.dqn_replay import DQNReplay
from sharedq.datasets.readers.rlu import RLUnplugged

READERS: dict[str, type] = {
    "dqn_replay": DQNReplay,
    "rlu": RLUnplugged,
    "numpy": Arrays,
}
