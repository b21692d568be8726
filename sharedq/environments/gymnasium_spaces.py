"""The spaces of Gymnasium: how observations become arrays of ours, and how our actions become those of a space.

Gymnasium is imported inside the functions, because it is optional.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from sharedq.environments.spec import Actions, Continuous, Discrete
from sharedq.errors import SharedqError
from sharedq.imports import BrokenContract
from sharedq.settings import require

ENUMERATED = 1_000  # ours: a network has an output for each action, and few learn well with more
COLOURS = 4  # an image has at most red, green, blue and transparency

Channels = Literal["last", "first"] | None
Read = Callable[[Any], np.ndarray]


class Unfit(SharedqError):
    """A space has no form of ours. `what` says which, for those who do not have it from an environment."""

    def __init__(self, name: str, what: str, remedy: str):
        super().__init__(f"environment '{name}' has {what}: wrap it in gymnasium.wrappers.{remedy}")
        self.what = what


class Observations(NamedTuple):
    """The shape and dtype of observations, and what turns one of the environment into a new array of this form."""

    form: jax.ShapeDtypeStruct
    read: Read
    remark: str = ""  # what becomes of them, if that may not be expected


def observations(name: str, space: Any, channels: Channels = None, stacked: bool = False) -> Observations:
    """How the observations of a space are read. `stacked` says that the last axis of an image is time."""
    from gymnasium import spaces

    form, read = _reader(name, space)
    image = isinstance(space, spaces.Box) and len(form.shape) == 3
    if channels == "first":
        require(
            image,
            f"environment.channels first needs images of three axes, and those of '{name}' are of another form, a "
            f"{type(space).__name__} {list(space.shape or ())}: set it to none",
        )
        turned = jax.ShapeDtypeStruct((*form.shape[1:], form.shape[0]), form.dtype)
        return Observations(turned, lambda obs: np.moveaxis(read(obs), 0, -1))
    if image and channels is None and not stacked and looks_channels_first(form.shape):
        raise SharedqError(
            f"the observations of '{name}' have the shape {list(form.shape)}, which looks like [channels, height, "
            "width], and networks read [height, width, channels]: add --environment.channels first, or last if it is "
            "not so"
        )
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return Observations(form, read)
    flattened = (
        f"the observations of '{name}', a {type(space).__name__}, are flattened into one vector of "
        f"{form.shape[0]:,} numbers, as gymnasium.spaces.utils.flatten does"
    )
    as_they_are = "; bytes among them keep their values of 0 to 255" if _has_bytes(space) else ""
    return Observations(form, read, flattened + as_they_are)


def looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the first axis is the smallest, and the last is larger than the number of colours."""
    return shape[0] < min(shape[1:]) and shape[2] > COLOURS


def _has_bytes(space: Any) -> bool:
    return any(map(_has_bytes, _inside(space).values())) or space.dtype == np.uint8


def _inside(space: Any) -> dict[Any, Any]:
    """The spaces inside a Dict or a Tuple, by their keys."""
    inside = getattr(space, "spaces", ())
    return dict(inside.items() if isinstance(inside, Mapping) else enumerate(inside))


def _reader(name: str, space: Any, path: str = "") -> tuple[jax.ShapeDtypeStruct, Read]:
    """The form and the reader of a space; `path` leads to it from the space of the whole observation."""
    from gymnasium import spaces

    what = f"observation{path}" if path else "an observation"
    if isinstance(space, spaces.Box):
        return _array_reader(space, what)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _number_reader(space, what)
    if isinstance(space, (spaces.Dict, spaces.Tuple)) and len(space.spaces):
        return _parts_reader(
            {key: _reader(name, one, f"{path}[{key!r}]") for key, one in _inside(space).items()}, space, what
        )
    at = f" at {path}" if path else ""
    raise Unfit(
        name,
        f"observations of {type(space).__name__}{at}, which have no fixed size as an array",
        "TransformObservation with a function that returns a Box",
    )


def _array_reader(space: Any, what: str) -> tuple[jax.ShapeDtypeStruct, Read]:
    form, declared = space.shape, np.dtype(space.dtype)
    dtype = declared if declared in (np.uint8, np.bool_) else np.dtype(np.float32)

    def read(obs: Any) -> np.ndarray:
        found = np.asarray(obs)
        if found.shape != form or found.dtype.kind != declared.kind:
            raise _other(what, _form(found), f"{declared}{list(form)}")
        return found.astype(dtype)  # also a copy: some environments reuse the array that they returned

    return jax.ShapeDtypeStruct(form, dtype), read


def _number_reader(space: Any, what: str) -> tuple[jax.ShapeDtypeStruct, Read]:
    """Whole numbers become one-hot vectors, one after another, and a MultiBinary becomes a vector of 0 and 1."""
    from gymnasium import spaces

    sizes, first = _numbered(space)
    one_hot = not isinstance(space, spaces.MultiBinary)
    begins = np.cumsum(sizes) - sizes
    count = int(sizes.sum()) if one_hot else len(sizes)
    kind = f"whole numbers {list(space.shape)}" if space.shape else "a whole number"
    wanted = f"{kind} from {first.min()} to {(first + sizes - 1).max()}"

    def read(obs: Any) -> np.ndarray:
        found = np.asarray(obs)
        if found.shape != space.shape or found.dtype.kind not in ("iu" if one_hot else "iub"):
            raise _other(what, _form(found), wanted)
        numbers = found.astype(int).ravel() - first
        if not ((numbers >= 0) & (numbers < sizes)).all():
            raise _other(what, str(found.tolist()), wanted)
        if not one_hot:
            return numbers.astype(np.float32)
        places = np.zeros(count, np.float32)
        places[begins + numbers] = 1
        return places

    return jax.ShapeDtypeStruct((count,), np.float32), read


def _parts_reader(parts: dict[Any, tuple[jax.ShapeDtypeStruct, Read]], space: Any, what: str):
    """The parts of a dictionary or tuple become one vector of float32."""
    from gymnasium import spaces

    named = isinstance(space, spaces.Dict)
    wanted = _kind(dict.fromkeys(parts) if named else tuple(parts))

    def read(obs: Any) -> np.ndarray:
        right = isinstance(obs, Mapping) if named else isinstance(obs, (tuple, list))
        if not right or set(obs if named else range(len(obs))) != set(parts):
            raise _other(what, _kind(obs), wanted)
        return np.concatenate([read(obs[key]).ravel() for key, (_, read) in parts.items()], dtype=np.float32)

    return jax.ShapeDtypeStruct((sum(math.prod(form.shape) for form, _ in parts.values()),), np.float32), read


def _other(what: str, found: str, wanted: str) -> BrokenContract:
    return BrokenContract(f"gave {what} of {found} and declared {wanted}: wrap it so that all are as declared")


def _form(found: np.ndarray) -> str:
    return f"{found.dtype}{list(found.shape)}"


def _kind(obs: Any) -> str:
    if isinstance(obs, Mapping):
        return f"a dictionary with {', '.join(map(str, obs)) or 'nothing'}"
    return f"a {type(obs).__name__}{f' of {len(obs)}' if isinstance(obs, (tuple, list)) else ''}"


def _numbered(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each entry of a space of whole numbers: how many values it has, and which is the first."""
    from gymnasium import spaces

    if isinstance(space, spaces.MultiBinary):
        count = math.prod(space.shape)
        return np.full(count, 2), np.zeros(count, int)
    sizes, first = (space.n, space.start) if isinstance(space, spaces.Discrete) else (space.nvec, space.start)
    return np.ravel(sizes).astype(int), np.ravel(first).astype(int)


class ActionSpace(NamedTuple):
    """The actions of an environment, and what turns one of ours into one of its own."""

    actions: Actions
    in_units: Callable[[Any], Any]
    remark: str = ""


def actions(name: str, space: Any) -> ActionSpace:
    """How an environment with this space is acted in."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        numbered = Discrete(int(space.n), int(space.start))
        return ActionSpace(numbered, numbered.in_units)
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        bounded = Continuous(space.low, space.high)
        return ActionSpace(bounded, lambda action: bounded.in_units(np.asarray(action, np.float32)))  # may be a list
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(space.shape) == 1:
        sizes, first = _numbered(space)
        count = math.prod(map(int, sizes))
        if count > ENUMERATED:
            raise Unfit(
                name,
                f"actions of {type(space).__name__} with {count:,} combinations, and up to {ENUMERATED:,} are "
                "enumerated",
                "TransformAction with fewer of them as a Discrete, or with a Box of floats for --algorithm sac",
            )
        listed = Discrete(count, 0, tuple(map(int, sizes)), tuple(map(int, first)), np.dtype(space.dtype).name)
        remark = (
            f"the actions of '{name}', {type(space).__name__} {list(listed.sizes)}, are enumerated: {count:,} of them, "
            "of which the last entry changes the fastest"
        )
        return ActionSpace(listed, listed.in_units, remark)
    kind = f"Box of {space.dtype}" if isinstance(space, spaces.Box) else type(space).__name__
    raise Unfit(
        name,
        f"actions of {kind}; they must be Discrete, a MultiDiscrete or MultiBinary of one axis, or a Box of floats",
        "TransformAction",
    )
