"""Weights & Biases hears what is logged too, online or offline. An optional extra."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sharedq.errors import missing_extra


@contextmanager
def mirrored(
    mode: str | None, name: str, experiment: dict[str, Any]
) -> Iterator[Callable[[int, dict[str, float]], None] | None]:
    """A function of (step, values); `mode` is online or offline, which writes to the folder `wandb/` only, or None.

    The run at Weights & Biases begins with the first values, so that a mistake found before leaves nothing there.
    """
    if mode is None:
        yield None
        return
    try:
        import wandb
    except ImportError:
        raise missing_extra("wandb", "wandb", "--wandb") from None
    run = None

    def reflect(step: int, values: dict[str, float]) -> None:
        nonlocal run
        run = run or wandb.init(project="sharedq", name=name, config=experiment, mode=mode)
        run.log(values, step=step)

    try:
        yield reflect
    finally:
        if run is not None:
            run.finish()
