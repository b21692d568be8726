"""Collecting and learning in one compiled loop, for environments on the device.

A *chunk* is one compiled call that runs many cycles (see `schedule.py`) of all seeds. Between chunks, `loop.py` logs
and saves.

Shape letters: N environments of a seed, V vector steps of a chunk.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.environments.contract import Environment, autoreset
from sharedq.replay.replay import Replay
from sharedq.settings import require
from sharedq.training.compiled_program import CompiledProgram, learner_of
from sharedq.training.learning import MetricSums, all_finite, begin_learner, bounded, make_observe, make_update
from sharedq.training.measuring import NOTHING, Measuring
from sharedq.training.memory import scratch_of
from sharedq.training.program import ChunkResult, FinishedEpisodes, Program
from sharedq.training.schedule import Schedule
from sharedq.transitions import Step
from sharedq.trees import size


@dataclass(frozen=True)
class Fused(Schedule):
    """Environment and learner in one compiled program, for environments written in JAX."""

    def build(
        self,
        environment: Environment,
        algorithm: Algorithm,
        replay: Replay,
        seeds: list[int],
        measuring: Measuring = NOTHING,
    ) -> Program:
        compiles = isinstance(environment, Environment)
        require(
            compiles, f"'{environment.spec.name}' runs on the host and cannot be compiled: add --training interactive"
        )
        return FusedProgram(environment, algorithm, replay, self, seeds, measuring)


class Episode(NamedTuple):
    """The current episode of each environment: its return so far and its length so far, [N] each."""

    returned: jax.Array
    length: jax.Array


class Run(NamedTuple):
    """Everything that changes during the run of one seed, in one pytree for jit, checkpoints and resuming."""

    seed: jax.Array
    agent: Any
    replay: Any
    environment: Any
    obs: Any
    episode: Episode
    measures: Any = ()


class Log(NamedTuple):
    """What a chunk reports. If the chunk is shorter than the arrays, only the first rows of the episodes are valid."""

    metrics: dict[str, jax.Array]  # means over the chunk's steps and updates; empty before the first update
    bad_step: jax.Array  # environment step of the first loss that was not finite, or -1
    params_finite: jax.Array
    ended: jax.Array  # [V, N] whether an episode ended at this vector step of the chunk
    episode: Episode  # [V, N] each


class Parts(NamedTuple):
    """The parts that the functions below put together."""

    environment: Environment
    algorithm: Algorithm
    replay: Replay
    training: Fused
    measuring: Measuring


def begin(parts: Parts):
    """Returns `begin(seed) -> Run`, which makes the run of one seed before its first step."""

    environment, algorithm, replay, training, measuring = parts

    def function(seed: jax.Array) -> Run:
        learner = begin_learner(seed, algorithm, environment.spec, replay, measuring)
        key = random_keys.root(seed)
        keys = jax.random.split(random_keys.named(key, "first episodes"), training.environments)
        state, obs = jax.vmap(environment.reset)(keys)
        episode = _no_episode((training.environments,))
        return Run(seed, learner.agent, learner.replay, state, obs, episode, learner.measures)

    return function


def _no_episode(shape: tuple[int, ...]) -> Episode:
    return Episode(jnp.zeros(shape), jnp.zeros(shape, jnp.int32))


def advance(parts: Parts, zero: MetricSums, learn: bool):
    """Returns `advance(span, run) -> Run, Log`, which runs the cycles span[0] .. span[1]-1 of one seed."""
    environment, algorithm, replay, training, measuring = parts
    size, steps_per_cycle = training.environments, training.steps_per_cycle
    step_all = jax.vmap(autoreset(environment).step)
    observe = make_observe(algorithm, training, measuring)
    update = make_update(algorithm, replay, training, measuring)

    def function(span: tuple[jax.Array, jax.Array], run: Run) -> tuple[Run, Log]:
        key = random_keys.root(run.seed)
        act_key, world_key = (random_keys.named(key, name) for name in ("act", "environment"))

        def collect(carry, time: jax.Array):  # time counts the steps of each environment
            run, sums = carry
            action = algorithm.act(run.agent, random_keys.at(act_key, time), run.obs, time * size)
            keys = jax.random.split(random_keys.at(world_key, time), size)
            state, outcome = step_all(keys, run.environment, action)
            reward, terminated, truncated = outcome.reward, outcome.terminated, outcome.truncated
            step = bounded(
                Step(run.obs, action, reward, terminated, truncated, outcome.final_obs), training.reward_bound
            )
            ended = terminated | truncated
            episode = Episode(run.episode.returned + reward, run.episode.length + 1)
            fresh = jax.tree.map(lambda x: jnp.where(ended, 0, x), episode)
            data = replay.add(run.replay, time, step)
            learner, sums = observe(learner_of(run)._replace(replay=data), sums, step, outcome.obs, time)
            run = Run(run.seed, learner.agent, learner.replay, state, outcome.obs, fresh, learner.measures)
            return (run, sums), (ended, episode)

        def cycle(number: jax.Array, carry):  # number counts the cycles of the run
            run, episodes, sums = carry
            (run, sums), new = jax.lax.scan(
                collect, (run, sums), number * steps_per_cycle + jnp.arange(steps_per_cycle)
            )
            start = (number - span[0]) * steps_per_cycle
            episodes = jax.tree.map(
                lambda rows, x: jax.lax.dynamic_update_slice_in_dim(rows, x, start, 0), episodes, new
            )
            if learn:
                learner, sums = update(learner_of(run), sums, number)
                run = run._replace(**learner._asdict())
            return run, episodes, sums

        rows = (training.cycles_between_logs * steps_per_cycle, size)
        episodes = (jnp.zeros(rows, bool), _no_episode(rows))
        run, (ended, episode), sums = jax.lax.fori_loop(*span, cycle, (run, episodes, zero))
        cycles = span[1] - span[0]
        metrics = sums.means(cycles * steps_per_cycle, cycles * training.updates_per_cycle) if learn else {}
        return run, Log(metrics, sums.bad_step, all_finite(run.agent.params), ended, episode)

    return function


class FusedProgram(CompiledProgram):
    """The compiled programs of an experiment whose environment is on the device (see `program.Program`)."""

    settings: Fused

    def __init__(
        self,
        environment: Environment,
        algorithm: Algorithm,
        replay: Replay,
        settings: Fused,
        seeds: list[int],
        measuring: Measuring,
    ):
        super().__init__(environment, algorithm, replay, settings, seeds, measuring)
        parts, zero = Parts(environment, algorithm, replay, settings, measuring), self._zero_metrics
        begin_one = begin(parts)
        self._run_shape = jax.eval_shape(begin_one, jnp.int32(0))
        self._begin = self.layout.spread(lambda shared, seed: (seed, begin_one(seed)))
        self._collect = self.layout.spread(advance(parts, zero, learn=False))
        self._learn = self.layout.spread(advance(parts, zero, learn=True))

    def shapes(self) -> Run:
        return self._of_all_seeds(self._run_shape)

    def prepare(self) -> int:
        runs = self.layout.shapes(self._run_shape)
        span = (jnp.int32(0), jnp.int32(0))
        self._begin = self._begin.lower(jnp.int32(0), self._seeds()).compile()
        if self.settings.warm_up:
            self._collect = self._collect.lower(span, runs).compile()
        self._learn = self._learn.lower(span, runs).compile()
        measuring = self._prepare_log(learner_of(runs))
        scratch = max(scratch_of(self._learn), self._prepare_evaluation(runs.agent), measuring)
        return size(runs) + scratch * self.layout.devices

    def begin(self) -> Run:
        return self._begin(jnp.int32(0), self._seeds())[1]

    def advance(self, run: Run, start: int, stop: int) -> tuple[Run, ChunkResult]:
        first, last = start // self.settings.cycle, stop // self.settings.cycle
        compiled = self._collect if self.settings.warms_up(stop) else self._learn
        run, log = compiled((jnp.int32(first), jnp.int32(last)), run)
        told = self._told(self.layout.fetch(log), start, stop)
        return run, self._measured(told, learner_of(run), start, stop)

    def _told(self, log: Log, start: int, stop: int) -> ChunkResult:
        size = self.settings.environments
        rows = (stop - start) // size
        episodes = []
        for seed in range(len(self.seeds)):
            ended = log.ended[seed, :rows]
            steps = start + (np.nonzero(ended)[0] + 1) * size
            returned, length = (x[seed, :rows][ended] for x in log.episode)
            episodes.append(FinishedEpisodes(steps, returned, length))
        return ChunkResult(log.metrics, episodes, log.bad_step, log.params_finite)
