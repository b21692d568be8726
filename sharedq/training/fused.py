"""Collecting and learning in one compiled scan, for environments that live on the device.

One *cycle* is the smallest number of environment steps after which a whole number of updates is due; a *chunk* is
many cycles in one compiled call, all seeds in it. Between chunks, `loop.py` logs and saves.

Shape letters: N environments of a seed, V vector steps of a chunk.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm, State
from sharedq.analysis.cost import size
from sharedq.environments.contract import Environment, autoreset
from sharedq.replay.replay import Replay
from sharedq.settings import require
from sharedq.training.program import Ended, Program, Told
from sharedq.training.seeds import Layout
from sharedq.transitions import Batch, Step, Transition


@dataclass(frozen=True)
class Fused:
    """Environment and learner in one compiled program: how long, how often to learn, how often to write it down."""

    steps: int = 1_000_000  # environment steps of each seed, all its environments together
    environments: int = 8  # environments of each seed, stepped side by side
    warm_up: int = 5_000  # environment steps before the first update
    update_period: int = 4  # environment steps per update
    log_period: int = 10_000  # environment steps between two rows of the log
    checkpoint_period: int = 100_000  # environment steps between two checkpoints

    def __post_init__(self):
        for name in ("steps", "environments", "update_period", "log_period", "checkpoint_period"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1, not {getattr(self, name)}")
        require(self.warm_up >= 0, f"training.warm_up cannot be negative: {self.warm_up}")

    def build(self, environment: Environment, algorithm: Algorithm, replay: Replay, seeds: list[int]) -> Program:
        return FusedProgram(environment, algorithm, replay, self, seeds)

    @property
    def cycle(self) -> int:
        """Environment steps in one cycle: the smallest number after which a whole number of updates is due."""
        return math.lcm(self.environments, self.update_period)

    def cycles(self, steps: int) -> int:
        """The cycles that cover so many environment steps."""
        return -(-steps // self.cycle)


class Episode(NamedTuple):
    """The episode that an environment is in, [N] each."""

    returned: jax.Array
    length: jax.Array


class Run(NamedTuple):
    """One seed's whole run: everything that changes, so that jit, checkpoints and resuming come from one place."""

    seed: jax.Array
    agent: State
    replay: Any
    environment: Any
    obs: Any
    episode: Episode


class Log(NamedTuple):
    """What a chunk tells of itself. Of a chunk shorter than its room only the first rows of the episodes hold."""

    metrics: dict[str, jax.Array]  # means over the chunk's updates; empty before the first update
    first_bad_update: jax.Array  # counted from the run's first; -1 if every loss was finite
    params_finite: jax.Array
    ended: jax.Array  # [V, N] whether an episode ended at the chunk's vector step V
    episode: Episode  # [V, N] each


def step_like(environment: Environment) -> Step:
    """The shapes of one step of an environment."""
    obs, number, flag = environment.observation, jnp.float32, jnp.bool_
    scalar = jax.ShapeDtypeStruct
    return Step(obs, scalar((), jnp.int32), scalar((), number), scalar((), flag), scalar((), flag), obs)


def example_batch(environment: Environment, size: int) -> Batch:
    """A batch of zeros, to build networks on."""
    step = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), step_like(environment))
    transition = Transition(step.obs, step.action, step.reward, jnp.zeros(size), step.next_obs)
    return Batch(transition, jnp.ones(size), jnp.zeros(size, jnp.int32))


def begin(environment: Environment, algorithm: Algorithm, replay: Replay, training: Fused):
    """`begin(seed) -> Run`: one seed before its first step."""

    def function(seed: jax.Array) -> Run:
        key = random_keys.root(seed)
        agent = algorithm.init(random_keys.named(key, "network"), example_batch(environment, replay.batch_size))
        keys = jax.random.split(random_keys.named(key, "first episodes"), training.environments)
        state, obs = jax.vmap(environment.reset)(keys)
        return Run(seed, agent, replay.init(), state, obs, _no_episode((training.environments,)))

    return function


def _no_episode(shape: tuple[int, ...]) -> Episode:
    return Episode(jnp.zeros(shape), jnp.zeros(shape, jnp.int32))


def advance(environment: Environment, algorithm: Algorithm, replay: Replay, training: Fused, room: int, learn: bool):
    """`advance(span, run) -> Run, Log`: one chunk of one seed, cycles span[0] .. span[1]-1, `room` of them at most."""
    size = training.environments
    collects, updates = training.cycle // size, training.cycle // training.update_period
    step_all = jax.vmap(autoreset(environment).step)

    def function(span: tuple[jax.Array, jax.Array], run: Run) -> tuple[Run, Log]:
        key = random_keys.root(run.seed)
        act_key, world_key, replay_key, update_key = (
            random_keys.named(key, name) for name in ("act", "environment", "replay", "update")
        )

        def collect(run: Run, time: jax.Array):  # time counts steps of each environment
            action = algorithm.act(run.agent, random_keys.at(act_key, time), run.obs, time * size)
            keys = jax.random.split(random_keys.at(world_key, time), size)
            state, outcome = step_all(keys, run.environment, action)
            reward, terminated, truncated = outcome.reward, outcome.terminated, outcome.truncated
            step = Step(run.obs, action, reward, terminated, truncated, outcome.final_obs)
            ended = terminated | truncated
            episode = Episode(run.episode.returned + reward, run.episode.length + 1)
            fresh = jax.tree.map(lambda x: jnp.where(ended, 0, x), episode)
            data = replay.add(run.replay, time, step)
            run = run._replace(replay=data, environment=state, obs=outcome.obs, episode=fresh)
            return run, (ended, episode)

        def learn_once(run: Run, count: jax.Array, written: jax.Array):  # count is of updates, from 1
            batch = replay.sample(run.replay, written, random_keys.at(replay_key, count))
            agent, metrics = algorithm.update(run.agent, batch, random_keys.at(update_key, count), count)
            data = replay.update(run.replay, batch.ids, metrics["td_error"])
            return run._replace(agent=agent, replay=data), jax.tree.map(jnp.mean, metrics)

        def learn_all(run: Run, number: jax.Array):
            counts, written = number * updates + 1 + jnp.arange(updates), (number + 1) * collects
            run, metrics = jax.lax.scan(lambda run, count: learn_once(run, count, written), run, counts)
            bad = ~jnp.isfinite(metrics["loss"])
            first_bad = jnp.where(bad.any(), counts[jnp.argmax(bad)], -1)
            return run, jax.tree.map(jnp.sum, metrics), first_bad

        def cycle(number: jax.Array, carry):  # number counts cycles of the run
            run, episodes, sums, first_bad = carry
            run, new = jax.lax.scan(collect, run, number * collects + jnp.arange(collects))
            start = (number - span[0]) * collects
            episodes = jax.tree.map(
                lambda rows, x: jax.lax.dynamic_update_slice_in_dim(rows, x, start, 0), episodes, new
            )
            if learn:
                run, metrics, bad = learn_all(run, number)
                sums = jax.tree.map(jnp.add, sums, metrics)
                first_bad = jnp.where(first_bad < 0, bad, first_bad)
            return run, episodes, sums, first_bad

        rows = (room * collects, size)
        episodes = (jnp.zeros(rows, bool), _no_episode(rows))
        sums = jax.eval_shape(learn_all, run, span[0])[1] if learn else {}
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
        run, (ended, episode), sums, first_bad = jax.lax.fori_loop(*span, cycle, (run, episodes, sums, jnp.int32(-1)))
        made = (span[1] - span[0]) * updates
        finite = jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(run.agent.params)]))
        return run, Log(jax.tree.map(lambda x: x / made, sums), first_bad, finite, ended, episode)

    return function


class FusedProgram:
    """The compiled programs of an experiment whose environment lives on the device (see `program.Program`)."""

    def __init__(
        self, environment: Environment, algorithm: Algorithm, replay: Replay, settings: Fused, seeds: list[int]
    ):
        self.seeds, self.settings, self.layout = seeds, settings, Layout(len(seeds))
        parts = (environment, algorithm, replay, settings)
        warm, end = settings.cycles(settings.warm_up), settings.cycles(settings.steps)
        room = min(max(settings.log_period // settings.cycle, 1), end)
        self._warm = min(warm, end)
        self.stops = [c * settings.cycle for c in sorted({*range(room, end, room), self._warm, end} - {0})]
        begin_one = begin(environment, algorithm, replay, settings)
        self._run_shape = jax.eval_shape(begin_one, jnp.int32(0))
        self._begin = self.layout.spread(lambda shared, seed: (seed, begin_one(seed)))
        self._collect = self.layout.spread(advance(*parts, room, learn=False))
        self._learn = self.layout.spread(advance(*parts, room, learn=True))
        log = jax.eval_shape(advance(*parts, room, learn=True), (jnp.int32(0), jnp.int32(1)), self._run_shape)[1]
        self.metric_names = sorted(log.metrics)

    def shapes(self) -> Run:
        count = len(self.seeds)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), self._run_shape)

    def prepare(self) -> int:
        runs = self.layout.shapes(self._run_shape)
        span = (jnp.int32(0), jnp.int32(0))
        self._collect = self._collect.lower(span, runs).compile()
        self._learn = self._learn.lower(span, runs).compile()
        scratch = self._learn.memory_analysis()
        return size(runs) + (scratch.temp_size_in_bytes if scratch else 0) * self.layout.devices

    def begin(self) -> Run:
        return self._begin(jnp.int32(0), self.layout.place(np.array(self.seeds, np.int32)))[1]

    def advance(self, run: Run, start: int, stop: int) -> tuple[Run, Told]:
        first, last = start // self.settings.cycle, stop // self.settings.cycle
        compiled = self._collect if last <= self._warm else self._learn
        run, log = compiled((jnp.int32(first), jnp.int32(last)), run)
        return run, self._told(self.layout.fetch(log), start, stop)

    def _told(self, log: Log, start: int, stop: int) -> Told:
        size = self.settings.environments
        rows = (stop - start) // size
        episodes = []
        for seed in range(len(self.seeds)):
            ended = log.ended[seed, :rows]
            steps = start + (np.nonzero(ended)[0] + 1) * size
            returned, length = (x[seed, :rows][ended] for x in log.episode)
            episodes.append(Ended(steps, returned, length))
        bad = np.where(log.first_bad_update < 0, -1, log.first_bad_update * self.settings.update_period)
        return Told(log.metrics, episodes, bad, log.params_finite)

    def to_host(self, run: Run) -> Run:
        return self.layout.fetch(run)

    def to_devices(self, run: Run) -> Run:
        return self.layout.place(run)
