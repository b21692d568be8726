"""What arrays that come without a description of their spaces say about them: one rule for all readers.

Whole numbers [N] or [N, 1] are discrete actions 0 .. n-1, and n is the largest one plus 1 unless the user gives it.
Floats [N, A] are continuous actions from -1 to 1 if all of them lie there; others need the bounds from the user.
Observations stay as they are if they are uint8 or bool, and become float32 otherwise.

Arrays can be of any kind that has a shape and a dtype and gives rows as numpy arrays, so they may lie in a file.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from sharedq.datasets.rules import BEYOND
from sharedq.environments.spec import Actions, Continuous, Discrete
from sharedq.errors import SharedqError

ROWS = 2**16  # that are in memory at once
MOST = 2**31 - 1  # actions are numbers of 32 bits


def action_space(
    found: Any, where: str, actions: int | None = None, bounds: tuple[float, ...] | None = None
) -> tuple[Actions, tuple[str, ...]]:
    """The action space of an array of actions, and the notes about it; `where` names the array in an error.

    `actions` and `bounds` are what the user knows: the number of discrete actions, and low,high of all entries of a
    continuous one, or low,high of each entry in turn.
    """
    shape, kind = found.shape, np.dtype(found.dtype).kind
    if kind in "iu" and (len(shape) == 1 or shape[1:] == (1,)):
        return _discrete(found, where, actions, bounds)
    if kind == "f" and len(shape) == 2 and shape[1]:
        return _continuous(found, where, actions, bounds)
    raise SharedqError(
        f"{where} has the form {found.dtype}{list(shape)}: discrete actions are whole numbers [N], and continuous ones "
        "are floats [N, A]"
    )


def _discrete(
    found: Any, where: str, actions: int | None, bounds: tuple[float, ...] | None
) -> tuple[Actions, tuple[str, ...]]:
    if bounds is not None:
        raise SharedqError(f"{where} has whole numbers, which are discrete actions: leave out bounds")
    if actions is not None:
        if not 1 <= actions <= MOST:
            raise SharedqError(f"actions must be from 1 to {MOST:,}, not {actions}")
        return Discrete(actions), ()
    largest = max((int(rows.max()) for rows in _blocks(found)), default=0)
    if largest >= MOST:
        raise SharedqError(f"{where} has the action {largest}, which is no number of a discrete action")
    count = max(largest, 0) + 1  # a negative one is found when the episodes are read, which names its place
    return Discrete(count), (
        f"the source does not say how many actions there are: {count} is the largest action found plus 1",
    )


def _continuous(
    found: Any, where: str, actions: int | None, bounds: tuple[float, ...] | None
) -> tuple[Actions, tuple[str, ...]]:
    size = found.shape[1]
    if actions is not None:
        raise SharedqError(f"{where} has floats, which are continuous actions: leave out actions")
    if bounds is not None:
        if len(bounds) not in (2, 2 * size):
            raise SharedqError(
                f"bounds are low,high of all entries, or of each of the {size} entries of an action in turn: these are "
                f"{len(bounds)} numbers"
            )
        low, high = np.broadcast_to(np.reshape(np.asarray(bounds, np.float32), (-1, 2)), (size, 2)).T
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise SharedqError("bounds must be finite numbers, each low one below its high one")
        return Continuous(low.copy(), high.copy()), ()
    for number, rows in enumerate(_blocks(found)):
        wrong = (np.abs(rows) > 1 + BEYOND).any(axis=-1)  # one that is not a number is found when episodes are read
        if wrong.any():
            row = int(np.argmax(wrong))
            raise SharedqError(
                f"{where}, row {number * ROWS + row}: the action {rows[row].tolist()} lies outside -1 .. 1, and the "
                "source does not say its bounds: give bounds as low,high"
            )
    one = np.ones(size, np.float32)
    return Continuous(-one, one), ("the source does not say the bounds of the actions: all lie within -1 .. 1",)


def own_actions(space: Actions) -> Callable[[np.ndarray], np.ndarray]:
    """What turns the source's actions into ours. Those out of range stay so, for the check that names their place."""
    if isinstance(space, Discrete):
        return lambda found: np.clip(found.reshape(len(found)), -1, MOST).astype(np.int32)
    middle, half = ((space.high.astype(float) + sign * space.low) / 2 for sign in (1, -1))
    return lambda found: float32((found - middle) / half)


def observation_form(found: Any, where: str) -> jax.ShapeDtypeStruct:
    """The form of one observation of an array of them."""
    dtype = np.dtype(found.dtype)
    if len(found.shape) < 2 or dtype.kind not in "biuf":
        raise SharedqError(f"{where} has the form {dtype}{list(found.shape)}: observations are numbers [N, ...]")
    kept = dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
    return jax.ShapeDtypeStruct(found.shape[1:], dtype if kept else np.dtype(np.float32))


def own_observations(found: np.ndarray, form: jax.ShapeDtypeStruct) -> np.ndarray:
    """Observations in the dtype of their form."""
    return found if found.dtype == form.dtype else float32(found)


def float32(found: np.ndarray) -> np.ndarray:
    """The numbers as float32. One that is too large becomes infinite, for the check that names its place."""
    with np.errstate(over="ignore"):
        return np.asarray(found, np.float32)


def _blocks(found: Any) -> Iterator[np.ndarray]:
    return (np.asarray(found[begin : begin + ROWS]) for begin in range(0, found.shape[0], ROWS))
