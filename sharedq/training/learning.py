"""What every loop does with an algorithm and a replay, whoever steps the environments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm, State
from sharedq.environments.contract import Environment, HostEnvironment
from sharedq.replay.replay import Replay
from sharedq.transitions import Batch, Step, Transition


def step_like(environment: Environment | HostEnvironment) -> Step:
    """The shapes of one step of an environment."""
    obs = environment.observation
    number, flag = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.bool_))
    return Step(obs, environment.actions.one, number, flag, flag, obs)


def example_batch(environment: Environment | HostEnvironment, size: int) -> Batch:
    """A batch of zeros, to build networks on."""
    step = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), step_like(environment))
    transition = Transition(step.obs, step.action, step.reward, jnp.zeros(size), step.next_obs)
    return Batch(transition, jnp.ones(size), jnp.zeros(size, jnp.int32))


def bounded(step: Step, bound: float | None) -> Step:
    """The step as it is learned from."""
    return step if bound is None else step._replace(reward=jnp.clip(step.reward, -bound, bound))


def learner(algorithm: Algorithm, replay: Replay, updates: int) -> Callable:
    """`learn(key, agent, data, number, written) -> agent, data, sums, first_bad`: the updates of cycle `number`.

    `sums` are over the updates; `first_bad` is the number of the first whose loss is not finite, counted from the
    run's first, or -1.
    """

    def learn(key: jax.Array, agent: State, data: Any, number: jax.Array, written: jax.Array):
        replay_key, update_key = (random_keys.named(key, name) for name in ("replay", "update"))

        def once(carry, count: jax.Array):
            agent, data = carry
            batch = replay.sample(data, written, random_keys.at(replay_key, count))
            agent, metrics = algorithm.update(agent, batch, random_keys.at(update_key, count), count)
            data = replay.update(data, batch.ids, metrics["td_error"])
            return (agent, data), jax.tree.map(jnp.mean, metrics)

        counts = number * updates + 1 + jnp.arange(updates)
        (agent, data), metrics = jax.lax.scan(once, (agent, data), counts)
        bad = ~jnp.isfinite(metrics["loss"])
        first_bad = jnp.where(bad.any(), counts[jnp.argmax(bad)], -1)
        return agent, data, jax.tree.map(jnp.sum, metrics), first_bad

    return learn


def all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
