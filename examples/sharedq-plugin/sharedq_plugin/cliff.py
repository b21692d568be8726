"""Cliff walking (Sutton & Barto, example 6.6), in JAX.

The rewards are -0.1 for a step and -1 for a fall, where the book has -1 and -100. The values of the cells are known, so
that one can see whether an agent has learned them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.environments import Discrete, Environment, EnvironmentSpec, Outcome, time_limited
from sharedq.settings import require

HEIGHT = 4
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def value(row: int, column: int, width: int, gamma: float) -> float:
    """The value of a cell in which the agent can be: the discounted sum of the rewards on the shortest safe walk."""
    above = HEIGHT - 1 - row if row < HEIGHT - 1 else 2  # from the start the walk goes up, along the cliff and down
    steps = width - 1 - column + above
    return -0.1 * (1 - gamma**steps) / (1 - gamma)


@dataclass(frozen=True)
class Cliff:
    """A grid of four rows. The agent walks from the lower left corner to the lower right one, past a cliff."""

    width: int = 12  # number of cells in a row
    time_limit: int = 100  # steps until an episode is truncated

    def __post_init__(self):
        require(self.width >= 3, f"environment.width must be at least 3, not {self.width}")
        require(self.time_limit >= 1, f"environment.time_limit must be at least 1, not {self.time_limit}")

    def build(self):
        size = jnp.array([HEIGHT, self.width])
        start, goal = jnp.array([HEIGHT - 1, 0]), jnp.array([HEIGHT - 1, self.width - 1])

        def observe(place):
            return jax.nn.one_hot(place[0] * self.width + place[1], HEIGHT * self.width)

        def reset(key):
            return start, observe(start)

        def step(key, place, action):
            place = jnp.clip(place + jnp.array(MOVES)[action], 0, size - 1)
            at_goal = (place == goal).all()
            fell = (place[0] == HEIGHT - 1) & (place[1] > 0) & ~at_goal
            place = jnp.where(fell, start, place)
            reward = jnp.where(fell, -10.0, -1.0) / 10
            obs = observe(place)
            return place, Outcome(obs, reward, at_goal, jnp.bool_(False), obs)

        observation = jax.ShapeDtypeStruct((HEIGHT * self.width,), jnp.float32)
        spec = EnvironmentSpec("cliff", observation, Discrete(len(MOVES)))
        return time_limited(Environment(spec, reset, step), self.time_limit)
