"""Value-based reinforcement learning on one network: a short face for people who write code.

    import sharedq

    experiment = sharedq.recipe("cartpole").replace(target="shared_heads", steps=20_000)
    sharedq.train(experiment, "runs/first")
    agent = sharedq.load("runs/first")

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Agent": "sharedq.agent",
    "Experiment": "sharedq.experiment",
    "LiveAgent": "sharedq.live",
    "SharedqError": "sharedq.errors",
    "load": "sharedq.agent",
    "recipe": "sharedq.recipes",
    "resume": "sharedq.trainer",
    "train": "sharedq.trainer",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sharedq' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
