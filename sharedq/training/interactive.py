"""Learning on the device from worlds that Python steps on the host: emulators, simulators, anything of Gymnasium.

In each cycle (see `schedule.py`) the device chooses actions and the host steps its worlds, `collects` times; then one
compiled call stores what happened and makes all updates that are due, for all seeds.

Shape letters: S seeds, N environments of a seed, V vector steps of a cycle.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm, State
from sharedq.analysis.cost import size
from sharedq.environments.contract import HostEnvironment, Outcome, Worlds
from sharedq.replay.replay import Replay
from sharedq.settings import require
from sharedq.training.learning import all_finite, bounded, example_batch, learner, step_like
from sharedq.training.program import Ended, Program, Told
from sharedq.training.schedule import Schedule
from sharedq.training.seeds import Layout
from sharedq.transitions import Step


@dataclass(frozen=True)
class Interactive(Schedule):
    """The host steps the environments and the device learns: for Atari and Gymnasium."""

    environments: int = 1  # environments of each seed, stepped side by side

    def build(self, environment: HostEnvironment, algorithm: Algorithm, replay: Replay, seeds: list[int]) -> Program:
        runs = isinstance(environment, HostEnvironment)
        require(runs, f"'{environment.name}' is compiled and not stepped by the host: add --training fused")
        return InteractiveProgram(environment, algorithm, replay, self, seeds)


class Learner(NamedTuple):
    """What a seed holds on the device."""

    seed: jax.Array
    agent: State
    replay: Any


class Run(NamedTuple):
    """The whole run but for the worlds: the learner on the devices, the rest on the host, [S, N] each."""

    seed: Any
    agent: State
    replay: Any
    obs: np.ndarray  # to act on next
    returned: np.ndarray  # by the episode that each world is in
    length: np.ndarray


def _learner(run: Run) -> Learner:
    return Learner(run.seed, run.agent, run.replay)


def _run(learner: Learner, obs: np.ndarray, returned: np.ndarray, length: np.ndarray) -> Run:
    return Run(learner.seed, learner.agent, learner.replay, obs, returned, length)


class InteractiveProgram:
    """The compiled programs, and the worlds, of an experiment on the host (see `program.Program`)."""

    def __init__(
        self,
        environment: HostEnvironment,
        algorithm: Algorithm,
        replay: Replay,
        settings: Interactive,
        seeds: list[int],
    ):
        self.seeds, self.settings, self.layout, self.stops = seeds, settings, Layout(len(seeds)), settings.stops
        self._environment = environment
        self._worlds: list[Worlds] = []
        envs, collects = settings.environments, settings.collects
        learn_all = learner(algorithm, replay, settings.updates)

        def begin(shared, seed):
            key = random_keys.named(random_keys.root(seed), "network")
            agent = algorithm.init(key, example_batch(environment, replay.batch_size))
            return seed, Learner(seed, agent, replay.init())

        def act(time, given):  # time counts steps of each environment
            learner, obs = given
            key = random_keys.named(random_keys.root(learner.seed), "act")
            return algorithm.act(learner.agent, random_keys.at(key, time), obs, time * envs)

        def store(number, own):  # number counts cycles of the run
            learner, steps = own

            def add(place, data):
                step = jax.tree.map(lambda x: x[place], steps)
                return replay.add(data, number * collects + place, bounded(step, settings.reward_bound))

            data = jax.lax.fori_loop(0, collects, add, learner.replay)
            return (learner._replace(replay=data), steps), ()

        def learn(number, own):
            (learner, steps), _ = store(number, own)
            key = random_keys.root(learner.seed)
            agent, data, sums, bad = learn_all(key, learner.agent, learner.replay, number, (number + 1) * collects)
            return (learner._replace(agent=agent, replay=data), steps), (sums, bad)

        self._begin, self._store, self._learn = (self.layout.spread(one) for one in (begin, store, learn))
        self._act: Any = self.layout.ask(act)
        self._finite = self.layout.ask(lambda _, learner: all_finite(learner.agent.params))
        zero = jnp.int32(0)
        self._learner_shape = jax.eval_shape(begin, zero, zero)[1]
        obs = environment.observation
        self._obs_shape = jax.ShapeDtypeStruct((envs, *obs.shape), obs.dtype)
        self._steps_shape = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((collects, envs, *x.shape), x.dtype), step_like(environment)
        )
        told = jax.eval_shape(learn, zero, (self._learner_shape, self._steps_shape))[1]
        self.metric_names = sorted(told[0])

    def shapes(self) -> Run:
        count, envs = len(self.seeds), self.settings.environments
        learner, obs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), (self._learner_shape, self._obs_shape)
        )
        none = np.zeros((count, envs))
        return _run(learner, np.zeros(obs.shape, obs.dtype), none, none.astype(np.int64))

    def prepare(self) -> int:
        learner, obs, steps = map(self.layout.shapes, (self._learner_shape, self._obs_shape, self._steps_shape))
        self._begin = self._begin.lower(jnp.int32(0), self._seeds()).compile()
        self._act = self._act.lower(jnp.int32(0), (learner, obs)).compile()
        self._store = self._store.lower(jnp.int32(0), (learner, steps)).compile()
        self._learn = self._learn.lower(jnp.int32(0), (learner, steps)).compile()
        scratch = self._learn.memory_analysis()
        return size((learner, steps)) + (scratch.temp_size_in_bytes if scratch else 0) * self.layout.devices

    def begin(self) -> Run:
        learner = self._begin(jnp.int32(0), self._seeds())[1]
        obs = np.stack([worlds.reset() for worlds in self._opened()])
        none = np.zeros(obs.shape[:2])
        return _run(learner, obs, none, none.astype(np.int64))

    def _seeds(self) -> jax.Array:
        return self.layout.place(np.array(self.seeds, np.int32))

    def _opened(self) -> list[Worlds]:
        self.close()
        self._worlds = [self._environment.open(self.settings.environments, seed) for seed in self.seeds]
        return self._worlds

    def advance(self, run: Run, start: int, stop: int) -> tuple[Run, Told]:
        learner, obs = _learner(run), run.obs
        returned, length = run.returned.copy(), run.length.copy()
        first, last = start // self.settings.cycle, stop // self.settings.cycle
        ended: list[list[tuple]] = [[] for _ in self.seeds]
        told = []
        for number in range(first, last):
            steps = []
            for time in range(number * self.settings.collects, (number + 1) * self.settings.collects):
                step, obs = self._step(learner, obs, time)
                steps.append(step)
                returned += step.reward
                length += 1
                done = step.terminated | step.truncated
                for place, world in zip(*np.nonzero(done), strict=True):
                    at = (time + 1) * self.settings.environments
                    ended[place].append((at, returned[place, world], length[place, world]))
                returned[done], length[done] = 0, 0
            learner, one = self._absorb(learner, steps, number, self.settings.warms_up(stop))
            told += one
        return _run(learner, obs, returned, length), self._told(learner, ended, jax.device_get(told))

    def _step(self, learner: Learner, obs: np.ndarray, time: int) -> tuple[Step, np.ndarray]:
        """One step of every world of every seed: what happened, and what to act on next."""
        given = (learner, self.layout.place(obs))
        actions = self.layout.fetch(self._act(jnp.int32(time), given))
        outcomes = [worlds.step(action) for worlds, action in zip(self._worlds, actions, strict=True)]
        out = Outcome(*map(np.stack, zip(*outcomes, strict=True)))
        return Step(obs, actions, out.reward, out.terminated, out.truncated, out.final_obs), out.obs

    def _absorb(self, learner: Learner, steps: list[Step], number: int, warming_up: bool) -> tuple[Learner, list]:
        """Stores the steps of a cycle and, after the warm-up, makes its updates, which nobody waits for here."""
        stacked = Step(*(np.stack(x, axis=1) for x in zip(*steps, strict=True)))  # [S, V, N, ...]
        own = (learner, self.layout.place(stacked))
        if warming_up:
            (learner, _), _ = self._store(jnp.int32(number), own)
            return learner, []
        (learner, _), told = self._learn(jnp.int32(number), own)
        return learner, [told]

    def _told(self, learner: Learner, ended: list[list[tuple]], told: list) -> Told:
        episodes = [Ended(*(np.array(x) for x in zip(*one, strict=True))) if one else _NONE for one in ended]
        finite = self.layout.fetch(self._finite(jnp.int32(0), learner))
        count = len(self.seeds)
        if not told:
            return Told({}, episodes, np.full(count, -1), finite)
        made = len(told) * self.settings.updates
        sums, bad = jax.tree.map(lambda *x: np.stack(x)[:, :count], *told)
        first = np.where(bad >= 0, bad, np.iinfo(np.int32).max).min(axis=0)
        bad_step = np.where(first == np.iinfo(np.int32).max, -1, first.astype(np.int64) * self.settings.update_period)
        return Told({name: x.sum(axis=0) / made for name, x in sums.items()}, episodes, bad_step, finite)

    def to_host(self, run: Run) -> Run:
        return _run(self.layout.fetch(_learner(run)), run.obs, run.returned, run.length)

    def to_devices(self, run: Run) -> Run:
        return _run(self.layout.place(_learner(run)), run.obs, run.returned, run.length)

    def save_worlds(self) -> Any:
        return [worlds.save() for worlds in self._worlds]

    def load_worlds(self, saved: Any) -> None:
        for worlds, one in zip(self._opened(), saved, strict=True):
            worlds.load(one)

    def close(self) -> None:
        for worlds in self._worlds:
            worlds.close()
        self._worlds = []


_NONE = Ended(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
