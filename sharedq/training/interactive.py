"""Learning on the device from environments that Python steps on the host: emulators, simulators and Gymnasium.

In each cycle (see `schedule.py`) the device chooses actions and the host steps its environments, `steps_per_cycle`
times. Then one compiled call stores the steps and makes all updates that are due, for all seeds. So the next actions
wait for the updates, and the environments wait for the actions. With `learn_while_stepping` the updates are dispatched
right after the first actions of a cycle are chosen, before the environments step, and learn from the steps of earlier
cycles.

An algorithm with `observe` observes a step in the same call that chooses its next actions. The last step of a cycle
(or, without a replay, of a chunk) is observed at its end.

When a life is lost, the step that is learned from is terminated. The logs and the environment do not end the episode.

Shape letters: S seeds, N environments of a seed, V vector steps of a cycle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm, no_observation
from sharedq.environments.contract import HostEnvironment, Outcome, VectorEnv
from sharedq.environments.spec import EnvironmentSpec
from sharedq.replay.replay import Replay
from sharedq.settings import check_count, require
from sharedq.training.compiled_program import CompiledProgram, learner_of
from sharedq.training.evaluators import placed
from sharedq.training.learning import (
    Learner,
    MetricSums,
    begin_learner,
    bounded,
    make_observe,
    make_update,
    step_like,
)
from sharedq.training.measuring import NOTHING, Measuring
from sharedq.training.memory import scratch_of
from sharedq.training.program import NO_EPISODES, ChunkResult, FinishedEpisodes, Program
from sharedq.training.schedule import Schedule
from sharedq.transitions import Step
from sharedq.trees import size

WORLDS = 10_000  # ours: the most environments per seed that this process steps


@dataclass(frozen=True)
class Interactive(Schedule):
    """The host steps the environments and the device learns: for Atari and Gymnasium."""

    on_host: ClassVar = True

    environments: int = 1  # environments per seed, stepped in parallel
    learn_while_stepping: bool = False  # update while the environments step, from the steps of earlier cycles

    def __post_init__(self):
        super().__post_init__()
        check_count("training.environments", self.environments, most=WORLDS)

    def build(
        self,
        environment: HostEnvironment,
        algorithm: Algorithm,
        replay: Replay,
        seeds: list[int],
        measuring: Measuring = NOTHING,
    ) -> Program:
        runs = isinstance(environment, HostEnvironment)
        require(runs, f"'{environment.spec.name}' is compiled and not stepped by the host: add --training fused")
        return InteractiveProgram(environment, algorithm, replay, self, seeds, measuring)


class Run(NamedTuple):
    """The whole run except the environments: the learner on the devices, the rest on the host, [S, N] each."""

    seed: Any
    agent: Any
    replay: Any
    obs: np.ndarray  # the observations to act on next
    returned: np.ndarray  # return so far of each environment's current episode
    length: np.ndarray  # its length so far
    measures: Any = ()


def _run(learner: Learner, obs: np.ndarray, returned: np.ndarray, length: np.ndarray) -> Run:
    return Run(learner.seed, learner.agent, learner.replay, obs, returned, length, learner.measures)


class PendingStep(NamedTuple):
    """A vector step on the devices that the algorithm has not observed yet, and the observations to act on after it."""

    step: Step
    obs: Any


class Live(NamedTuple):
    """What is on the devices while the environments step."""

    learner: Learner
    sums: MetricSums
    pending: PendingStep | None  # None if every step was observed, or if the algorithm observes nothing


class Parts(NamedTuple):
    """The parts that the functions below need. These functions are written for one seed and compiled."""

    algorithm: Algorithm
    replay: Replay
    settings: Interactive
    observe: Callable  # from `make_observe`
    update: Callable  # from `make_update`


def act(parts: Parts, time: jax.Array, given: tuple[Learner, Any]) -> jax.Array:
    """Actions for the observations; `time` counts the steps of each environment."""
    learner, obs = given
    key = random_keys.named(random_keys.root(learner.seed), "act")
    step = time * parts.settings.environments
    return parts.algorithm.act(learner.agent, random_keys.at(key, time), obs, step)


def observe(parts: Parts, time: jax.Array, learner: Learner, sums: MetricSums, pending: PendingStep):
    """The algorithm observes the vector step `time`."""
    step = bounded(pending.step, parts.settings.reward_bound)
    return parts.observe(learner, sums, step, pending.obs, time)


def observe_and_act(parts: Parts, time: jax.Array, own: tuple):
    """The algorithm observes the previous step and then acts."""
    learner, sums, pending = own
    learner, sums = observe(parts, time - 1, learner, sums, pending)
    return (learner, sums, pending), act(parts, time, (learner, pending.obs))


def store(parts: Parts, number: jax.Array, own: tuple):
    """Observes the last step of cycle `number` and adds all its steps [V, N, ...] to the replay."""
    learner, sums, steps, pending = own
    settings = parts.settings
    if pending is not None:
        learner, sums = observe(parts, (number + 1) * settings.steps_per_cycle - 1, learner, sums, pending)

    first = number * settings.steps_per_cycle

    def add(time, data):
        step = jax.tree.map(lambda x: x[time - first], steps)
        return parts.replay.add(data, time, bounded(step, settings.reward_bound))

    if parts.algorithm.update is not None:
        # The bounds are variables also for a single turn: XLA copies the whole replay where it leaves the loop out.
        data = jax.lax.fori_loop(first, first + settings.steps_per_cycle, add, learner.replay)
        learner = learner._replace(replay=data)
    return (learner, sums, steps, pending), ()


def learn(parts: Parts, number: jax.Array, own: tuple):
    """Makes the updates of cycle `number`."""

    def cycle(number, carry):
        return parts.update(*carry, number)

    # XLA changes the parameters in place inside a loop and copies them outside. Several updates are a loop by
    # themselves, and a loop around that one would copy once more.
    if parts.settings.updates_per_cycle > 1:
        return cycle(number, tuple(own)), ()
    return jax.lax.fori_loop(number, number + 1, cycle, tuple(own)), ()


def store_and_learn(parts: Parts, number: jax.Array, own: tuple):
    (*before, steps, pending), _ = store(parts, number, own)
    after, _ = learn(parts, number, before)
    return (*after, steps, pending), ()


class InteractiveProgram(CompiledProgram):
    """The compiled programs and the environments of an experiment on the host (see `program.Program`)."""

    settings: Interactive

    def __init__(
        self,
        environment: HostEnvironment,
        algorithm: Algorithm,
        replay: Replay,
        settings: Interactive,
        seeds: list[int],
        measuring: Measuring,
    ):
        super().__init__(environment, algorithm, replay, settings, seeds, measuring)
        self._environment = environment
        self._worlds: list[VectorEnv] = []
        self._observes, self._updates = algorithm.observe is not no_observation, algorithm.update is not None
        lag = int(settings.learn_while_stepping)  # a warm-up is at least one cycle, so the first update finds data
        update = make_update(algorithm, replay, settings, measuring, lag)
        parts = Parts(algorithm, replay, settings, make_observe(algorithm, settings, measuring), update)
        self._begin_one = partial(
            begin_learner, algorithm=algorithm, spec=environment.spec, replay=replay, measuring=measuring
        )
        self._set_functions(parts)
        self._set_shapes(parts, environment.spec)

    def _set_functions(self, parts: Parts) -> None:
        """Lays the functions above out over all seeds; `prepare` compiles them."""
        self._begin = self.layout.spread(lambda _, seed: (seed, self._begin_one(seed)))
        self._store = self.layout.spread(partial(store, parts))
        self._learn = self.layout.spread(partial(learn, parts))
        self._store_and_learn = self.layout.spread(partial(store_and_learn, parts))
        self._act: Any = self.layout.ask(partial(act, parts))
        self._observe_and_act = self.layout.spread(partial(observe_and_act, parts))

    def _set_shapes(self, parts: Parts, spec: EnvironmentSpec) -> None:
        """Sets the shapes of what one seed has on the device."""

        def several(x, *count: int):
            return jax.ShapeDtypeStruct((*count, *x.shape), x.dtype)

        envs, step = parts.settings.environments, step_like(spec)
        self._learner_shape = jax.eval_shape(self._begin_one, jnp.int32(0))
        self._obs_shape = several(spec.observation, envs)
        cycle = jax.tree.map(lambda x: several(x, parts.settings.steps_per_cycle, envs), step)
        self._steps_shape = cycle if self._updates else ()
        self._pending_shape = PendingStep(jax.tree.map(lambda x: several(x, envs), step), self._obs_shape)

    def shapes(self) -> Run:
        count, envs = len(self.seeds), self.settings.environments
        learner, obs = self._of_all_seeds((self._learner_shape, self._obs_shape))
        none = np.zeros((count, envs))
        return _run(learner, np.zeros(obs.shape, obs.dtype), none, none.astype(np.int64))

    def prepare(self) -> int:
        learner, obs, sums, steps, pending = map(
            self.layout.shapes,
            (self._learner_shape, self._obs_shape, self._zero_metrics, self._steps_shape, self._pending_shape),
        )
        zero = jnp.int32(0)
        own = (learner, sums, steps, pending if self._observes else None)
        self._begin = self._begin.lower(zero, self._seeds()).compile()
        self._act = self._act.lower(zero, (learner, obs)).compile()
        if self._observes:
            self._observe_and_act = self._observe_and_act.lower(zero, (learner, sums, pending)).compile()
        if self.settings.learn_while_stepping:
            self._store = self._store.lower(zero, own).compile()
            largest = self._learn = self._learn.lower(zero, (learner, sums)).compile()
        else:
            if self.settings.warm_up:
                self._store = self._store.lower(zero, own).compile()
            largest = self._store_and_learn = self._store_and_learn.lower(zero, own).compile()
        measuring = self._prepare_log(learner)
        scratch = max(scratch_of(largest), self._prepare_evaluation(learner.agent), measuring)
        return size((learner, steps)) + scratch * self.layout.devices

    def begin(self) -> Run:
        learner = self._begin(jnp.int32(0), self._seeds())[1]
        first = []
        for seed, worlds in zip(self.seeds, self._opened(), strict=True):
            with placed(seed, 0):
                first.append(worlds.reset())
        obs = np.stack(first)
        none = np.zeros(obs.shape[:2])
        return _run(learner, obs, none, none.astype(np.int64))

    def _opened(self) -> list[VectorEnv]:
        self.close()
        self._worlds = [self._environment.open(self.settings.environments, seed) for seed in self.seeds]
        return self._worlds

    def advance(self, run: Run, start: int, stop: int) -> tuple[Run, ChunkResult]:
        live, obs = Live(learner_of(run), self.layout.place(self._no_sums()), None), run.obs
        returned, length = run.returned.copy(), run.length.copy()
        first, last = start // self.settings.cycle, stop // self.settings.cycle
        warming_up = self.settings.warms_up(stop)
        ended: list[list[tuple]] = [[] for _ in self.seeds]
        for number in range(first, last):
            steps, begins = [], number * self.settings.steps_per_cycle
            for time in range(begins, begins + self.settings.steps_per_cycle):
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
        told = self._measured(told, live.learner, start, stop)
        return _run(live.learner, obs, returned, length), told

    def _step(self, live: Live, obs: np.ndarray, time: int, due: int | None) -> tuple[Live, Step, Outcome]:
        """Steps every environment of every seed; returns the step to learn from and the outcome, [S, N, ...].

        While the environments step, the devices make the updates of cycle `due`, if it is given.
        """
        learner, sums, pending = live
        if pending is None:
            placed = self.layout.place(obs)
            actions = self._act(np.int32(time), (learner, placed))
        else:
            (learner, sums, pending), actions = self._observe_and_act(np.int32(time), (learner, sums, pending))
            placed, pending = pending.obs, None
        chosen = self.layout.fetch(actions)
        if due is not None:  # dispatched here, not waited for
            (learner, sums), _ = self._learn(np.int32(due), (learner, sums))
        out = self._outcome(chosen, time)
        followed = (out.reward, *ends_to_learn(out), out.final_obs)
        if self._observes:
            pending = PendingStep(Step(placed, actions, *self.layout.place(followed)), self.layout.place(out.obs))
        return Live(learner, sums, pending), Step(obs, chosen, *followed), out

    def _outcome(self, chosen: np.ndarray, time: int) -> Outcome:
        """The outcomes of the actions in every environment of every seed, [S, N, ...]."""
        outcomes = []
        at = (time + 1) * self.settings.environments
        for seed, worlds, action in zip(self.seeds, self._worlds, chosen, strict=True):
            with placed(seed, at):
                outcomes.append(worlds.step(action))
        return jax.tree.map(lambda *x: np.stack(x), *outcomes)

    def _absorb(self, live: Live, steps: list[Step], number: int, warming_up: bool) -> Live:
        """Finishes a cycle: observes its last step, stores all its steps and makes the updates that are due.

        The call is dispatched here, not waited for.
        """
        stacked = Step(*(np.stack(x, axis=1) for x in zip(*steps, strict=True)))  # [S, V, N, ...]
        own = (live.learner, live.sums, self.layout.place(stacked) if self._updates else (), live.pending)
        settle = self._store if warming_up or self.settings.learn_while_stepping else self._store_and_learn
        (learner, sums, _, _), _ = settle(np.int32(number), own)
        return Live(learner, sums, None)

    def _told(self, live: Live, ended: list[list[tuple]], learned: int) -> ChunkResult:
        """The report of a chunk; `learned` counts the cycles of the chunk in which updates were made."""
        episodes = [
            FinishedEpisodes(*(np.array(x) for x in zip(*one, strict=True))) if one else NO_EPISODES for one in ended
        ]
        finite = self.layout.fetch(self._finite(jnp.int32(0), live.learner))
        sums = self.layout.fetch(live.sums)
        one = self.settings
        metrics = sums.means(learned * one.steps_per_cycle, learned * one.updates_per_cycle) if learned else {}
        return ChunkResult(metrics, episodes, sums.bad_step, finite)

    def to_host(self, run: Run) -> Run:
        return _run(self.layout.fetch(learner_of(run)), run.obs, run.returned, run.length)

    def to_devices(self, run: Run) -> Run:
        return _run(self.layout.place(learner_of(run)), run.obs, run.returned, run.length)

    def save_worlds(self) -> Any:
        return [worlds.save() for worlds in self._worlds]

    def load_worlds(self, saved: Any, step: int) -> None:
        for seed, worlds, one in zip(self.seeds, self._opened(), saved, strict=True):
            with placed(seed, step):
                worlds.load(one)

    def close(self) -> None:
        for worlds in self._worlds:
            worlds.close()
        self._worlds = []


def ends_to_learn(out: Outcome) -> tuple[Any, Any]:
    """The flags terminated and truncated as the learner gets them: a lost life is a termination."""
    if out.life_lost is None:
        return out.terminated, out.truncated
    return out.terminated | out.life_lost, out.truncated & ~out.life_lost
