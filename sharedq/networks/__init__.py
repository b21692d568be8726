"""Networks, cut where heads are added. To add one: a frozen dataclass with `build(outputs)`, and a line in NETWORKS."""

from sharedq.networks.network import Network, of_flax
from sharedq.networks.trunks import NETWORKS, Convolutional, Dense, FlaxTrunk, Table

__all__ = ["NETWORKS", "Convolutional", "Dense", "FlaxTrunk", "Network", "Table", "of_flax"]
