"""What an environment is apart from its dynamics: a name, the form of observations and the actions.

Algorithms, replays and trained agents need no more than this. A run keeps it as JSON, so that its agent can act, be
exported or be trained further without the environment itself.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.json_files import Maybe


class Discrete(NamedTuple):
    """Actions 0 .. n-1: what the algorithms give, the replay holds and `step` takes, everywhere."""

    n: int
    first: int = 0  # what the world itself calls action 0, as `Discrete(n, start)` of Gymnasium does

    @property
    def one(self) -> jax.ShapeDtypeStruct:
        """The form of one action."""
        return jax.ShapeDtypeStruct((), jnp.int32)

    def in_units(self, action: Any) -> int:
        """What the world itself calls an action."""
        return self.first + int(action)


class Continuous(NamedTuple):
    """Real vectors, of -1 to 1 each: what the algorithms give, the replay holds and `step` takes, everywhere.

    What they stand for in the world's own units is the environment's business, and `in_units` its way to say it.
    """

    low: np.ndarray  # what -1 stands for
    high: np.ndarray  # what 1 stands for

    @property
    def one(self) -> jax.ShapeDtypeStruct:
        """The form of one action."""
        return jax.ShapeDtypeStruct(np.shape(self.low), jnp.float32)

    def in_units(self, action: Any) -> Any:
        """What an action of -1 to 1 stands for, never beyond the bounds, in the bounds' type."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return (middle + half * action).clip(self.low, self.high)


Actions = Discrete | Continuous
Stacks = Literal["black"] | None  # black: frames, the last axis is time, zeros where the episode had not begun


class EnvironmentSpec(NamedTuple):
    """The description of an environment."""

    name: str
    observation: jax.ShapeDtypeStruct  # of one observation
    actions: Actions
    stacks: Stacks = None  # whether an observation is a stack of frames, and what it shows before the first


def stackable(observation: jax.ShapeDtypeStruct) -> bool:
    """Whether observations of this form can be stacks of frames."""
    return observation.dtype == np.uint8 and len(observation.shape) >= 2


JSON_FORM = {
    "name": str,
    "observation": {"shape": [int], "dtype": str},
    "actions": {
        "kind": str,
        "n": Maybe(int),
        "first": Maybe(int),
        "low": Maybe(Any),
        "high": Maybe(Any),
        "dtype": Maybe(str),
    },
    "stacks": str | None,
}


def to_json(spec: EnvironmentSpec) -> dict[str, Any]:
    """The description as JSON can hold it; floats are written so that they read back to the bit."""
    observation = {"shape": list(spec.observation.shape), "dtype": np.dtype(spec.observation.dtype).name}
    return {
        "name": spec.name,
        "observation": observation,
        "actions": _actions_to_json(spec.actions),
        "stacks": spec.stacks,
    }


def from_json(plain: dict[str, Any]) -> EnvironmentSpec:
    """The description that `to_json` wrote; raises a `ValueError` if it describes none."""
    try:
        observation = plain["observation"]
        form = jax.ShapeDtypeStruct(tuple(observation["shape"]), np.dtype(observation["dtype"]))
        return EnvironmentSpec(plain["name"], form, _actions_from_json(plain["actions"]), plain["stacks"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"it describes no environment: {error}") from None


def _actions_to_json(actions: Actions) -> dict[str, Any]:
    if isinstance(actions, Discrete):
        return {"kind": "discrete", **actions._asdict()}
    low, high = np.asarray(actions.low), np.asarray(actions.high)
    return {"kind": "continuous", "dtype": low.dtype.name, "low": low.tolist(), "high": high.tolist()}


def _actions_from_json(plain: dict[str, Any]) -> Actions:
    if plain["kind"] == "discrete":
        return Discrete(plain["n"], plain["first"])
    dtype = np.dtype(plain["dtype"])
    return Continuous(np.array(plain["low"], dtype), np.array(plain["high"], dtype))
