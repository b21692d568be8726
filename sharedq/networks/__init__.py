"""Networks, split into trunk and heads. To add one, write a frozen dataclass with `build(outputs)`; extend NETWORKS."""

from sharedq.networks.flash_sac import FlashSAC
from sharedq.networks.gpt2 import GPT2
from sharedq.networks.impala import Impala
from sharedq.networks.network import Network, of_flax
from sharedq.networks.simba import SimbaV2
from sharedq.networks.trunks import Convolutional, Dense, FlaxTrunk, Table
from sharedq.networks.xqc import XQC

NETWORKS = {
    "table": Table,
    "dense": Dense,
    "convolutional": Convolutional,
    "impala": Impala,
    "simba": SimbaV2,
    "xqc": XQC,
    "flash_sac": FlashSAC,
    "gpt2": GPT2,
    "flax": FlaxTrunk,
}

__all__ = [
    "GPT2",
    "NETWORKS",
    "XQC",
    "Convolutional",
    "Dense",
    "FlashSAC",
    "FlaxTrunk",
    "Impala",
    "Network",
    "SimbaV2",
    "Table",
    "of_flax",
]
