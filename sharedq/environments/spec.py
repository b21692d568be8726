"""The description of an environment without its dynamics: its name, its observations and its actions.

Algorithms, replays and trained agents need no more than this. A run keeps the description as JSON, so that its agent
can act without the environment itself.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.json_files import Maybe


class Discrete(NamedTuple):
    """Actions 0 .. n-1. Algorithms return them, replays store them and `step` takes them in this form.

    The environment's own action is a number, or a vector of whole numbers. All vectors are numbered in the order of
    `numpy.unravel_index`: the last entry changes the fastest.
    """

    n: int
    first: int = 0  # the environment's own number of action 0, like `start` in Gymnasium's `Discrete(n, start)`
    sizes: tuple[int, ...] = ()  # of each entry of a vector: how many values it has; their product is n
    starts: tuple[int, ...] = ()  # of each entry of a vector: its first value
    dtype: str = "int64"  # of a vector

    @property
    def one(self) -> jax.ShapeDtypeStruct:
        """The form of one action."""
        return jax.ShapeDtypeStruct((), jnp.int32)

    def in_units(self, action: Any) -> Any:
        """The environment's own form of an action, or of an array of actions."""
        if self.sizes:
            return (np.stack(np.unravel_index(action, self.sizes), axis=-1) + self.starts).astype(self.dtype)
        own = self.first + np.asarray(action)
        return own if own.ndim else int(own)


class Continuous(NamedTuple):
    """Vectors of numbers from -1 to 1. Algorithms return them, replays store them and `step` takes them in this form.

    The environment converts them to its own units with `in_units`.
    """

    low: np.ndarray  # the value of -1 in the environment's units
    high: np.ndarray  # the value of 1 in the environment's units

    @property
    def one(self) -> jax.ShapeDtypeStruct:
        """The form of one action."""
        return jax.ShapeDtypeStruct(np.shape(self.low), jnp.float32)

    def in_units(self, action: Any) -> Any:
        """An action of -1 to 1 in the environment's units, in the dtype of the bounds and never beyond them."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return (middle + half * action).clip(self.low, self.high)


class Tokens(NamedTuple):
    """A text of at most so many tokens. Algorithms return it, replays store it and `step` takes it in this form.

    An observation is the whole text of the episode so far. Both are padded on the right.
    """

    length: int  # tokens of an action, the one that ends it included
    vocabulary: int  # number of tokens
    pad: int  # fills the rest of an observation or of an action
    closes: int  # the token that ends an action
    opens: tuple[int, ...]  # an action begins behind one of these tokens
    ends: int  # the token that ends an episode

    @property
    def one(self) -> jax.ShapeDtypeStruct:
        """The form of one action."""
        return jax.ShapeDtypeStruct((self.length,), jnp.int32)

    def in_units(self, action: Any) -> Any:
        """The environment's own form of an action: the tokens themselves."""
        return np.asarray(action)


Actions = Discrete | Continuous | Tokens
Stacks = Literal["black"] | None  # black: frames with time on the last axis; those before the episode are zeros


class EnvironmentSpec(NamedTuple):
    """The description of an environment."""

    name: str
    observation: jax.ShapeDtypeStruct  # shape and dtype of one observation
    actions: Actions
    stacks: Stacks = None  # whether an observation is a stack of frames, and how a new stack is filled


def stackable(observation: jax.ShapeDtypeStruct) -> bool:
    """Whether observations of this shape and dtype can be stacks of frames."""
    return observation.dtype == np.uint8 and len(observation.shape) >= 2


JSON_FORM = {
    "name": str,
    "observation": {"shape": [int], "dtype": str},
    "actions": {
        "kind": str,
        "n": Maybe(int),
        "first": Maybe(int),
        "sizes": Maybe([int]),
        "starts": Maybe([int]),
        "low": Maybe(Any),
        "high": Maybe(Any),
        "dtype": Maybe(str),
        **{name: Maybe(int) for name in ("length", "vocabulary", "pad", "closes", "ends")},
        "opens": Maybe([int]),
    },
    "stacks": str | None,
}


def to_json(spec: EnvironmentSpec) -> dict[str, Any]:
    """The description in a form that JSON can hold; floats read back bit for bit."""
    observation = {"shape": list(spec.observation.shape), "dtype": np.dtype(spec.observation.dtype).name}
    return {
        "name": spec.name,
        "observation": observation,
        "actions": _actions_to_json(spec.actions),
        "stacks": spec.stacks,
    }


def from_json(plain: dict[str, Any]) -> EnvironmentSpec:
    """The description that `to_json` wrote; raises a `ValueError` if `plain` is not one."""
    try:
        observation = plain["observation"]
        form = jax.ShapeDtypeStruct(tuple(observation["shape"]), np.dtype(observation["dtype"]))
        return EnvironmentSpec(plain["name"], form, _actions_from_json(plain["actions"]), plain["stacks"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"it describes no environment: {error}") from None


def _actions_to_json(actions: Actions) -> dict[str, Any]:
    if isinstance(actions, Discrete):
        vectors = {"sizes": list(actions.sizes), "starts": list(actions.starts), "dtype": actions.dtype}
        return {"kind": "discrete", "n": actions.n, "first": actions.first, **(vectors if actions.sizes else {})}
    if isinstance(actions, Tokens):
        return {"kind": "tokens", **actions._asdict(), "opens": list(actions.opens)}
    low, high = np.asarray(actions.low), np.asarray(actions.high)
    return {"kind": "continuous", "dtype": low.dtype.name, "low": _plain(low), "high": _plain(high)}


def _plain(bounds: np.ndarray) -> Any:
    """Nested lists. JSON has no infinity, so that an infinite bound is a text."""
    return np.where(np.isfinite(bounds), bounds.astype(object), bounds.astype(str)).tolist()


def _actions_from_json(plain: dict[str, Any]) -> Actions:
    if plain["kind"] == "discrete":
        sizes, starts = plain.get("sizes", ()), plain.get("starts", ())
        dtype = np.dtype(plain.get("dtype", "int64"))
        right = len(sizes) == len(starts) and min(sizes, default=1) >= 1 and dtype.kind in "iu"
        if not right or (sizes and math.prod(sizes) != plain["n"]):
            raise ValueError(f"{plain['n']} actions are not the vectors of sizes {sizes} and starts {starts}")
        return Discrete(plain["n"], plain["first"], tuple(sizes), tuple(starts), dtype.name)
    if plain["kind"] == "tokens":
        return Tokens(**{**{name: plain[name] for name in Tokens._fields}, "opens": tuple(plain["opens"])})
    dtype = np.dtype(plain["dtype"])
    return Continuous(*(np.array(plain[bound], object).astype(dtype) for bound in ("low", "high")))
