"""Playing whole episodes with an agent that does not learn."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.environments.contract import Environment, HostEnvironment, Outcome
from sharedq.errors import SharedqError
from sharedq.playing.pictures import has_picture, picture


def evaluation_seed(seed: int, step: int | None = None) -> int:
    """The seed of evaluation episodes. With it, no episode starts like one of a training with `seed`.

    An evaluation during training also gives its `step`, so that it differs from the others.
    """
    words = (seed, crc32(b"evaluation")) if step is None else (seed, crc32(b"evaluation"), step)
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def play(environment: Environment, act: Callable, seed: int, episodes: int, max_steps: int):
    """Plays episodes. Gives their returns, their lengths, and whether each one ended by itself within `max_steps`.

    `act(key, obs [E, ...]) -> actions [E]`. The episodes are played in parallel; an episode that ends is not replaced.
    """
    key = random_keys.root(seed)
    act_key, world_key = random_keys.named(key, "act"), random_keys.named(key, "environment")
    state, obs = first_episodes(environment, seed, episodes)

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


def first_episodes(environment: Environment, seed: int, episodes: int):
    """The first states and observations [E, ...] of the episodes of this seed."""
    keys = jax.random.split(random_keys.named(random_keys.root(seed), "first episodes"), episodes)
    return jax.vmap(environment.reset)(keys)


def play_on_host(environment: HostEnvironment, act: Callable, seed: int, episodes: int, max_steps: int):
    """Like `play`, with environments on the host."""
    act_key = random_keys.named(random_keys.root(seed), "act")

    def act_alone(time: int, obs: np.ndarray) -> np.ndarray:
        return np.asarray(act(random_keys.at(act_key, time), obs[0]))[None]

    return tuple(each[0] for each in play_seeds_on_host(environment, act_alone, [seed], episodes, max_steps))


def play_seeds_on_host(
    environment: HostEnvironment,
    act: Callable,
    seeds: Sequence[int],
    episodes: int,
    max_steps: int,
    placed: Callable[[int], AbstractContextManager] = lambda place: nullcontext(),
):
    """Plays episodes of several seeds side by side; gives arrays [S, E]. Only the first episode of each world counts.

    `act(time, obs [S, E, ...]) -> actions [S, E, ...]`. Whatever the worlds of the seed at a place do is done within
    `placed(place)`.
    """
    returned, length = np.zeros((len(seeds), episodes)), np.zeros((len(seeds), episodes), np.int64)
    alive = np.ones((len(seeds), episodes), bool)
    with ExitStack() as opened:
        worlds, first = [], []
        for place, seed in enumerate(seeds):
            with placed(place):
                worlds.append(opened.enter_context(closing(environment.open(episodes, seed))))
                first.append(worlds[-1].reset())
        obs = np.stack(first)
        for time in range(max_steps):
            actions = act(time, obs)
            for place in np.nonzero(alive.any(axis=1))[0].tolist():
                with placed(place):
                    outcome = worlds[place].step(actions[place])
                obs[place] = outcome.obs
                returned[place] += np.where(alive[place], outcome.reward, 0)
                length[place] += alive[place]
                alive[place] &= ~(outcome.terminated | outcome.truncated)
            if not alive.any():
                break
    return returned, length, ~alive


def film(
    environment: Environment | HostEnvironment, act: Callable, seed: int, max_steps: int
) -> Generator[np.ndarray, None, float]:
    """Plays one episode. Yields a picture before each step (and one after `max_steps` steps), and gives its return."""
    act_key = random_keys.named(random_keys.root(seed), "act")
    if isinstance(environment, HostEnvironment):
        worlds: Any = environment.open(1, seed, render=True)
    else:
        worlds = OneOnDevice(environment, seed)
        if not worlds.has_picture:
            raise SharedqError(
                f"'{environment.spec.name}' has no pictures: what can be filmed are environments of Gymnasium and "
                "of the Control Suite, and games whose observations are images; for CartPole train with "
                "--environment gymnasium --environment.id CartPole-v1"
            )
    returned = 0.0
    with closing(worlds):
        obs = worlds.reset()
        yield worlds.picture()
        for time in range(max_steps):
            outcome = worlds.step(np.asarray(act(random_keys.at(act_key, time), obs)))
            obs = outcome.obs
            returned += float(outcome.reward[0])
            if outcome.terminated[0] or outcome.truncated[0]:
                break
            yield worlds.picture()
    return returned


class OneOnDevice:
    """One environment on the device, stepped from the host. Its pictures are its observations, if these are images."""

    def __init__(self, environment: Environment, seed: int):
        self.has_picture = has_picture(np.zeros(environment.spec.observation.shape))
        root = random_keys.root(seed)
        self._key, self._first = random_keys.named(root, "environment"), random_keys.named(root, "first episodes")
        self._reset, self._step = jax.jit(jax.vmap(environment.reset)), jax.jit(jax.vmap(environment.step))
        self._time = 0

    def reset(self) -> np.ndarray:
        self._state, obs = self._reset(self._first[None])
        self._obs = np.asarray(obs)
        return self._obs

    def step(self, actions: np.ndarray) -> Outcome:
        self._state, outcome = self._step(random_keys.at(self._key, self._time)[None], self._state, actions)
        self._time += 1
        outcome = jax.tree.map(np.asarray, outcome)
        self._obs = outcome.obs
        return outcome

    def picture(self) -> np.ndarray:
        return picture(self._obs[0])

    def close(self) -> None: ...
