"""What the training programs have in common: the seeds and their layout, the log, measures and evaluation."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.replay.replay import ReplayLike
from sharedq.training.evaluators import Evaluator, evaluator
from sharedq.training.learning import Learner, MetricSums, all_finite, zero_metrics
from sharedq.training.measuring import Measuring, MeasuringProgram
from sharedq.training.memory import scratch_of
from sharedq.training.program import ChunkResult, PlayedEpisodes
from sharedq.training.seeds import Layout


def learner_of(run: Any) -> Learner:
    """The learner of a run, whose other fields belong to the environments."""
    return Learner(run.seed, run.agent, run.replay, run.measures)


class CompiledProgram:
    """The base of the programs, which add the environments (see `program.Program`)."""

    def __init__(
        self,
        environment: Any,
        algorithm: Algorithm,
        replay: ReplayLike,
        settings: Any,
        seeds: list[int],
        measuring: Measuring,
    ):
        self.seeds, self.settings, self.layout = seeds, settings, Layout(len(seeds))
        self.log_steps, self.evaluation_steps = settings.log_steps, settings.evaluation_steps
        self._zero_metrics = zero_metrics(algorithm, environment.spec, replay, settings.environments, measuring)
        self._evaluator: Evaluator | None = None
        if self.evaluation_steps:
            episodes = settings.evaluation_episodes
            self._evaluator = evaluator(environment, algorithm, episodes, seeds, self.layout)
        self._measuring = MeasuringProgram(measuring, replay, self.layout)
        self._summarise: Any = self.layout.ask(lambda written, learner: replay.summarise(learner.replay, written))
        self._summarises = bool(replay.number_names or replay.histograms)
        self.histograms: Mapping[str, tuple[float, ...]] = replay.histograms
        self.metric_names = self._zero_metrics.names + list(replay.number_names) + measuring.names_at_log
        self._finite: Any = self.layout.ask(lambda _, learner: all_finite(learner.agent.params))

    def agent_to_host(self, run: Any) -> Any:
        return self.layout.fetch(run.agent)

    def with_agent(self, run: Any, agent: Any) -> Any:
        run = run._replace(agent=self.layout.place(agent))
        return run._replace(measures=self._measuring.begun_anew(learner_of(run)))

    def _prepare_evaluation(self, agents: Any) -> int:
        """Compiles the evaluation, if there is one; returns the bytes that it needs on each device."""
        return 0 if self._evaluator is None else self._evaluator.prepare(agents)

    def _prepare_log(self, learners: Any) -> int:
        """Compiles what the rows of the log ask for; returns the bytes that it needs on each device."""
        needed = self._measuring.prepare(learners)
        if not self._summarises:
            return needed
        self._summarise = self._summarise.lower(np.int32(0), learners).compile()
        return max(needed, scratch_of(self._summarise))

    def evaluate(self, run: Any, step: int) -> PlayedEpisodes:
        assert self._evaluator is not None
        return self._evaluator.play(run.agent, step)

    @property
    def measuring_seconds(self) -> float:
        return self._measuring.seconds

    def to_host(self, run: Any) -> Any:
        return self.layout.fetch(run)

    def to_devices(self, run: Any) -> Any:
        return self.layout.place(run)

    def save_worlds(self) -> Any:
        return None

    def load_worlds(self, saved: Any, step: int) -> None: ...

    def close(self) -> None: ...

    def _of_all_seeds(self, one: Any) -> Any:
        """The shapes of all seeds on the host, given the shapes of one seed."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(self.seeds), *x.shape), x.dtype), one)

    def _no_sums(self) -> MetricSums:
        """Sums of zero for all seeds."""
        return jax.tree.map(lambda x: np.broadcast_to(x, (len(self.seeds), *x.shape)), self._zero_metrics)

    def _seeds(self) -> jax.Array:
        return self.layout.place(np.array(self.seeds, np.int32))

    def _measured(self, told: ChunkResult, learners: Any, start: int, stop: int) -> ChunkResult:
        """What the chunk from step `start` to `stop` reports, with what only the row of the log asks for."""
        if not told.metrics:
            return told
        updates, written = self.settings.measured_updates(start, stop), stop // self.settings.environments
        told = told._replace(metrics=self._measuring.complete(told.metrics, learners, written, updates))
        if not self._summarises:
            return told
        summary = self.layout.fetch(self._summarise(np.int32(written), learners))
        return told._replace(metrics=told.metrics | summary.numbers, histograms=summary.histograms)
