"""Plays with an exported agent, and gives observations on which it is compared with the agent that it was made from."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sharedq.agent import Agent, Compiled
from sharedq.environments.contract import DescribedEnvironment, Environment, autoreset
from sharedq.errors import SharedqError
from sharedq.exporting.decision import from_units

SAMPLE_SIZE = 1_024  # observations that are kept of a game, spread over it
ENOUGH_OBSERVATIONS = 256  # random ones are added to fewer
SAMPLE_EPISODES = 8  # episodes that are played for them, side by side
SAMPLE_STEPS = 256  # steps of each of these episodes, at most


class Observations(NamedTuple):
    batch: np.ndarray  # [N, ...]
    source: str  # what they are, for people


class ObservationSample:
    """Keeps observations that are spread evenly over all that were added, whatever their number is."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._every, self._added = 1, 0

    def add(self, batch: np.ndarray) -> None:
        if self._added % self._every == 0:
            self._kept.append(np.array(batch))
        self._added += 1
        if len(self._kept) * len(batch) >= 2 * SAMPLE_SIZE and len(self._kept) > 1:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def batch(self) -> np.ndarray:
        batch = np.concatenate(self._kept)
        return batch[np.linspace(0, len(batch) - 1, min(len(batch), SAMPLE_SIZE)).astype(int)]


def acting_with(agent: Agent, act: Callable[[np.ndarray], np.ndarray], environment: Any = None) -> Agent:
    """The agent, but `act` decides, which takes and gives what an exported agent does; in another environment if given.

    It plays and checks as every agent does.
    """
    actions = agent.built.spec.actions

    def on_host(obs: np.ndarray) -> np.ndarray:
        return from_units(actions, act(np.asarray(obs)))

    def called_back(state: Any, key: Any, obs: Any, step: Any) -> jax.Array:
        form = jax.ShapeDtypeStruct((len(obs), *actions.one.shape), actions.one.dtype)
        return jax.pure_callback(on_host, form, obs)

    algorithm = agent.built.algorithm._replace(act=called_back)
    built = dataclasses.replace(agent.built, algorithm=algorithm, opened=environment or agent.environment)
    return Agent(Compiled(built), agent.state, agent.step, agent.seed)


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
        sample = ObservationSample()

        def watched(obs: np.ndarray) -> np.ndarray:
            sample.add(obs)
            return act(obs)

        # A game that has ended starts again, because its agent never acts on what would come after the end.
        one = agent.environment
        restarting = autoreset(one) if isinstance(one, Environment) else one
        acting_with(agent, watched, restarting).evaluate(SAMPLE_EPISODES, seed, SAMPLE_STEPS)
        batch = sample.batch()
        if len(batch) < ENOUGH_OBSERVATIONS:
            random = random[: SAMPLE_SIZE - len(batch)]
            return Observations(np.concatenate([batch, random]), "played and random observations")
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
    return np.asarray(replay.decode(jax.tree.map(lambda x: x[0, 0], raw)).transition.obs)[:SAMPLE_SIZE]


def drawn(agent: Agent, generator: np.random.Generator, count: int = SAMPLE_SIZE) -> np.ndarray:
    """Random observations: normal numbers, or any that a whole number can be."""
    form = agent.built.spec.observation
    shape, dtype = (count, *form.shape), np.dtype(form.dtype)
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    largest = 1 if dtype.kind == "b" else min(np.iinfo(dtype).max, 255)
    return generator.integers(0, largest + 1, shape).astype(dtype)
