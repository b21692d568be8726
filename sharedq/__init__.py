"""Value-based reinforcement learning on one network: a short face for people who write code.

    import sharedq

    run = sharedq.train("cartpole", "runs/first", target="shared_heads", steps=20_000)
    print(run.curves()["returns"])
    agent = sharedq.load(run)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Agent": "sharedq.agent",
    "Comparison": "sharedq.results",
    "Experiment": "sharedq.experiment",
    "LiveAgent": "sharedq.live",
    "Run": "sharedq.results",
    "SharedqError": "sharedq.errors",
    "collect": "sharedq.collecting",
    "compare": "sharedq.library",
    "convert": "sharedq.data_sources",
    "load": "sharedq.agent",
    "open_data": "sharedq.data_sources",
    "recipe": "sharedq.recipes",
    "resume": "sharedq.trainer",
    "train": "sharedq.library",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sharedq' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
