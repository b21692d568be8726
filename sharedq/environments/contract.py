"""What an environment that lives on the device is, and a public checker for it.

An environment is a record of two pure functions. It never resets itself: `step` returns the true successor
observation even when the episode ends, and says in two separate words why it ended. `autoreset` turns it into
the form that a training loop wants.
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Discrete(NamedTuple):
    """Actions 0 .. n-1."""

    n: int


class Box(NamedTuple):
    """Real vectors between two bounds."""

    low: np.ndarray
    high: np.ndarray


class Outcome(NamedTuple):
    """What one action led to. Without autoreset `obs` and `final_obs` are the same thing."""

    obs: Any  # what to act on next: after an end, the first observation of the next episode
    reward: jax.Array  # float32
    terminated: jax.Array  # bool: the world ended
    truncated: jax.Array  # bool: a time limit ended the watching; the world went on
    final_obs: Any  # the true successor of the action, also at an end


class Environment(NamedTuple):
    name: str
    observation: jax.ShapeDtypeStruct  # of one observation
    actions: Discrete | Box
    reset: Callable  # (key) -> state, obs
    step: Callable  # (key, state, action) -> state, Outcome


def autoreset(environment: Environment) -> Environment:
    """The same environment, which begins a new episode where one ended; `final_obs` keeps the true end."""

    def step(key, state, action):
        step_key, reset_key = jax.random.split(key)
        state, outcome = environment.step(step_key, state, action)
        fresh_state, fresh_obs = environment.reset(reset_key)
        ended = outcome.terminated | outcome.truncated
        state, obs = jax.tree.map(
            lambda fresh, old: jnp.where(ended, fresh, old), (fresh_state, fresh_obs), (state, outcome.obs)
        )
        return state, outcome._replace(obs=obs)

    return environment._replace(step=step)
