"""Learning on the device from worlds that Python steps on the host: emulators, simulators, anything of Gymnasium.

In each cycle (see `schedule.py`) the device chooses actions and the host steps its worlds, `collects` times; then one
compiled call stores what happened and makes all updates that are due, for all seeds. So the next actions wait for the
updates, and the worlds for the actions. With `learn_while_stepping` the updates are sent off before the worlds move,
once a cycle's first actions are chosen, and learn from what was stored in the cycles before.

An algorithm that observes does so in the call that chooses its next actions; what is left over is observed where a
cycle ends, or without a replay where a stretch of the log does.

Where a life is lost, what is learned from says that the world ended; what is logged and begun again does not.

Shape letters: S seeds, N environments of a seed, V vector steps of a cycle.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm, no_observation
from sharedq.analysis.cost import size
from sharedq.environments.contract import HostEnvironment, Outcome, Worlds
from sharedq.errors import EnvironmentFailed, Unphysical
from sharedq.replay.replay import Replay
from sharedq.settings import check_count, require
from sharedq.training.learning import (
    Heard,
    all_finite,
    bounded,
    example_batch,
    learner,
    silence,
    step_like,
    watcher,
)
from sharedq.training.program import Ended, Program, Told
from sharedq.training.schedule import Schedule
from sharedq.training.seeds import Layout
from sharedq.transitions import Step

WORLDS = 10_000  # ours: those of a seed that this process steps


@dataclass(frozen=True)
class Interactive(Schedule):
    """The host steps the environments and the device learns: for Atari and Gymnasium."""

    on_host: ClassVar = True

    environments: int = 1  # environments of each seed, stepped side by side
    learn_while_stepping: bool = False  # update while the worlds are stepped, from the steps of earlier cycles

    def __post_init__(self):
        super().__post_init__()
        check_count("training.environments", self.environments, most=WORLDS)

    def build(self, environment: HostEnvironment, algorithm: Algorithm, replay: Replay, seeds: list[int]) -> Program:
        runs = isinstance(environment, HostEnvironment)
        require(runs, f"'{environment.spec.name}' is compiled and not stepped by the host: add --training fused")
        return InteractiveProgram(environment, algorithm, replay, self, seeds)


class Learner(NamedTuple):
    """What a seed holds on the device."""

    seed: jax.Array
    agent: Any
    replay: Any


class Run(NamedTuple):
    """The whole run but for the worlds: the learner on the devices, the rest on the host, [S, N] each."""

    seed: Any
    agent: Any
    replay: Any
    obs: np.ndarray  # to act on next
    returned: np.ndarray  # by the episode that each world is in
    length: np.ndarray


def _learner(run: Run) -> Learner:
    return Learner(run.seed, run.agent, run.replay)


def _run(learner: Learner, obs: np.ndarray, returned: np.ndarray, length: np.ndarray) -> Run:
    return Run(learner.seed, learner.agent, learner.replay, obs, returned, length)


class Seen(NamedTuple):
    """A vector step that the algorithm has not observed yet, on the devices, and the observations that came after."""

    step: Step
    obs: Any


class Live(NamedTuple):
    """What is on the devices while worlds are stepped."""

    learner: Learner
    heard: Heard
    seen: Seen | None  # None: everything was observed, or nothing ever is


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
        self._observes, self._updates = algorithm.observe is not no_observation, algorithm.update is not None
        envs, collects = settings.environments, settings.collects
        behind = int(settings.learn_while_stepping)  # a warm-up is at least a cycle, so that the first finds something
        watch, learn_all = watcher(algorithm, settings), learner(algorithm, replay, settings, behind)

        def begin(shared, seed):
            key = random_keys.named(random_keys.root(seed), "network")
            agent = algorithm.init(key, example_batch(environment.spec, replay.batch_size))
            return seed, Learner(seed, agent, replay.init())

        def act(time, given):  # time counts steps of each environment
            learner, obs = given
            key = random_keys.named(random_keys.root(learner.seed), "act")
            return algorithm.act(learner.agent, random_keys.at(key, time), obs, time * envs)

        def observe(time, learner, heard, seen):
            step = bounded(seen.step, settings.reward_bound)
            agent, heard = watch(random_keys.root(learner.seed), learner.agent, heard, step, seen.obs, time)
            return learner._replace(agent=agent), heard

        def observe_and_act(time, own):
            learner, heard, seen = own
            learner, heard = observe(time - 1, learner, heard, seen)
            return (learner, heard, seen), act(time, (learner, seen.obs))

        def store(number, own):  # number counts cycles of the run
            learner, heard, steps, seen = own
            if seen is not None:
                learner, heard = observe((number + 1) * collects - 1, learner, heard, seen)

            def add(place, data):
                step = jax.tree.map(lambda x: x[place], steps)
                return replay.add(data, number * collects + place, bounded(step, settings.reward_bound))

            if self._updates:
                learner = learner._replace(replay=jax.lax.fori_loop(0, collects, add, learner.replay))
            return (learner, heard, steps, seen), ()

        def learn(number, own):
            learner, heard = own
            key = random_keys.root(learner.seed)

            def cycle(number, carry):
                return learn_all(key, *carry, number)

            # A loop of one turn: within a loop the parameters are changed in place, outside of it XLA copies them.
            before = (learner.agent, learner.replay, heard)
            agent, data, heard = jax.lax.fori_loop(number, number + 1, cycle, before)
            return (learner._replace(agent=agent, replay=data), heard), ()

        def store_and_learn(number, own):
            (*before, steps, seen), _ = store(number, own)
            after, _ = learn(number, before)
            return (*after, steps, seen), ()

        self._begin, self._store, self._learn, self._store_and_learn = (
            self.layout.spread(one) for one in (begin, store, learn, store_and_learn)
        )
        self._act: Any = self.layout.ask(act)
        self._observe_and_act = self.layout.spread(observe_and_act)
        self._finite = self.layout.ask(lambda _, learner: all_finite(learner.agent.params))
        self._silent = silence(algorithm, environment.spec, replay, envs)
        self.metric_names = self._silent.names
        self._learner_shape = jax.eval_shape(begin, jnp.int32(0), jnp.int32(0))[1]

        def several(x, *count: int):
            return jax.ShapeDtypeStruct((*count, *x.shape), x.dtype)

        self._obs_shape = several(environment.spec.observation, envs)
        step = step_like(environment.spec)
        self._steps_shape = jax.tree.map(lambda x: several(x, collects, envs), step) if self._updates else ()
        self._seen_shape = Seen(jax.tree.map(lambda x: several(x, envs), step), self._obs_shape)

    def shapes(self) -> Run:
        count, envs = len(self.seeds), self.settings.environments
        learner, obs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), (self._learner_shape, self._obs_shape)
        )
        none = np.zeros((count, envs))
        return _run(learner, np.zeros(obs.shape, obs.dtype), none, none.astype(np.int64))

    def prepare(self) -> int:
        learner, obs, heard, steps, seen = map(
            self.layout.shapes,
            (self._learner_shape, self._obs_shape, self._silent, self._steps_shape, self._seen_shape),
        )
        zero = jnp.int32(0)
        own = (learner, heard, steps, seen if self._observes else None)
        self._begin = self._begin.lower(zero, self._seeds()).compile()
        self._act = self._act.lower(zero, (learner, obs)).compile()
        if self._observes:
            self._observe_and_act = self._observe_and_act.lower(zero, (learner, heard, seen)).compile()
        if self.settings.learn_while_stepping:
            self._store = self._store.lower(zero, own).compile()
            largest = self._learn = self._learn.lower(zero, (learner, heard)).compile()
        else:
            if self.settings.warm_up:
                self._store = self._store.lower(zero, own).compile()
            largest = self._store_and_learn = self._store_and_learn.lower(zero, own).compile()
        scratch = largest.memory_analysis()
        return size((learner, steps)) + (scratch.temp_size_in_bytes if scratch else 0) * self.layout.devices

    def begin(self) -> Run:
        learner = self._begin(jnp.int32(0), self._seeds())[1]
        first = []
        for seed, worlds in zip(self.seeds, self._opened(), strict=True):
            with _placed(seed, 0):
                first.append(worlds.reset())
        obs = np.stack(first)
        none = np.zeros(obs.shape[:2])
        return _run(learner, obs, none, none.astype(np.int64))

    def _seeds(self) -> jax.Array:
        return self.layout.place(np.array(self.seeds, np.int32))

    def _opened(self) -> list[Worlds]:
        self.close()
        self._worlds = [self._environment.open(self.settings.environments, seed) for seed in self.seeds]
        return self._worlds

    def advance(self, run: Run, start: int, stop: int) -> tuple[Run, Told]:
        live, obs = Live(_learner(run), self.layout.place(self._nothing_heard()), None), run.obs
        returned, length = run.returned.copy(), run.length.copy()
        first, last = start // self.settings.cycle, stop // self.settings.cycle
        warming_up = self.settings.warms_up(stop)
        ended: list[list[tuple]] = [[] for _ in self.seeds]
        for number in range(first, last):
            steps, begins = [], number * self.settings.collects
            for time in range(begins, begins + self.settings.collects):
                due = self.settings.learn_while_stepping and not warming_up and time == begins
                live, step, out = self._step(live, obs, time, number if due else None)
                obs = out.obs
                steps.append(step)
                returned += out.reward
                length += 1
                done = out.terminated | out.truncated
                for place, world in zip(*np.nonzero(done), strict=True):
                    at = (time + 1) * self.settings.environments
                    ended[place].append((at, returned[place, world], length[place, world]))
                returned[done], length[done] = 0, 0
            if self._updates or number == last - 1:
                live = self._absorb(live, steps, number, warming_up)
        told = self._told(live, ended, 0 if warming_up else last - first)
        return _run(live.learner, obs, returned, length), told

    def _step(self, live: Live, obs: np.ndarray, time: int, due: int | None) -> tuple[Live, Step, Outcome]:
        """One step of every world of every seed: what is learned from, and what happened, [S, N, ...].

        While the worlds move, the devices make the updates of the cycle that is due, if one is.
        """
        learner, heard, seen = live
        if seen is None:
            placed = self.layout.place(obs)
            actions = self._act(np.int32(time), (learner, placed))
        else:
            (learner, heard, seen), actions = self._observe_and_act(np.int32(time), (learner, heard, seen))
            placed, seen = seen.obs, None
        chosen = self.layout.fetch(actions)
        if due is not None:  # nobody waits for it here
            (learner, heard), _ = self._learn(np.int32(due), (learner, heard))
        out = self._outcome(chosen, time)
        followed = (out.reward, *_ends_to_learn(out), out.final_obs)
        if self._observes:
            seen = Seen(Step(placed, actions, *self.layout.place(followed)), self.layout.place(out.obs))
        return Live(learner, heard, seen), Step(obs, chosen, *followed), out

    def _outcome(self, chosen: np.ndarray, time: int) -> Outcome:
        """What the actions lead to in every world of every seed, [S, N, ...]."""
        outcomes = []
        at = (time + 1) * self.settings.environments
        for seed, worlds, action in zip(self.seeds, self._worlds, chosen, strict=True):
            with _placed(seed, at):
                outcomes.append(worlds.step(action))
        return jax.tree.map(lambda *x: np.stack(x), *outcomes)

    def _absorb(self, live: Live, steps: list[Step], number: int, warming_up: bool) -> Live:
        """Settles what happened in a cycle: the last step is observed, all are stored, and updates made that are due.

        Nobody waits for it here.
        """
        stacked = Step(*(np.stack(x, axis=1) for x in zip(*steps, strict=True)))  # [S, V, N, ...]
        own = (live.learner, live.heard, self.layout.place(stacked) if self._updates else (), live.seen)
        settle = self._store if warming_up or self.settings.learn_while_stepping else self._store_and_learn
        (learner, heard, _, _), _ = settle(np.int32(number), own)
        return Live(learner, heard, None)

    def _nothing_heard(self) -> Heard:
        return jax.tree.map(lambda x: np.broadcast_to(x, (len(self.seeds), *x.shape)), self._silent)

    def _told(self, live: Live, ended: list[list[tuple]], learned: int) -> Told:
        """`learned` counts cycles in which something was."""
        episodes = [Ended(*(np.array(x) for x in zip(*one, strict=True))) if one else _NONE for one in ended]
        finite = self.layout.fetch(self._finite(jnp.int32(0), live.learner))
        heard = self.layout.fetch(live.heard)
        one = self.settings
        metrics = heard.means(learned * one.collects, learned * one.updates) if learned else {}
        return Told(metrics, episodes, heard.bad_step, finite)

    def to_host(self, run: Run) -> Run:
        return _run(self.layout.fetch(_learner(run)), run.obs, run.returned, run.length)

    def to_devices(self, run: Run) -> Run:
        return _run(self.layout.place(_learner(run)), run.obs, run.returned, run.length)

    def save_worlds(self) -> Any:
        return [worlds.save() for worlds in self._worlds]

    def load_worlds(self, saved: Any, step: int) -> None:
        for seed, worlds, one in zip(self.seeds, self._opened(), saved, strict=True):
            with _placed(seed, step):
                worlds.load(one)

    def close(self) -> None:
        for worlds in self._worlds:
            worlds.close()
        self._worlds = []


@contextmanager
def _placed(seed: int, step: int) -> Iterator[None]:
    """Tells of a world that breaks down, or whose code fails, at which step of which seed it did."""
    try:
        yield
    except Unphysical as error:
        raise type(error)(error.what, seed, step) from error
    except EnvironmentFailed as error:  # which names its seed
        raise EnvironmentFailed(f"{error} at step {step:,}") from error


def _ends_to_learn(out: Outcome) -> tuple[Any, Any]:
    """Terminated and truncated, for what learns."""
    if out.life_lost is None:
        return out.terminated, out.truncated
    return out.terminated | out.life_lost, out.truncated & ~out.life_lost


_NONE = Ended(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
