"""Several worlds on the host, made of single ones that are stepped one after another in this process."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from sharedq.environments.contract import Outcome
from sharedq.errors import Unphysical


def episode_seed(seed: int, world: int, episode: int) -> int:
    """A seed for each episode of each world, so that an episode can be begun again without those before it."""
    return int(np.random.SeedSequence(seed, spawn_key=(world, episode)).generate_state(1)[0])


class Happened(NamedTuple):
    """What one action led to in one world."""

    obs: np.ndarray  # the true successor, also at an end; a new array each time
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool = False


class World(Protocol):
    """One world. It never begins an episode by itself."""

    def begin(self) -> np.ndarray:
        """The first observation of the next episode."""

    def step(self, action: Any) -> Happened: ...

    def save(self) -> Any: ...

    def load(self, saved: Any) -> None: ...

    def picture(self) -> np.ndarray: ...

    def close(self) -> None: ...


class InTurn:
    """`Worlds` of the contract: steps each world in turn, and begins the next episode where one ended."""

    def __init__(self, worlds: Sequence[World]):
        self._worlds = worlds

    def reset(self) -> np.ndarray:
        obs = np.stack([world.begin() for world in self._worlds])
        _check_finite("an observation", obs)
        return obs

    def step(self, actions: np.ndarray) -> Outcome:
        obs, happened = [], []
        for world, action in zip(self._worlds, actions, strict=True):
            one = world.step(action)
            happened.append(one)
            obs.append(world.begin() if one.terminated or one.truncated else one.obs)
        final_obs, reward, terminated, truncated, life_lost = zip(*happened, strict=True)
        outcome = Outcome(
            obs=np.stack(obs),
            reward=np.array(reward, np.float32),
            terminated=np.array(terminated, bool),
            truncated=np.array(truncated, bool),
            final_obs=np.stack(final_obs),
            life_lost=np.array(life_lost, bool),
        )
        _check_finite("a reward", outcome.reward)
        _check_finite("an observation", outcome.final_obs)
        _check_finite("an observation", outcome.obs)  # which an episode may have begun with
        return outcome

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


def _check_finite(what: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Unphysical(what)
