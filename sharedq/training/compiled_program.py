"""What the training programs have in common: the seeds and their layout, the steps of the log, and the measures."""

from typing import Any

import jax
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.environments.spec import EnvironmentSpec
from sharedq.replay.replay import Replay
from sharedq.training.learning import Learner, zero_metrics
from sharedq.training.measuring import Measuring, MeasuringProgram
from sharedq.training.program import ChunkResult
from sharedq.training.schedule import Schedule
from sharedq.training.seeds import Layout


def learner_of(run: Any) -> Learner:
    """The learner of a run, whose other fields belong to the environments."""
    return Learner(run.seed, run.agent, run.replay, run.measures)


class CompiledProgram:
    """The base of the programs, which add the environments (see `program.Program`)."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        algorithm: Algorithm,
        replay: Replay,
        settings: Schedule,
        seeds: list[int],
        measuring: Measuring | None,
    ):
        self.seeds, self.settings, self.layout = seeds, settings, Layout(len(seeds))
        self.log_steps, self.evaluation_steps = settings.log_steps, settings.evaluation_steps
        self._zero_metrics = zero_metrics(algorithm, spec, replay, settings.environments, measuring)
        self._measuring = None if measuring is None else MeasuringProgram(measuring, replay, self.layout)
        self.metric_names = self._zero_metrics.names + ([] if measuring is None else measuring.names_at_log)

    def agent_to_host(self, run: Any) -> Any:
        return self.layout.fetch(run.agent)

    def with_agent(self, run: Any, agent: Any) -> Any:
        run = run._replace(agent=self.layout.place(agent))
        return run._replace(measures=self._measuring.begun_anew(learner_of(run))) if self._measuring else run

    @property
    def measuring_seconds(self) -> float:
        return self._measuring.seconds if self._measuring else 0.0

    def _seeds(self) -> jax.Array:
        return self.layout.place(np.array(self.seeds, np.int32))

    def _prepare_measuring(self, learners: Any) -> int:
        """Compiles the measures, if there are any; returns the bytes that they need on each device."""
        return self._measuring.prepare(learners) if self._measuring else 0

    def _measure(self, told: ChunkResult, learners: Any, start: int, stop: int) -> None:
        """Adds the measures of a row of the log to what the chunk from step `start` to `stop` reports."""
        if self._measuring and told.metrics:
            measured = self.settings.measured_updates(start, stop)
            told.metrics.update(self._measuring.at_log(learners, stop // self.settings.environments, measured))
