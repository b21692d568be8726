"""The readers, by the name of the format that each reads."""

from sharedq.datasets.readers.d3rlpy import D3rlpy
from sharedq.datasets.readers.d4rl import D4RL
from sharedq.datasets.readers.minari import Minari

READERS = {
    "minari": Minari,
    "d4rl": D4RL,
    "d3rlpy": D3rlpy,
}
