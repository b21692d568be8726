"""Environments so small that their Q-values are known. Each one catches one kind of mistake in a learner.

An observation is the one-hot vector of the state, so that a table is a special case of a network. When an episode
terminates, the last state is observed once more, so a learner that bootstraps past the end gets wrong values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.environments.contract import Environment, Outcome, time_limited
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.errors import unknown


class Probe(NamedTuple):
    environment: Environment
    observations: np.ndarray  # [S, S], the observation of each state
    q_values: Callable[[float], np.ndarray]  # gamma -> [S, A], the optimal values


@dataclass(frozen=True)
class ProbeEnvironment:
    """A small environment whose Q-values are known."""

    name: str = "corridor"  # which probe: a key of sharedq.environments.probes.PROBES

    def __post_init__(self):
        if self.name not in PROBES:
            raise unknown("probe", self.name, PROBES)

    def build(self) -> Environment:
        return PROBES[self.name].environment


class _World(NamedTuple):
    """The tables of a probe, with one row per state and one column per action, and its optimal values."""

    rewards: list[list[float]]  # the mean rewards
    successors: list[list[int | None]]  # None ends the episode
    q_values: Callable[[float], list[list[float]]]  # gamma -> values, solved by hand
    starts: tuple[int, ...] = (0,)  # equally likely
    noise: tuple[float, ...] | None = None  # standard deviation of the rewards in each state; None means 0
    time_limit: int | None = None


END = None
ARMS = 10  # Sutton & Barto say "many"; the more there are, the higher the largest of their noisy estimates

_WORLDS = {
    # Does the value follow the reward at all?
    "one_reward": _World(rewards=[[1]], successors=[[END]], q_values=lambda gamma: [[1]]),
    # Does it depend on the observation?
    "observation": _World(
        rewards=[[-1], [1]], successors=[[END], [END]], q_values=lambda gamma: [[-1], [1]], starts=(0, 1)
    ),
    # Does the value reach back in time, discounted once?
    "discounting": _World(rewards=[[0], [1]], successors=[[1], [END]], q_values=lambda gamma: [[gamma], [1]]),
    # Does it depend on the action?
    "action": _World(rewards=[[-1, 1]], successors=[[END, END]], q_values=lambda gamma: [[-1, 1]]),
    # Does it depend on both together?
    "observation_and_action": _World(
        rewards=[[1, -1], [-1, 1]],
        successors=[[END, END], [END, END]],
        q_values=lambda gamma: [[1, -1], [-1, 1]],
        starts=(0, 1),
    ),
    # Four cells; action 1 goes right, action 0 stays; leaving the last cell is worth 1.
    "corridor": _World(
        rewards=[[0, 0], [0, 0], [0, 0], [0, 1]],
        successors=[[0, 1], [1, 2], [2, 3], [3, END]],
        q_values=lambda gamma: [[gamma ** (4 - cell), gamma ** (3 - cell)] for cell in range(4)],
    ),
    # A reward of 1 at every step, truncated after five steps. A learner that mistakes the truncation for a termination
    # learns a value that is too small.
    "time_limit": _World(rewards=[[1]], successors=[[0]], q_values=lambda gamma: [[1 / (1 - gamma)]], time_limit=5),
    # Sutton & Barto, example 6.7: action 0 ends with nothing; every other action leads to arms whose noisy rewards
    # have the mean -0.1. The largest of ten noisy estimates looks better than nothing.
    "maximisation_bias": _World(
        rewards=[[0] * ARMS, [-0.1] * ARMS],
        successors=[[END] + [1] * (ARMS - 1), [END] * ARMS],
        q_values=lambda gamma: [[0] + [-0.1 * gamma] * (ARMS - 1), [-0.1] * ARMS],
        noise=(0, 1),
    ),
}


def _probe(name: str, world: _World) -> Probe:
    rewards = np.array(world.rewards, np.float32)
    states, actions = rewards.shape
    ends = np.array([[successor is END for successor in row] for row in world.successors])
    successors = np.array(
        [[state if to is END else to for to in row] for state, row in enumerate(world.successors)], np.int32
    )
    noise = np.array(world.noise or [0] * states, np.float32)

    def observe(state):
        return jax.nn.one_hot(state, states)

    def reset(key):
        state = jax.random.choice(key, np.array(world.starts, np.int32))
        return state, observe(state)

    def step(key, state, action):
        reward, end, next_state = (jnp.asarray(table)[state, action] for table in (rewards, ends, successors))
        reward += jnp.asarray(noise)[state] * jax.random.normal(key)
        obs = observe(next_state)
        return next_state, Outcome(obs, reward, terminated=end, truncated=jnp.bool_(False), final_obs=obs)

    spec = EnvironmentSpec(f"probe/{name}", jax.ShapeDtypeStruct((states,), jnp.float32), Discrete(actions))
    environment = Environment(spec, reset, step)
    return Probe(
        environment=time_limited(environment, world.time_limit),
        observations=np.eye(states, dtype=np.float32),
        q_values=lambda gamma: np.array(world.q_values(gamma), np.float64),
    )


PROBES = {name: _probe(name, world) for name, world in _WORLDS.items()}
