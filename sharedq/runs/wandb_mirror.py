"""Weights & Biases hears what is logged too, online or offline. An optional extra."""

from collections.abc import Callable
from typing import Any

from sharedq.errors import missing_extra


def open_mirror(mode: str, name: str, experiment: dict[str, Any]) -> Callable[[int, dict[str, float]], None]:
    """A function of (step, values); `mode` is online or offline, which writes to the folder `wandb/` only."""
    try:
        import wandb
    except ImportError:
        raise missing_extra("wandb", "wandb", "--wandb") from None
    run = wandb.init(project="sharedq", name=name, config=experiment, mode=mode)
    return lambda step, values: run.log(values, step=step)
