"""A `VectorEnv` made of single environments, which are stepped one after another in this process."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from sharedq.environments.contract import Outcome
from sharedq.errors import NotFinite, Unlearned, Unphysical
from sharedq.validation import numbers


def episode_seed(seed: int, world: int, episode: int) -> int:
    """A seed for each episode of each environment, so that an episode can be replayed without the earlier ones."""
    return int(np.random.SeedSequence(seed, spawn_key=(world, episode)).generate_state(1)[0])


class HostTimeStep(NamedTuple):
    """The result of one action in one environment."""

    obs: np.ndarray  # the true successor observation, also at the end of an episode; a new array each time
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool = False


class World(Protocol):
    """One environment. It never starts an episode by itself."""

    def begin(self) -> np.ndarray:
        """The first observation of the next episode."""

    def step(self, action: Any) -> HostTimeStep: ...

    def save(self) -> Any: ...

    def load(self, saved: Any) -> None: ...

    def picture(self) -> np.ndarray: ...

    def close(self) -> None: ...


class SyncVectorEnv:
    """A `VectorEnv` that steps each environment in turn and starts the next episode when one has ended."""

    def __init__(self, worlds: Sequence[World]):
        self._worlds = worlds

    def reset(self) -> np.ndarray:
        return _stacked([world.begin() for world in self._worlds])

    def step(self, actions: np.ndarray) -> Outcome:
        if actions.dtype.kind == "f" and not np.isfinite(actions).all():
            raise Unlearned("an action")
        obs, happened = [], []
        for world, action in zip(self._worlds, actions, strict=True):
            one = world.step(action)
            happened.append(one)
            obs.append(world.begin() if one.terminated or one.truncated else one.obs)
        final_obs, reward, terminated, truncated, life_lost = zip(*happened, strict=True)
        return Outcome(
            obs=_stacked(obs),  # some may be the first of an episode
            reward=_physical(reward, jax.ShapeDtypeStruct((len(reward),), np.float32), "a reward"),
            terminated=np.array(terminated, bool),
            truncated=np.array(truncated, bool),
            final_obs=_stacked(final_obs),
            life_lost=np.array(life_lost, bool),
        )

    def save(self) -> Any:
        return [world.save() for world in self._worlds]

    def load(self, saved: Any) -> None:
        for world, one in zip(self._worlds, saved, strict=True):
            world.load(one)

    def picture(self) -> np.ndarray:
        return self._worlds[0].picture()

    def close(self) -> None:
        for world in self._worlds:
            world.close()


def _stacked(observations: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(observations)
    return _physical(stacked, stacked, "an observation")


def _physical(values: Any, wanted: Any, what: str) -> np.ndarray:
    """The values in the shape and dtype of `wanted`; raises `Unphysical` if one is not a finite number."""
    try:
        return numbers(values, wanted, what)
    except NotFinite as error:
        raise Unphysical(what) from error
