"""Learning from a data set on disk, without stepping an environment. Steps are gradient steps.

The host reads a *block* of batches for all seeds, and one compiled call makes the updates of the block. While it runs,
a thread reads the next block. An environment, if there is one, is only used to evaluate.

Shape letters: S seeds, U updates of a block, B batch.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sharedq import random_keys
from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import STATES
from sharedq.environments.contract import DescribedEnvironment, Environment, HostEnvironment
from sharedq.replay.feed import Feed
from sharedq.samplers.sampler import Summary
from sharedq.settings import require
from sharedq.training.compiled_program import CompiledProgram
from sharedq.training.learning import Learner, MetricSums, begin_learner, make_gradient_step
from sharedq.training.measuring import NOTHING, Measuring
from sharedq.training.memory import scratch_of
from sharedq.training.program import NO_EPISODES, ChunkResult, Program
from sharedq.training.schedule import Length
from sharedq.transitions import Batch
from sharedq.trees import size

BLOCK_BYTES = 2**25  # of the batches that are read at once for a seed; ours
BLOCK_UPDATES = 500  # the most updates in one call, as in the public slimCQL code
PROBE = 2**40  # the update whose batches the measures look at; no run is so long


@dataclass(frozen=True)
class Offline(Length):
    """Learning from a data set, without stepping an environment. Steps are gradient steps."""

    learns_from: ClassVar = "data"
    environments: ClassVar = 1
    keep_replay: ClassVar = True  # there is none to keep, so that every finished run can be trained for longer

    @property
    def cycle(self) -> int:
        return 1

    def measured_updates(self, start: int, stop: int) -> int:
        """How many of the updates between two steps are measured."""
        return stop // self.measure_period - start // self.measure_period

    def build(
        self,
        environment: Environment | HostEnvironment | DescribedEnvironment,
        algorithm: Algorithm,
        replay: Feed,
        seeds: list[int],
        measuring: Measuring = NOTHING,
    ) -> Program:
        require(
            self.evaluation_period is None or not isinstance(environment, DescribedEnvironment),
            "there is no environment to evaluate in: add --evaluation_period none, or name the data's --environment",
        )
        replay.open(environment.spec)
        return OfflineProgram(environment, algorithm, replay, self, seeds, measuring)


@dataclass(frozen=True)
class Probe:
    """The batches that the measures draw from, seen as a replay. Its data are raw batches [N, B, ...] of a feed."""

    feed: Feed
    reward_bound: float | None
    metric_names: ClassVar = ()
    number_names: ClassVar = ()
    histograms: ClassVar[Mapping[str, tuple[float, ...]]] = MappingProxyType({})

    @property
    def batch_size(self) -> int:
        return self.feed.batch_size

    def init(self) -> Any:
        return self.feed.init()

    def sample_uniformly(self, data: Any, written: Any, key: jax.Array) -> Batch:
        count, size = jax.tree.leaves(data)[0].shape[:2]
        places = jax.random.randint(key, (size,), 0, count * size)
        return self.feed.decode(jax.tree.map(lambda x: x[places // size, places % size], data), self.reward_bound)

    def summarise(self, data: Any, written: Any) -> Summary:
        return Summary({}, {})


def update_block(algorithm: Algorithm, feed: Feed, probed: Probe, settings: Offline, measuring: Measuring):
    """Returns `learn((first, count), (learner, sums), raw, probe)`, which makes the updates first .. first+count-1."""
    gradient_step = make_gradient_step(algorithm, measuring)

    def learn(span: tuple[jax.Array, jax.Array], own: tuple[Learner, MetricSums], raw: Any, probe: Any):
        first, count = span
        root = random_keys.root(own[0].seed)
        update_key, other_key = random_keys.named(root, "update"), random_keys.named(root, "measures")

        def once(place: jax.Array, carry: tuple[Learner, MetricSums]):
            learner, sums = carry
            update = first + place
            batch = feed.decode(jax.tree.map(lambda x: x[place], raw), settings.reward_bound)

            def other() -> Batch:
                return probed.sample_uniformly(probe, 0, random_keys.at(other_key, update))

            key = random_keys.at(update_key, update)
            agent, kept, _, metrics, numbers = gradient_step(learner.agent, learner.measures, batch, other, key, update)
            if measuring.names_at_updates:
                sums = sums.measuring(numbers, measuring.due(update))
            one = jax.tree.map(lambda x: jnp.mean(x)[None], metrics)
            return learner._replace(agent=agent, measures=kept), sums.updating(one, update[None])

        return jax.lax.fori_loop(0, count, once, own), ()

    return learn


class OfflineProgram(CompiledProgram):
    """The compiled programs of an experiment that learns from data (see `program.Program`)."""

    settings: Offline

    def __init__(
        self,
        environment: Any,
        algorithm: Algorithm,
        feed: Feed,
        settings: Offline,
        seeds: list[int],
        measuring: Measuring,
    ):
        probed = Probe(feed, settings.reward_bound)
        super().__init__(environment, algorithm, probed, settings, seeds, measuring)
        self._feed, self._measures = feed, bool(measuring.measures)
        begin_one = partial(
            begin_learner, algorithm=algorithm, spec=environment.spec, replay=probed, measuring=measuring
        )
        self._learner_shape = jax.eval_shape(begin_one, jnp.int32(0))
        self._begin = self.layout.spread(lambda _, seed: (seed, begin_one(seed)))
        self._learn = self.layout.spread(update_block(algorithm, feed, probed, settings, measuring), given=2)
        one = jax.tree.map(lambda x: x[0, 0], feed.batches(seeds[:1], 1, 1))
        rows = [stop - start for start, stop in zip([0, *self.log_steps], self.log_steps)]
        self._block = int(max(min(BLOCK_BYTES // max(size(one), 1), BLOCK_UPDATES, max(rows)), 1))
        self._probe: Any = ()
        self._reading = ThreadPoolExecutor(1, "data")

    def shapes(self) -> Learner:
        return self._of_all_seeds(self._learner_shape)

    def prepare(self) -> int:
        learners, sums = self.layout.shapes(self._learner_shape), self.layout.shapes(self._zero_metrics)
        raw = self.layout.place(self._read(1))
        if self._measures:
            self._probe = self.layout.place(self._feed.batches(self.seeds, PROBE, -(-STATES // self._feed.batch_size)))
        zero = jnp.int32(0)
        self._begin = self._begin.lower(zero, self._seeds()).compile()
        self._learn = self._learn.lower((zero, zero), (learners, sums), raw, self._probe).compile()
        measuring = self._prepare_log(learners._replace(replay=self._probe))
        scratch = max(scratch_of(self._learn), self._prepare_evaluation(learners.agent), measuring)
        return size((learners, self._probe)) + 2 * size(raw) + scratch * self.layout.devices

    def _read(self, first: int) -> Any:
        """The batches of a whole block, of which the last one of a stretch uses only the beginning."""
        return self._feed.batches(self.seeds, first, self._block)

    def begin(self) -> Learner:
        return self._begin(jnp.int32(0), self._seeds())[1]

    def advance(self, run: Learner, start: int, stop: int) -> tuple[Learner, ChunkResult]:
        own = (run, self.layout.place(self._no_sums()))
        for first, raw in self._blocks(start, stop):
            count = min(self._block, stop + 1 - first)
            span, placed = (jnp.int32(first), jnp.int32(count)), self.layout.place(raw)
            jax.block_until_ready(own)  # otherwise the blocks of many calls that wait would lie in memory
            own, _ = self._learn(span, own, placed, self._probe)
        learner, sums = own
        told = self._told(learner, self.layout.fetch(sums), stop - start)
        return learner, self._measured(told, learner._replace(replay=self._probe), start, stop)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """The number of the first update of each block, and its batches. The next block is read in the meantime."""
        firsts = range(start + 1, stop + 1, self._block)
        next_raw = self._reading.submit(self._read, firsts[0])
        for place, first in enumerate(firsts):
            raw = next_raw.result()
            if place + 1 < len(firsts):
                next_raw = self._reading.submit(self._read, firsts[place + 1])
            yield first, raw

    def _told(self, learner: Learner, sums: MetricSums, updates: int) -> ChunkResult:
        finite = self.layout.fetch(self._finite(jnp.int32(0), learner))
        return ChunkResult(sums.means(1, updates), [NO_EPISODES] * len(self.seeds), sums.bad_step, finite)

    def close(self) -> None:
        self._reading.shutdown()
