"""What all loops do with an algorithm and a replay, wherever the environments step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.environments.spec import EnvironmentSpec, Tokens
from sharedq.formats import MEASURES
from sharedq.replay.replay import Replay, ReplayLike
from sharedq.training.measuring import Measuring, computed_after
from sharedq.training.schedule import Schedule
from sharedq.transitions import Batch, Step, Transition


def step_like(spec: EnvironmentSpec) -> Step:
    """The shapes of one step of an environment."""
    obs = spec.observation
    number, flag = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.bool_))
    return Step(obs, spec.actions.one, number, flag, flag, obs)


def example_step(spec: EnvironmentSpec, size: int) -> Step:
    """Steps that are all zeros, one per environment."""
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), step_like(spec))


def example_batch(spec: EnvironmentSpec, size: int) -> Batch:
    """A batch of zeros, to initialise networks with. Of text it has whole episodes, as their feed does."""
    step = example_step(spec, size)
    if isinstance(spec.actions, Tokens):
        reward = jnp.zeros(step.obs.shape)
        return Batch(Transition(step.obs, (), reward, jnp.zeros(size), ()), jnp.ones(size), jnp.zeros(size, jnp.int32))
    transition = Transition(step.obs, step.action, step.reward, jnp.zeros(size), step.next_obs)
    return Batch(transition, jnp.ones(size), jnp.zeros(size, jnp.int32))


class Learner(NamedTuple):
    """What every loop has of a seed on the device."""

    seed: jax.Array
    agent: Any
    replay: Any
    measures: Any = ()  # what the measures keep in the run


def begin_learner(
    seed: jax.Array, algorithm: Algorithm, spec: EnvironmentSpec, replay: ReplayLike, measuring: Measuring
) -> Learner:
    """The learner of a seed before its first step."""
    key = random_keys.named(random_keys.root(seed), "network")
    agent = algorithm.init(key, example_batch(spec, replay.batch_size))
    return Learner(seed, agent, replay.init(), measuring.init(agent))


def bounded(step: Step, bound: float | None) -> Step:
    """The step with its reward clipped to -bound .. bound, as the learner gets it."""
    return step if bound is None else step._replace(reward=jnp.clip(step.reward, -bound, bound))


class MetricSums(NamedTuple):
    """Sums of the metrics that the algorithm of one seed reported since the last row of the log."""

    observed: dict[str, jax.Array]  # sums over vector steps
    updated: dict[str, jax.Array]  # sums over updates
    bad_step: jax.Array  # environment step of the first loss that was not finite, or -1
    measured: dict[str, jax.Array]  # sums over the updates that were measured
    times: Any  # the number of these updates; nothing without measures

    def observing(self, metrics: dict, step: jax.Array) -> "MetricSums":
        """Adds the metrics of one vector step, which ends at environment step `step`."""
        metrics, steps = jax.tree.map(lambda x: jnp.mean(x)[None], metrics), jnp.reshape(step, 1)
        return self._replace(observed=_added(self.observed, metrics), bad_step=self._first_bad(metrics, steps))

    def updating(self, metrics: dict, steps: jax.Array) -> "MetricSums":
        """Adds the metrics of updates [U], which are due at these environment steps."""
        return self._replace(updated=_added(self.updated, metrics), bad_step=self._first_bad(metrics, steps))

    def measuring(self, numbers: dict, due: jax.Array) -> "MetricSums":
        """Adds the numbers of measures of updates, [U] or one; those of updates that are not `due` are zero."""
        return self._replace(measured=_added(self.measured, numbers), times=self.times + jnp.sum(due))

    def _first_bad(self, metrics: dict, steps: jax.Array) -> jax.Array:
        if "loss" not in metrics:
            return self.bad_step
        bad = ~jnp.isfinite(metrics["loss"])
        first = jnp.where(bad.any(), steps[jnp.argmax(bad)], -1)
        return jnp.where(self.bad_step < 0, first, self.bad_step)

    @property
    def names(self) -> list[str]:
        """The names in the log, in its order."""
        return sorted({**self.observed, **self.updated}) + [MEASURES + name for name in self.measured]

    def means(self, steps: Any, updates: Any) -> dict[str, Any]:
        """The means over this many vector steps and updates."""
        observed = {name: x / steps for name, x in self.observed.items()}
        measured = {
            MEASURES + name: jnp.where(self.times > 0, x / jnp.maximum(self.times, 1), jnp.nan)
            for name, x in self.measured.items()
        }
        return observed | {name: x / updates for name, x in self.updated.items()} | measured


def _added(sums: dict, metrics: dict) -> dict:
    return jax.tree.map(lambda total, x: total + jnp.sum(x), sums, metrics)


def zero_metrics(
    algorithm: Algorithm, spec: EnvironmentSpec, replay: ReplayLike, environments: int, measuring: Measuring
) -> MetricSums:
    """Sums of zero for all metrics of the algorithm. Their names are found by tracing, without running anything."""

    def metrics(key: jax.Array, count: jax.Array):
        batch, step = example_batch(spec, replay.batch_size), example_step(spec, environments)
        agent = algorithm.init(key, batch)
        updated = {} if algorithm.update is None else algorithm.update(agent, batch, key, count)[2]
        updated |= dict.fromkeys(replay.metric_names, jnp.float32(0))
        observed = algorithm.observe(agent, key, step, step.next_obs, count)[1]
        return jax.tree.map(jnp.mean, (observed, updated))

    shapes = jax.eval_shape(lambda: metrics(random_keys.root(0), jnp.int32(1)))
    observed, updated = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    measured = dict.fromkeys(measuring.names_at_updates, np.array(0, np.float32))
    times: Any = np.array(0, np.int32) if measured else ()
    return MetricSums(observed, updated, np.array(-1, np.int32), measured, times)


def make_observe(algorithm: Algorithm, training: Schedule, measuring: Measuring) -> Callable:
    """Returns `observe(learner, sums, step, obs, time) -> learner, sums`, which observes the vector step `time`."""

    def observe(learner: Learner, sums: MetricSums, step: Step, obs: Any, time: jax.Array):
        key, count = random_keys.at(random_keys.named(random_keys.root(learner.seed), "observe"), time), time + 1
        if measuring.recent is not None:
            learner = learner._replace(measures=measuring.keep_recent(learner.measures, step, count))
        if measuring.names_at_updates and algorithm.learns_from == "stream":
            assert algorithm.learn is not None and algorithm.refresh is not None
            before, kept = learner.agent, learner.measures
            numbers = measuring.numbers(kept, lambda: measuring.of_step(kept, before, step, obs, key, count), count)
            step = step._replace(obs=computed_after(numbers, step.obs))
            agent, info, metrics = algorithm.learn(learner.agent, key, step, obs, count)
            kept = measuring.after_step(learner.measures, agent, info, count)
            learner = learner._replace(agent=algorithm.refresh(agent, info, count), measures=kept)
            sums = sums.measuring(numbers, measuring.due(count))
        else:
            agent, metrics = algorithm.observe(learner.agent, key, step, obs, count)
            learner = learner._replace(agent=agent)
        return learner, sums.observing(metrics, count * training.environments)

    return observe


def make_gradient_step(algorithm: Algorithm, measuring: Measuring) -> Callable:
    """Returns `one(agent, kept, batch, other, key, count) -> agent, kept, errors, metrics, numbers`, one update.

    `errors` are its TD errors [E, B]. `kept` belongs to the measures, and `numbers` are theirs. `other()` draws a batch
    that is independent of `batch`.
    """
    update = algorithm.update
    assert update is not None

    def one(agent: Any, kept: Any, batch: Batch, other: Callable[[], Batch], key: jax.Array, count: jax.Array):
        if not measuring.names_at_updates:
            agent, errors, metrics = update(agent, batch, key, count)
            return agent, kept, errors, metrics, {}
        assert algorithm.learn is not None and algorithm.refresh is not None
        before = agent
        numbers = measuring.numbers(kept, lambda: measuring.of_update(before, batch, other, key, count), count)
        seen = batch.transition._replace(obs=computed_after(numbers, batch.transition.obs))
        batch = batch._replace(transition=seen)
        agent, info, metrics = algorithm.learn(agent, batch, key, count)
        kept = measuring.after_step(kept, agent, info.for_refresh, count)
        return algorithm.refresh(agent, info.for_refresh, count), kept, info.td_errors, metrics, numbers

    return one


def make_update(
    algorithm: Algorithm, replay: Replay, training: Schedule, measuring: Measuring, lag: int = 0
) -> Callable:
    """Returns `learn(learner, sums, number) -> learner, sums`, which makes the updates of cycle `number`.

    The updates learn from all steps up to the end of cycle `number - lag`.
    """
    if algorithm.update is None:
        return lambda learner, sums, number: (learner, sums)
    updates, gradient_step = training.updates_per_cycle, make_gradient_step(algorithm, measuring)

    def learn(learner: Learner, sums: MetricSums, number: jax.Array):
        key = random_keys.root(learner.seed)
        replay_key, update_key, other_key = (random_keys.named(key, name) for name in ("replay", "update", "measures"))
        written = (number + 1 - lag) * training.steps_per_cycle

        def once(carry, count: jax.Array):
            agent, data, kept = carry
            draw_key = random_keys.at(replay_key, count)
            data, batch, drawn = replay.sample(data, written, agent, count, draw_key)

            def other() -> Batch:
                return replay.sample_uniformly(data, written, random_keys.at(other_key, count))

            key = random_keys.at(update_key, count)
            agent, kept, errors, metrics, numbers = gradient_step(agent, kept, batch, other, key, count)
            data = replay.update(data, written, batch, errors, count)
            return (agent, data, kept), (jax.tree.map(jnp.mean, metrics | drawn), numbers)

        counts = number * updates + 1 + jnp.arange(updates)
        carry = (learner.agent, learner.replay, learner.measures)
        (agent, data, kept), (metrics, numbers) = jax.lax.scan(once, carry, counts)
        learner = Learner(learner.seed, agent, data, kept)
        if measuring.names_at_updates:
            sums = sums.measuring(numbers, measuring.due(counts))
        return learner, sums.updating(metrics, training.step_of(counts))

    return learn


def all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
