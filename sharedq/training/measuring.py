"""Measures inside the training loops: what they keep, when they are asked, and what asking them costs.

The measures of single updates are asked before every `measure_period`-th update is made. What the update will do is
computed for them beforehand, in the branch that asks them. So the loop changes the weights in place at every update,
whether it is measured or not, and without measures nothing is left of this file in the compiled program.

A stream has no replay to draw other transitions from. The last `STATES` steps are kept for its measures instead.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import STATES, Measure, UpdateInfo
from sharedq.bellman.returns import discount
from sharedq.formats import MEASURES
from sharedq.networks.convolution import traced_natively
from sharedq.replay import Replay, Transitions, uniform_replay
from sharedq.replay.replay import ReplayLike
from sharedq.targets.source import RefreshInfo
from sharedq.training.memory import scratch_of
from sharedq.training.seeds import Layout
from sharedq.transitions import Batch, Step, Transition

OTHER = 32  # transitions of the other batch in a stream


class Kept(NamedTuple):
    """What the measures of a seed keep in its run."""

    measures: tuple[Any, ...]  # of each measure
    recent: Any  # the last steps of a stream; nothing if there is a replay


class Measuring(NamedTuple):
    """The measures of a run and what they need. The functions are for one seed."""

    measures: tuple[Measure, ...]
    algorithm: Algorithm | None  # None: there is nothing to measure
    period: int  # updates between two that are measured
    recent: Replay | None  # keeps the last steps of a stream
    gamma: float

    def init(self, agent: Any) -> Kept:
        """What the measures keep before the first step."""
        return Kept(
            jax.tree.map(jnp.asarray, tuple(one.init(agent) for one in self.measures)),
            () if self.recent is None else self.recent.init(),
        )

    def due(self, count: jax.Array) -> jax.Array:
        """Whether update `count` is measured."""
        return count % self.period == 0

    def keep_recent(self, kept: Kept, step: Step, count: jax.Array) -> Kept:
        """What is kept after the vector step `count` of a stream."""
        assert self.recent is not None
        return kept._replace(recent=self.recent.add(kept.recent, count - 1, step))

    def numbers(self, kept: Kept, info: Callable[[], UpdateInfo], count: jax.Array) -> dict[str, jax.Array]:
        """The numbers of the update that comes next; zeros if it is not measured."""
        none = dict.fromkeys(self.names_at_updates, jnp.float32(0))
        return jax.lax.cond(self.due(count), lambda: self.asked(kept, info()), lambda: none)

    def asked(self, kept: Kept, info: UpdateInfo) -> dict[str, jax.Array]:
        """The numbers of one update."""
        found: dict[str, jax.Array] = {}
        for one, own in zip(self.measures, kept.measures, strict=True):
            found |= {} if one.at_update is None else one.at_update(own, info)
        return {name: jnp.float32(number) for name, number in found.items()}

    def of_update(
        self, agent: Any, batch: Batch, other: Callable[[], Batch], key: jax.Array, count: jax.Array
    ) -> UpdateInfo:
        """What the measures see of the update on a batch that comes next. `key` is that of the update."""
        assert self.algorithm is not None and self.algorithm.learn is not None
        after, _, _ = self.algorithm.learn(agent, batch, key, count)
        return UpdateInfo(agent, after, batch, other(), random_keys.named(key, "measures"), count)

    def of_step(self, kept: Kept, agent: Any, step: Step, obs: Any, key: jax.Array, count: jax.Array) -> UpdateInfo:
        """The same for the vector step `count` of a stream, which `keep_recent` has kept already."""
        assert self.algorithm is not None and self.algorithm.learn is not None and self.recent is not None
        after, _, _ = self.algorithm.learn(agent, key, step, obs, count)
        other = self.recent.sample_uniformly(kept.recent, count, random_keys.named(key, "other batch"))
        batch = _as_batch(step, self.gamma)
        return UpdateInfo(agent, after, batch, other, random_keys.named(key, "measures"), count)

    def after_step(self, kept: Kept, agent: Any, info: RefreshInfo, count: jax.Array) -> Kept:
        """What the measures keep after a gradient step, before the source's refresh."""
        pairs = zip(self.measures, kept.measures, strict=True)
        return kept._replace(measures=tuple(one.follow(own, agent, info, count) for one, own in pairs))

    def at_log(
        self, replay: ReplayLike, agent: Any, data: Any, kept: Kept, seed: jax.Array, written: jax.Array
    ) -> tuple:
        """Arrays on the device for each measure that looks at many states. `written` counts the vector steps so far."""
        drawn_from, data = (replay, data) if self.recent is None else (self.recent, kept.recent)
        key = random_keys.at(random_keys.named(random_keys.root(seed), "measures at the log"), written)
        keys = jax.random.split(random_keys.named(key, "states"), -(-STATES // drawn_from.batch_size))
        drawn = jax.lax.map(lambda one: drawn_from.sample_uniformly(data, written, one), keys)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)
        return tuple(one.at_log(agent, batch, key) for one in self.measures if one.at_log is not None)

    def summarised(self, arrays: tuple, seeds: int) -> dict[str, np.ndarray]:
        """The numbers [S] of a row of the log, given the arrays of all seeds on the host."""
        found: dict[str, list[float]] = {}
        looking = [one for one in self.measures if one.at_log is not None]
        for one, made in zip(looking, arrays, strict=True):
            assert one.summarise is not None
            for place in range(seeds):
                for name, number in one.summarise(jax.tree.map(lambda x, p=place: x[p], made)).items():
                    found.setdefault(MEASURES + name, []).append(number)
        return {name: np.array(numbers) for name, numbers in found.items()}

    @property
    def names_at_log(self) -> list[str]:
        return [MEASURES + name for one in self.measures if one.at_log is not None for name in one.names]

    @property
    def names_at_updates(self) -> list[str]:
        return [name for one in self.measures if one.at_update is not None for name in one.names]


NOTHING = Measuring((), None, 1, None, 0.0)


def computed_after(numbers: dict[str, jax.Array], tree: Any) -> Any:
    """The same tree, which the compiler cannot use before it has computed the numbers.

    The measures read the weights that the update changes. Where XLA does not see that they do so first, it copies all
    weights and moments in every update. It drops an `optimization_barrier` before it looks. So a zero is added which
    it cannot know: the bits of a number without its sign are an integer that is not negative.
    """
    bits = jax.lax.bitcast_convert_type(jnp.abs(sum(numbers.values(), jnp.float32(0))), jnp.int32)
    zero = jnp.minimum(bits, 0)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def _as_batch(step: Step, gamma: float) -> Batch:
    transition = Transition(step.obs, step.action, step.reward, discount(step.terminated, gamma), step.next_obs)
    return Batch(transition, jnp.ones(step.reward.shape), jnp.zeros(step.reward.shape, jnp.int32))


def measuring(measures: Sequence[Measure], algorithm: Algorithm, period: int, step: Step, gamma: float) -> Measuring:
    """The measures of a run, put together. `step` has the shapes of one step."""
    keeps = bool(measures) and algorithm.learns_from == "stream"
    recent = uniform_replay(Transitions(STATES, OTHER).build(step, gamma, environments=1)) if keeps else None
    return Measuring(tuple(measures), algorithm, period, recent, gamma)


class MeasuringProgram:
    """Compiled functions of measuring outside the training loop: the measures at rows of the log, and a stopwatch."""

    def __init__(self, measuring: Measuring, replay: ReplayLike, layout: Layout):
        self._measuring, self._layout = measuring, layout
        self._looks, self._updates = bool(measuring.names_at_log), bool(measuring.names_at_updates)
        look = partial(_look, measuring, replay)
        alone = layout.per_device == 1  # otherwise the seeds are in a loop, where native convolutions are slow
        self._look: Any = layout.ask(traced_natively(look) if alone else look)
        self._once: Any = layout.ask(partial(_once, measuring, replay))
        self._seconds_at_log, self._measured = 0.0, 0
        self._seconds_once: float | None = None

    def prepare(self, learners: Any) -> int:
        """Compiles for learners of these shapes, of all seeds. Returns the bytes that each device needs besides."""
        zero, needed = np.int32(0), 0
        if self._looks:
            self._look = self._look.lower(zero, learners).compile()
            needed = scratch_of(self._look)
        if self._updates:
            self._once = self._once.lower(zero, learners).compile()
        return needed

    def complete(self, metrics: dict, learners: Any, written: int, updates: int) -> dict:
        """The metrics [S] of a row of the log with those of measures at the log, after so many vector steps.

        `updates` is the number of updates that were measured since the row before. If there were none, the metrics of
        measures of updates are left out.
        """
        measured = [MEASURES + name for name in self._measuring.names_at_updates if not updates]
        metrics = {name: value for name, value in metrics.items() if name not in measured}
        return metrics | self._at_log(learners, written, updates)

    def _at_log(self, learners: Any, written: int, updates: int) -> dict[str, np.ndarray]:
        self._measured += updates
        if self._updates and self._seconds_once is None:
            for _ in range(2):  # the first call also sets up memory
                began = time.perf_counter()
                jax.block_until_ready(self._once(np.int32(written), learners))
                self._seconds_once = time.perf_counter() - began
        if not self._looks:
            return {}
        began = time.perf_counter()
        arrays = self._layout.fetch(self._look(np.int32(written), learners))
        found = self._measuring.summarised(arrays, self._layout.count)
        self._seconds_at_log += time.perf_counter() - began
        return found

    def begun_anew(self, learners: Any) -> Any:
        """What the measures keep if training begins with these learners."""
        if not self._measuring.measures:
            return learners.measures

        def begin(_: jax.Array, learner: Any) -> Kept:
            return learner.measures._replace(measures=self._measuring.init(learner.agent).measures)

        return self._layout.ask(begin)(np.int32(0), learners)

    @property
    def seconds(self) -> float:
        """The time that measuring took. Inside the loop it cannot be timed, so one measurement is timed outside."""
        return self._seconds_at_log + self._measured * (self._seconds_once or 0.0)


def _look(measuring: Measuring, replay: ReplayLike, written: jax.Array, learner: Any) -> tuple:
    return measuring.at_log(replay, learner.agent, learner.replay, learner.measures, learner.seed, written)


def _once(measuring: Measuring, replay: ReplayLike, written: jax.Array, learner: Any) -> dict[str, jax.Array]:
    """The numbers of one update, as the loop asks for them."""
    agent, kept, key = learner.agent, learner.measures, random_keys.root(learner.seed)
    if measuring.recent is None:

        def draw() -> Batch:
            return replay.sample_uniformly(learner.replay, written, key)

        return measuring.asked(kept, measuring.of_update(agent, draw(), draw, key, written))
    drawn = measuring.recent.sample_uniformly(kept.recent, written, key).transition
    one = jax.tree.map(lambda x: x[:1], drawn)
    ended = jnp.zeros(1, bool)
    step = Step(one.obs, one.action, one.reward, ended, ended, one.next_obs)
    return measuring.asked(kept, measuring.of_step(kept, agent, step, one.next_obs, key, written))
