"""Sources of targets. To add one, write a file with a frozen dataclass that has `label` and `build`, and a line here.

When a user changes the source, the new source takes over the settings that both have. A source that does not want to
pass on all of them has `handed_on(names) -> names`.
"""

from sharedq.targets.adaptive import Adaptive
from sharedq.targets.averaged import Averaged
from sharedq.targets.eau_de import EauDe
from sharedq.targets.functional_regularisation import FunctionalRegularisation
from sharedq.targets.iterated_networks import IteratedNetworks
from sharedq.targets.lookahead_replicate import LookaheadReplicate
from sharedq.targets.maxmin import Maxmin
from sharedq.targets.minto import Minto
from sharedq.targets.online_network import OnlineNetwork
from sharedq.targets.poly_prune import PolyPrune
from sharedq.targets.redq import REDQ
from sharedq.targets.shared_heads import SharedHeads
from sharedq.targets.source import RefreshInfo, TargetSource, Values
from sharedq.targets.target_network import TargetNetwork

SOURCES = {
    "online_network": OnlineNetwork,
    "target_network": TargetNetwork,
    "shared_heads": SharedHeads,
    "iterated_networks": IteratedNetworks,
    "lookahead_replicate": LookaheadReplicate,
    "minto": Minto,
    "averaged": Averaged,
    "maxmin": Maxmin,
    "redq": REDQ,
    "functional_regularisation": FunctionalRegularisation,
    "adaptive": Adaptive,
    "eau_de": EauDe,
    "poly_prune": PolyPrune,
}

__all__ = [
    "REDQ",
    "SOURCES",
    "Adaptive",
    "Averaged",
    "EauDe",
    "FunctionalRegularisation",
    "IteratedNetworks",
    "LookaheadReplicate",
    "Maxmin",
    "Minto",
    "OnlineNetwork",
    "PolyPrune",
    "RefreshInfo",
    "SharedHeads",
    "TargetNetwork",
    "TargetSource",
    "Values",
]
