"""Algorithms. To add one, write a file with a frozen dataclass that has `gamma` and `build`, and a line here."""

from sharedq.algorithms.algorithm import Algorithm, learning_of
from sharedq.algorithms.bc import BC
from sharedq.algorithms.cql import CQL, CQLSAC
from sharedq.algorithms.dqn import DQN
from sharedq.algorithms.ilql import ILQL
from sharedq.algorithms.iql import IQL
from sharedq.algorithms.pqn import PQN
from sharedq.algorithms.sac import SAC
from sharedq.algorithms.stream_q import StreamQ
from sharedq.algorithms.stream_qrc import StreamQRC

ALGORITHMS = {
    "dqn": DQN,
    "pqn": PQN,
    "sac": SAC,
    "stream_q": StreamQ,
    "stream_qrc": StreamQRC,
    "cql": CQL,
    "cql_sac": CQLSAC,
    "iql": IQL,
    "ilql": ILQL,
    "bc": BC,
}

__all__ = [
    "ALGORITHMS",
    "BC",
    "CQL",
    "CQLSAC",
    "DQN",
    "ILQL",
    "IQL",
    "PQN",
    "SAC",
    "Algorithm",
    "StreamQ",
    "StreamQRC",
    "learning_of",
]
