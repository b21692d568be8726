"""An agent on a live stream: it learns from each step as it happens and returns the next action.

Each step is one compiled call with constant memory. There is no replay, and the caller acts as the environment.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys, settings
from sharedq.algorithms import StreamQ
from sharedq.environments import Discrete, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.experiment import TABLES
from sharedq.networks import Dense
from sharedq.runs import checkpoints
from sharedq.settings import require
from sharedq.targets import OnlineNetwork
from sharedq.training.learning import example_batch
from sharedq.transitions import Step
from sharedq.trees import size
from sharedq.validation import numbers
from sharedq.validation import path as as_path

EXPERIMENT = "live"  # marks what a live agent saved, in place of the digest of an experiment
LARGEST = 1e18  # the largest observation: its square, which the moments hold, still fits into float32
ALGORITHM, TARGET = StreamQ(), OnlineNetwork()
NETWORK = Dense((32, 32), norm="layer_whole", activation="leaky_relu", init="sparse")


class LiveAgent:
    """Learns from a stream of observations [*shape] and rewards, with a number of `actions` to choose from.

    Algorithm, target and network are settings, such as `SharedHeads(heads=3)`, or the name of a kind with its defaults.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        actions: int,
        *,
        algorithm: Any = ALGORITHM,
        target: Any = TARGET,
        network: Any = NETWORK,
        seed: int = 0,
    ):
        sizes: tuple[int, ...] = settings.convert(shape, tuple[int, ...], "shape")
        actions, seed = settings.convert(actions, int, "actions"), settings.convert(seed, int, "seed")
        require(min(sizes, default=1) >= 1, f"a shape has sizes of 1 or more, not {sizes}")
        require(actions >= 1, f"actions must be at least 1, not {actions}")
        require(seed >= 0, f"seed cannot be negative: {seed}")
        given = {"algorithm": algorithm, "target": target, "network": network}
        algorithm, target, network = (settings.make(TABLES[part], value) for part, value in given.items())
        observation = jax.ShapeDtypeStruct(sizes, np.float32)
        spec = EnvironmentSpec("a live stream", observation, Discrete(actions))
        self._algorithm = algorithm.build(spec, target, network)
        require(
            self._algorithm.learns_from == "stream", "a live stream needs an algorithm without replay, such as StreamQ"
        )
        self._shape, self._actions = sizes, actions
        self._key, self.steps = random_keys.root(seed), 0
        self._state = jax.jit(self._algorithm.init)(random_keys.named(self._key, "network"), example_batch(spec, 1))
        self._obs, self._action = jnp.zeros((1, *sizes)), jnp.zeros(1, jnp.int32)
        self._begun = False
        self._act, self._values = jax.jit(self._choose), jax.jit(self._algorithm.values)
        self._observe_and_act = jax.jit(self._absorb, donate_argnums=0)

    def begin(self, obs: Any) -> int:
        """The action for the first observation of the stream, or after a pause. Earlier steps get no further credit."""
        self._obs, self._begun = self._one(obs), True
        if "trace_mask" in self._state._fields:
            self._state = self._state._replace(trace_mask=jnp.zeros_like(self._state.trace_mask))
        self._action = self._act(self._state, self._obs, jnp.int32(self.steps))
        return int(self._action[0])

    def observe(
        self, obs: Any, reward: float, terminated: bool = False, truncated: bool = False, final_obs: Any = None
    ) -> int:
        """Learns from the result of the last action and returns the next action.

        `obs` is the observation to act on next; after an end it is the first one of the next episode. `final_obs` is
        then the last observation of the episode that ended. Its value is used if the episode was truncated.
        """
        require(self._begun, "the stream has not begun: call begin(obs) with its first observation")
        ended = terminated or truncated
        require(not truncated or final_obs is not None, "a truncated episode needs final_obs, its last observation")
        now, following = self._obs, self._one(obs)
        then = self._one(final_obs, "final_obs") if ended and final_obs is not None else following
        paid = _given(reward, (), "reward")
        ends = jnp.array([[bool(terminated)], [bool(truncated)]])
        step = Step(now, self._action, paid, ends[0], ends[1], then)
        self.steps += 1
        self._state, self._action = self._observe_and_act(self._state, step, following, jnp.int32(self.steps))
        self._obs = following
        return int(self._action[0])

    def values(self, obs: Any) -> np.ndarray:
        """The current values of the actions for an observation."""
        return np.asarray(self._values(self._state, self._key, self._one(obs))[0])

    @property
    def bytes(self) -> int:
        """The bytes that the agent holds between two steps. They never grow."""
        return size(self._whole())

    def save(self, folder: str | Path) -> Path:
        """Saves everything that was learned; `restore` continues from it bit for bit.

        It replaces what a live agent saved in this folder before; only the newest is kept. Any other folder that is
        not empty is refused.
        """
        meta = {"begun": self._begun, "shape": self._shape, "actions": self._actions}
        folder = as_path(folder, "the folder to save to")
        require(
            _may_be_saved_to(folder),
            f"{folder} is neither a new folder nor one where a live agent was saved: choose another one",
        )
        try:
            return checkpoints.save(folder, self.steps, {"live": self._whole()}, EXPERIMENT, meta, keep=1)
        except OSError as error:
            raise SharedqError(f"cannot save to {folder} ({error.strerror}): choose another folder") from None

    def restore(self, folder: str | Path) -> None:
        """Restores what an agent with the same settings saved."""
        path = checkpoints.latest(as_path(folder, "the folder to restore from"))
        if path is None:
            raise SharedqError(f"{folder} holds no saved agent")
        meta = checkpoints.read_meta(path, [EXPERIMENT])
        shape, actions = tuple(meta["shape"]), meta["actions"]
        require(
            (shape, actions) == (self._shape, self._actions),
            f"{path} was saved for observations of shape {shape} and {actions} actions, "
            f"this agent has {self._shape} and {self._actions}",
        )
        self._state, self._obs, self._action = checkpoints.load(path, "live", self._whole())
        self.steps, self._begun = int(path.name), meta["begun"]

    def _whole(self) -> tuple[Any, jax.Array, jax.Array]:
        return self._state, self._obs, self._action

    def _choose(self, state: Any, obs: jax.Array, count: jax.Array) -> jax.Array:
        return self._algorithm.act(state, random_keys.at(random_keys.named(self._key, "act"), count), obs, count)

    def _absorb(self, state: Any, step: Step, obs: jax.Array, count: jax.Array) -> tuple[Any, jax.Array]:
        key = random_keys.at(random_keys.named(self._key, "observe"), count)
        state, _ = self._algorithm.observe(state, key, step, obs, count)
        return state, self._choose(state, obs, count)

    def _one(self, obs: Any, name: str = "observation") -> jax.Array:
        return _given(obs, self._shape, name)


def _given(value: Any, shape: tuple[int, ...], what: str) -> jax.Array:
    """The value as a batch of one. It is a copy, because the caller may reuse its array for the next step."""
    return jnp.array(numbers(value, jax.ShapeDtypeStruct(shape, np.float32), what, LARGEST))[None]


def _may_be_saved_to(folder: Path) -> bool:
    """Whether a folder is new or contains only what a live agent saved, which `checkpoints.save` may remove."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return True
    except OSError:
        return False
    removable = [folder / name for name in names if name.isdecimal() or name in checkpoints.UNNAMED]
    return all(map(_saved_live, removable)) and bool(removable or not names)


def _saved_live(path: Path) -> bool:
    """Whether a folder is a checkpoint of a live agent, or the remains of one that was being written or removed."""
    if path.is_symlink() or not path.is_dir():
        return False
    if {file.name for file in path.iterdir()} - {"live.safetensors", "checkpoint.json"}:
        return False
    if path.name in checkpoints.UNNAMED:
        return True
    try:
        checkpoints.read_meta(path, [EXPERIMENT])
    except SharedqError:
        return False
    return path.name == f"{int(path.name):012d}"
