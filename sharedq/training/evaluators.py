"""How the agents of a run play the episodes of an evaluation, in environments on the device and on the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.environments.contract import Environment, HostEnvironment
from sharedq.errors import EnvironmentFailed, Unphysical
from sharedq.playing import MAX_STEPS
from sharedq.playing.episodes import play, play_seeds_on_host
from sharedq.training.evaluation import evaluation_seeds
from sharedq.training.memory import scratch_of
from sharedq.training.program import PlayedEpisodes
from sharedq.training.seeds import Layout


class Evaluator(Protocol):
    def prepare(self, agents: Any) -> int:
        """Compiles for agents of these shapes, of all seeds. Returns the bytes that each device needs besides."""

    def play(self, agents: Any, step: int) -> PlayedEpisodes:
        """The episodes that the agents on the devices play at this step."""


def evaluator(
    environment: Environment | HostEnvironment, algorithm: Algorithm, episodes: int, seeds: list[int], layout: Layout
) -> Evaluator:
    """The evaluator of so many episodes for each seed."""
    if isinstance(environment, HostEnvironment):
        return HostEvaluator(environment, algorithm, episodes, seeds, layout)
    return DeviceEvaluator(environment, algorithm, episodes, seeds, layout)


class DeviceEvaluator:
    """Plays in an environment on the device."""

    def __init__(self, environment: Environment, algorithm: Algorithm, episodes: int, seeds: list[int], layout: Layout):
        self._seeds, self._layout = seeds, layout

        def evaluate(_: Any, given: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            agent, seed = given
            return play(environment, partial(algorithm.act, agent, step=None), seed, episodes, MAX_STEPS)

        self._evaluate: Any = layout.ask(evaluate)

    def prepare(self, agents: Any) -> int:
        seeds = self._layout.place(np.array(self._seeds, np.int32))
        self._evaluate = self._evaluate.lower(None, (agents, seeds)).compile()
        return scratch_of(self._evaluate)

    def play(self, agents: Any, step: int) -> PlayedEpisodes:
        played = self._evaluate(None, (agents, self._layout.place(evaluation_seeds(self._seeds, step))))
        return PlayedEpisodes(*self._layout.fetch(played))


class HostEvaluator:
    """Plays in environments that the host steps."""

    def __init__(
        self, environment: HostEnvironment, algorithm: Algorithm, episodes: int, seeds: list[int], layout: Layout
    ):
        self._environment, self._episodes, self._seeds, self._layout = environment, episodes, seeds, layout

        def act(time: jax.Array, given: tuple[Any, jax.Array, Any]) -> jax.Array:
            agent, seed, obs = given
            key = random_keys.named(random_keys.root(seed), "act")
            return algorithm.act(agent, random_keys.at(key, time), obs, None)

        self._act: Any = layout.ask(act)

    def prepare(self, agents: Any) -> int:
        one = self._environment.spec.observation
        obs = jax.ShapeDtypeStruct((self._episodes, *one.shape), one.dtype)
        seeds = self._layout.place(np.array(self._seeds, np.int32))
        self._act = self._act.lower(jnp.int32(0), (agents, seeds, self._layout.shapes(obs))).compile()
        return scratch_of(self._act)

    def play(self, agents: Any, step: int) -> PlayedEpisodes:
        seeds = evaluation_seeds(self._seeds, step)
        placed_seeds = self._layout.place(seeds)

        def act(time: int, obs: np.ndarray) -> np.ndarray:
            given = (agents, placed_seeds, self._layout.place(obs))
            return self._layout.fetch(self._act(np.int32(time), given))

        def at(place: int):
            return placed(self._seeds[place], step)

        return PlayedEpisodes(
            *play_seeds_on_host(self._environment, act, seeds.tolist(), self._episodes, MAX_STEPS, at)
        )


@contextmanager
def placed(seed: int, step: int) -> Iterator[None]:
    """Adds seed and step to the error of an environment that breaks down or whose code fails."""
    try:
        yield
    except Unphysical as error:
        raise type(error)(error.what, seed, step) from error
    except EnvironmentFailed as error:  # it names its seed already
        raise EnvironmentFailed(f"{error} at step {step:,}") from error
