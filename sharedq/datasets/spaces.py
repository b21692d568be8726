"""Actions and observations of other people's data in our form, and the spaces of data that declare none."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from sharedq.datasets.rules import BEYOND
from sharedq.environments.gymnasium_spaces import ENUMERATED, looks_channels_first
from sharedq.environments.spec import Actions, Continuous, Discrete
from sharedq.errors import SharedqError
from sharedq.settings import check_count, require

Channels = Literal["last", "first"] | None
Bounds = tuple[float, ...] | None
DISCRETE = "all actions are whole numbers: add --actions N if they are discrete"


@dataclass(frozen=True)
class Undeclared:
    """The fields of a reader whose source declares no spaces."""

    path: str  # the file or folder
    environment: str | None = None  # the environment's name; only the folders of Atari data tell it by themselves
    actions: int | None = None  # how many discrete actions there are; none counts up to the largest that is found
    bounds: Bounds = None  # low,high of continuous actions, or of each entry in turn; none is -1,1
    channels: Channels = None  # which axis of an image holds its colours: last or first


class FoundActions(NamedTuple):
    """What the actions of data are, with what was concluded from the data."""

    actions: Actions
    notes: tuple[str, ...]


class FoundObservations(NamedTuple):
    """The form of observations, and what turns an array [N, ...] of the data into observations [N, *form]."""

    form: jax.ShapeDtypeStruct
    read: Callable[[np.ndarray], np.ndarray]


def in_our_form(actions: Actions, own: np.ndarray, where: str) -> np.ndarray:
    """Actions [T, ...] in the environment's own units as the store keeps them: the inverse of `in_units`."""
    if isinstance(actions, Discrete):
        own = own[:, 0] if own.ndim == 2 and own.shape[1] == 1 and not actions.sizes else own
        starts = np.array(actions.starts or actions.first)
        sizes = np.array(actions.sizes or actions.n)
        if own.shape[1:] != starts.shape or not _whole(own):
            raise SharedqError(
                f"{where} has actions of {own.dtype}{list(own.shape[1:])}, and whole numbers {list(starts.shape)} were "
                "declared"
            )
        entries = own.astype(np.int64) - starts
        _refuse((entries < 0) | (entries >= sizes), own, f"{starts.tolist()} .. {(starts + sizes - 1).tolist()}", where)
        if actions.sizes:
            entries = np.ravel_multi_index(tuple(entries.T), actions.sizes)
        return entries.astype(np.int32)
    assert isinstance(actions, Continuous)  # no source of other people's data has texts
    low, high = np.asarray(actions.low, np.float64), np.asarray(actions.high, np.float64)
    own = own[:, None] if own.ndim == 1 and low.shape == (1,) else own
    if own.shape[1:] != low.shape or own.dtype.kind not in "fiu":
        raise SharedqError(
            f"{where} has actions of {own.dtype}{list(own.shape[1:])}, and vectors of numbers {list(low.shape)} were "
            "declared"
        )
    half = (high - low) / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ours = np.where(half > 0, (own - (low + high) / 2) / half, np.where(own == low, 0, own - low))
        _refuse(np.abs(ours) > 1 + BEYOND, own, f"{low.tolist()} .. {high.tolist()}", where)
        return ours.astype(np.float32)


def _refuse(wrong: np.ndarray, own: np.ndarray, span: str, where: str) -> None:
    if wrong.any():
        step = int(np.argwhere(wrong)[0][0])
        raise SharedqError(f"{where}, step {step}: the action {own[step].tolist()} lies outside {span}")


def _whole(own: np.ndarray) -> bool:
    return own.dtype.kind in "iub" or bool(own.dtype.kind == "f" and (np.isfinite(own) & (own == np.floor(own))).all())


def check_bounds(source: str, actions: Actions) -> None:
    """Raises if actions have no bounds, because they could not be brought to -1 .. 1."""
    if isinstance(actions, Continuous) and not np.isfinite([actions.low, actions.high]).all():
        raise SharedqError(
            f"the action space of {source} has no finite bounds, so that its actions cannot be brought to -1 .. 1: "
            "write the data again with the bounds that the environment has"
        )


def find_actions(source: str, parts: Iterable[np.ndarray], count: int | None, bounds: Bounds) -> FoundActions:
    """The actions of data that declare none, from all of them, part after part [N, ...].

    `count` and `bounds` are what the user said: the number of discrete actions, and low,high of continuous ones, of all
    entries or of each in turn. Whole numbers are discrete actions from 0 on, and floats are continuous ones.
    """
    if count is not None:
        check_count("actions", count, 1, ENUMERATED)
    dtype, shape = None, ()
    least, most, whole = math.inf, -math.inf, True
    for part in parts:
        if dtype is None:
            dtype, shape = part.dtype, part.shape[1:]
        require(part.dtype.kind in "fiub", f"{source} has actions of {part.dtype}, which are not numbers")
        part = part[np.isfinite(part)] if part.dtype.kind == "f" else part  # what is not finite is named in its episode
        if part.size:
            least, most = min(least, part.min().item()), max(most, part.max().item())
            whole = whole and _whole(part)
    if dtype is None or 0 in shape:
        raise SharedqError(f"{source} holds no actions")
    if dtype.kind in "iub" or count is not None:
        require(bounds is None, f"{source} has discrete actions, which have no bounds: leave --bounds out")
        require(
            shape in ((), (1,)),
            f"{source} has discrete actions of {dtype}{list(shape)}, and does not say how many values each number has: "
            "number them as one discrete action",
        )
        return FoundActions(Discrete(count), ()) if count is not None else _counted(source, most)
    require(
        len(shape) < 2,
        f"{source} has actions of {dtype}{list(shape)}, and continuous ones are vectors: flatten each",
    )
    maybe_discrete = whole and 0 <= least < math.inf and shape in ((), (1,)) and bounds is None
    return _bounded(source, math.prod(shape), least, most, bounds, DISCRETE if maybe_discrete else "")


def _counted(source: str, most: float) -> FoundActions:
    largest = max(0, int(most)) if math.isfinite(most) else 0  # an action below 0 is named in its episode
    if largest >= ENUMERATED:
        raise SharedqError(
            f"{source} has the discrete action {largest:,}, and they go from 0 to {ENUMERATED - 1} at most: "
            "number them from 0 on"
        )
    note = (
        f"there are taken to be {largest + 1} actions, because {largest} is the largest: --actions says how many there "
        "are"
    )
    return FoundActions(Discrete(largest + 1), (note,))


def _bounded(source: str, size: int, least: float, most: float, bounds: Bounds, note: str = "") -> FoundActions:
    if bounds is None:
        if max(-least, most) > 1 + BEYOND:
            raise SharedqError(
                f"{source} does not say the bounds of its actions, which reach from {least:g} to {most:g}: say them, "
                f"as in --bounds -2 2{f'; {note}' if note else ''}"
            )
        one = np.ones(size, np.float32)
        taken = "the bounds of the actions are taken to be -1 and 1"
        return FoundActions(Continuous(-one, one), (taken, note) if note else (taken,))
    require(
        len(bounds) in (2, 2 * size),
        f"--bounds takes low and high of all entries of an action, or of each of the {size} in turn, and not "
        f"{len(bounds)} numbers",
    )
    low, high = np.broadcast_to(np.reshape(np.asarray(bounds, np.float32), (-1, 2)), (size, 2)).T
    require(
        bool(np.isfinite([low, high]).all() and (low < high).all()),
        "--bounds takes finite numbers, each low one below its high one",
    )
    return FoundActions(Continuous(low.copy(), high.copy()), ())


def find_observations(source: str, shape: tuple[int, ...], dtype: Any, channels: Channels) -> FoundObservations:
    """The form of observations that an array [N, *shape] holds."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiub" or 0 in shape:
        raise SharedqError(f"{source} has observations of {dtype}{list(shape)}, and numbers are needed")
    kept = dtype if dtype in (np.uint8, np.bool_) else np.dtype(np.float32)
    turned = turns_channels(source, shape, channels)
    shape = shape or (1,)

    def read(rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # the rules find what is infinite
            rows = rows.reshape(len(rows), *shape).astype(kept, copy=False)
        return np.moveaxis(rows, 1, -1) if turned else rows

    return FoundObservations(jax.ShapeDtypeStruct((*shape[1:], shape[0]) if turned else shape, kept), read)


def turns_channels(source: str, shape: tuple[int, ...], channels: Channels) -> bool:
    """Whether the first axis of images becomes the last. Raises if the user has to say."""
    image = len(shape) == 3
    if channels == "first":
        require(
            image, f"--channels first needs images of three axes, and the observations of {source} are {list(shape)}"
        )
        return True
    if image and channels is None and looks_channels_first(shape):
        raise SharedqError(
            f"the observations of {source} have the shape {list(shape)}, which looks like [channels, height, width], "
            "and networks read [height, width, channels]: say --channels first, or --channels last if it is not so"
        )
    return False
