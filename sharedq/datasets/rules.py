"""The rules that every episode keeps, whoever wrote it. They are asked when data are converted and by `validate`."""

from typing import Any

import numpy as np

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.environments.spec import Discrete, Tokens
from sharedq.errors import SharedqError

BEYOND = 1e-5  # how far a continuous action may lie outside -1 .. 1: more than rounding puts it there


def check_episode(episode: Episode, description: Description, where: str) -> None:
    """Raises if an episode breaks a rule. `where` names its file and its number."""
    steps = len(episode.reward)
    if steps < 1:
        raise SharedqError(f"{where} has no steps: remove it")
    for what, found, wanted in (
        ("observations", len(episode.obs), steps + 1),
        ("actions", len(episode.action), steps),
    ):
        if found != wanted:
            raise SharedqError(
                f"{where} has {found:,} {what} and {steps:,} rewards, and should have {wanted:,}: its arrays do not "
                "belong together"
            )
    if episode.end not in tuple(End):
        raise SharedqError(f"{where} ends in an unknown way: {episode.end}")
    shape, dtype = description.stored
    _check_array("observations", episode.obs, (steps + 1, *shape), dtype, where)
    one = description.spec.actions.one
    _check_array("actions", episode.action, (steps, *one.shape), one.dtype, where)
    _check_array("rewards", episode.reward, (steps,), np.float32, where)
    _check_actions(episode.action, description, where)


def _check_array(what: str, found: np.ndarray, shape: tuple[int, ...], dtype: Any, where: str) -> None:
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise SharedqError(
            f"{where} has {what} of {found.dtype}{list(found.shape[1:])}, and {np.dtype(dtype)}{list(shape[1:])} were "
            "declared"
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        step = int(np.argwhere(~np.isfinite(found))[0][0])
        raise SharedqError(f"{where}, step {step}: one of the {what} is not a finite number")


def _check_actions(action: np.ndarray, description: Description, where: str) -> None:
    wrong, span = _outside(action, description)
    if wrong.any():
        step = int(np.argwhere(wrong)[0][0])
        raise SharedqError(f"{where}, step {step}: the action {action[step].tolist()} lies outside {span}")


def _outside(action: np.ndarray, description: Description) -> tuple[np.ndarray, str]:
    """Which numbers lie outside the action space, and what that is."""
    actions = description.spec.actions
    if isinstance(actions, Discrete):
        return (action < 0) | (action >= actions.n), f"0 .. {actions.n - 1}"
    if isinstance(actions, Tokens):
        return (action < 0) | (action >= actions.vocabulary), f"the tokens 0 .. {actions.vocabulary - 1}"
    return ~(np.abs(action) <= 1 + BEYOND), "the bounds of the action space"


def first_wrong(what: str, values: np.ndarray, description: Description) -> tuple[int, str] | None:
    """The place of the first number [N] of observations, actions or rewards that breaks a rule, and the rule."""
    if what == "actions":
        wrong, span = _outside(values, description)
        rule = f"an action has the number {{}}, outside {span}"
    elif values.dtype.kind == "f":
        wrong, rule = ~np.isfinite(values), f"one of the {what} is {{}}, not a finite number"
    else:
        return None
    place = int(np.argmax(wrong))
    return (place, rule.format(values[place])) if wrong.any() else None
