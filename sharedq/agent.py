"""An agent that has been trained: it acts on observations, tells its values and plays episodes."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms import State
from sharedq.errors import SharedqError
from sharedq.experiment import Built, Experiment
from sharedq.runs import RunDirectory, checkpoints
from sharedq.settings import require
from sharedq.training.evaluation import play


class Evaluation(NamedTuple):
    returns: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray  # whether the episode ended by itself, and not by the bound on its steps


class Agent:
    """The agent of one seed of a run."""

    def __init__(self, built: Built, state: State, step: int, seed: int):
        self.experiment, self.step, self.seed = built.experiment, step, seed
        self._built, self._state = built, state

    def act(self, obs: Any, draw: int = 0) -> int:
        """The action for one observation. Sources that draw a head to act with do so by the number `draw`."""
        batch = self._one(obs)
        return int(self._act(self._state, random_keys.at(random_keys.root(self.seed), draw), batch)[0])

    def values(self, obs: Any, draw: int = 0) -> np.ndarray:
        """The values of every action for one observation, as the policy sees them."""
        batch = self._one(obs)
        return np.asarray(self._values(self._state, random_keys.at(random_keys.root(self.seed), draw), batch)[0])

    def evaluate(self, episodes: int = 10, seed: int = 0, max_steps: int = 10_000) -> Evaluation:
        """Plays episodes in the environment that the agent was trained in."""
        require(episodes >= 1, f"episodes must be at least 1, not {episodes}")
        require(max_steps >= 1, f"max_steps must be at least 1, not {max_steps}")
        played = self._play(self._state, seed, episodes=episodes, max_steps=max_steps)
        return Evaluation(*(np.asarray(x) for x in played))

    def _one(self, obs: Any) -> jax.Array:
        wanted = self._built.environment.observation
        obs = np.asarray(obs)
        if obs.shape != wanted.shape:
            raise SharedqError(f"an observation of shape {wanted.shape} is wanted, not {obs.shape}")
        return jnp.asarray(obs, wanted.dtype)[None]

    @cached_property
    def _act(self):
        return jax.jit(partial(self._built.algorithm.act, step=None))

    @cached_property
    def _values(self):
        return jax.jit(self._built.algorithm.values)

    @cached_property
    def _play(self):
        def played(state, seed, episodes, max_steps):
            act = partial(self._built.algorithm.act, state, step=None)
            return play(self._built.environment, act, seed, episodes, max_steps)

        return jax.jit(played, static_argnames=("episodes", "max_steps"))


def seeds_of(run: str | Path) -> list[int]:
    """The seeds that a run trains."""
    return Experiment.from_dict(RunDirectory.open(run).experiment()).all_seeds


def load(run: str | Path, seed: int | None = None) -> Agent:
    """The agent of a run's latest checkpoint; of its first seed unless another is asked for."""
    directory = RunDirectory.open(run)
    experiment = Experiment.from_dict(directory.experiment())
    path = checkpoints.latest(directory.checkpoints)
    if path is None:
        raise SharedqError(f"{run} has no checkpoint yet: let it train to the first one")
    checkpoints.read_meta(path, directory.digest())
    seeds = experiment.all_seeds
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise SharedqError(f"{run} has no seed {seed}: choose from {', '.join(map(str, seeds))}")
    built = experiment.build()
    agents = checkpoints.load(path, "agent", built.program().shapes().agent)
    place = seeds.index(seed)
    return Agent(built, jax.tree.map(lambda x: x[place], agents), int(path.name), seed)
