"""Playing whole episodes with an agent that does not learn."""

from collections.abc import Callable
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.environments.contract import Environment, HostEnvironment


def play(environment: Environment, act: Callable, seed: int, episodes: int, max_steps: int):
    """Returns, lengths and whether each of `episodes` episodes ended by itself within `max_steps`.

    `act(key, obs [E, ...]) -> actions [E]`. The episodes are played side by side; none is replaced when it ends.
    """
    key = random_keys.root(seed)
    act_key, world_key = random_keys.named(key, "act"), random_keys.named(key, "environment")
    keys = jax.random.split(random_keys.named(key, "first episodes"), episodes)
    state, obs = jax.vmap(environment.reset)(keys)

    def goes_on(carry):
        time, _, _, alive, _, _ = carry
        return (time < max_steps) & alive.any()

    def step(carry):
        time, state, obs, alive, returned, length = carry
        action = act(random_keys.at(act_key, time), obs)
        keys = jax.random.split(random_keys.at(world_key, time), episodes)
        state, outcome = jax.vmap(environment.step)(keys, state, action)
        returned = returned + jnp.where(alive, outcome.reward, 0)
        length = length + alive
        return time + 1, state, outcome.obs, alive & ~(outcome.terminated | outcome.truncated), returned, length

    start = (jnp.int32(0), state, obs, jnp.ones(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32))
    _, _, _, alive, returned, length = jax.lax.while_loop(goes_on, step, start)
    return returned, length, ~alive


def play_on_host(environment: HostEnvironment, act: Callable, seed: int, episodes: int, max_steps: int):
    """As `play`, with worlds that the host steps; each of them plays one episode that counts."""
    act_key = random_keys.named(random_keys.root(seed), "act")
    returned, length, alive = np.zeros(episodes), np.zeros(episodes, np.int64), np.ones(episodes, bool)
    with closing(environment.open(episodes, seed)) as worlds:
        obs = worlds.reset()
        for time in range(max_steps):
            outcome = worlds.step(np.asarray(act(random_keys.at(act_key, time), obs)))
            obs = outcome.obs
            returned += np.where(alive, outcome.reward, 0)
            length += alive
            alive &= ~(outcome.terminated | outcome.truncated)
            if not alive.any():
                break
    return returned, length, ~alive
