"""Weights & Biases hears what is logged too, online or offline. An optional extra."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sharedq.errors import SharedqError, missing_extra, told


@contextmanager
def mirrored(
    mode: Literal["online", "offline"] | None, name: str, experiment: dict[str, Any]
) -> Iterator[Callable[[int, dict[str, float]], None] | None]:
    """A function of (step, values), or None if no mode is asked for; offline writes to the folder `wandb/` only.

    The run at Weights & Biases begins with the first values, so that a mistake found before leaves nothing there.
    """
    if mode is None:
        yield None
        return
    try:
        import wandb
    except ImportError:
        raise missing_extra("wandb", "wandb", "--wandb") from None
    if mode == "online":
        with _its_errors("use --wandb offline, or log in first:  wandb login"):
            wandb.login()
    run = None

    def reflect(step: int, values: dict[str, float]) -> None:
        nonlocal run
        with _its_errors("go on with 'sharedq resume' and without --wandb, or with --wandb offline"):
            run = run or wandb.init(project="sharedq", name=name, config=experiment, mode=mode)
            run.log(values, step=step)

    try:
        yield reflect
    finally:
        if run is not None:
            run.finish()


@contextmanager
def _its_errors(instead: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is: the code and the service are not ours
        raise SharedqError(f"Weights & Biases: {told(error)}; {instead}") from error
