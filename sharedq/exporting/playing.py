"""Plays with an exported agent, and gives observations on which it is compared with the agent that it was made from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sharedq.agent import Agent, Evaluation
from sharedq.environments import HostEnvironment
from sharedq.environments.contract import DescribedEnvironment
from sharedq.errors import SharedqError
from sharedq.exporting.decision import from_units
from sharedq.playing.episodes import evaluation_seed, play, play_on_host

KEPT = 1_024  # observations that are kept of a game, spread over it
FEW = 256  # of fewer played ones, random ones are added
WORLDS = 8  # episodes that are played for them
STEPS = 256  # of each of these episodes


class Observations(NamedTuple):
    batch: np.ndarray  # [N, ...]
    source: str  # what they are, for people


class Spread:
    """Keeps observations that are spread evenly over all that were added, whatever their number is."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._every, self._added = 1, 0

    def add(self, batch: np.ndarray) -> None:
        if self._added % self._every == 0:
            self._kept.append(np.array(batch))
        self._added += 1
        if len(self._kept) * len(batch) >= 2 * KEPT and len(self._kept) > 1:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def batch(self) -> np.ndarray:
        batch = np.concatenate(self._kept)
        return batch[np.linspace(0, len(batch) - 1, min(len(batch), KEPT)).astype(int)]


def played(
    agent: Agent, act: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int, max_steps: int
) -> Evaluation:
    """Plays episodes in the agent's environment with `act`, which takes and gives what an exported agent does."""
    actions, environment = agent.built.spec.actions, agent.environment

    def on_host(key: Any, obs: Any) -> np.ndarray:
        return from_units(actions, act(np.asarray(obs)))

    first = evaluation_seed(seed)
    if isinstance(environment, HostEnvironment):
        found = play_on_host(environment, on_host, first, episodes, max_steps)
    else:
        form = jax.ShapeDtypeStruct((episodes, *actions.one.shape), actions.one.dtype)

        def called_back(key: Any, obs: Any) -> jax.Array:
            return jax.pure_callback(lambda obs: on_host(None, obs), form, obs)

        found = jax.jit(lambda: play(environment, called_back, first, episodes, max_steps))()
    return Evaluation(*(np.asarray(x) for x in found))


def can_play(agent: Agent) -> bool:
    """Whether the agent's environment is here: an agent that learned from data has none, and a simulator may lack."""
    try:
        return not isinstance(agent.environment, DescribedEnvironment)
    except SharedqError:
        return False


def observations(agent: Agent, act: Callable[[np.ndarray], np.ndarray], seed: int) -> Observations:
    """Observations of games that `act` plays; else those of the run's data; else numbers drawn at random.

    If the games were too short for many, random ones are added.
    """
    random = drawn(agent, np.random.default_rng(seed))
    if can_play(agent):
        spread = Spread()

        def watched(obs: np.ndarray) -> np.ndarray:
            spread.add(obs)
            return act(obs)

        played(agent, watched, WORLDS, seed, STEPS)
        batch = spread.batch()
        if len(batch) < FEW:
            return Observations(np.concatenate([batch, random[: KEPT - len(batch)]]), "played and random observations")
        return Observations(batch, "played observations")
    try:
        return Observations(_of_data(agent), "observations of its data")
    except SharedqError:
        return Observations(random, "random observations")


def _of_data(agent: Agent) -> np.ndarray:
    replay: Any = agent.built.replay
    if not hasattr(replay, "open"):
        raise SharedqError("the agent did not learn from data")
    replay.open(agent.built.spec)
    raw = replay.batches([agent.seed], 0, 1)
    return np.asarray(replay.decode(jax.tree.map(lambda x: x[0, 0], raw)).transition.obs)[:KEPT]


def drawn(agent: Agent, generator: np.random.Generator, count: int = KEPT) -> np.ndarray:
    """Random observations: normal numbers, or any that a whole number can be."""
    form = agent.built.spec.observation
    shape, dtype = (count, *form.shape), np.dtype(form.dtype)
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    largest = 1 if dtype.kind == "b" else min(np.iinfo(dtype).max, 255)
    return generator.integers(0, largest + 1, shape).astype(dtype)
