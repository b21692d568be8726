"""The interface between the loop and a training program, which advances all seeds from one step to a later one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np


class FinishedEpisodes(NamedTuple):
    """The episodes of one seed that ended, in order."""

    steps: np.ndarray  # environment step of the seed at the end of each episode
    returns: np.ndarray
    lengths: np.ndarray


NO_EPISODES = FinishedEpisodes(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))


class PlayedEpisodes(NamedTuple):
    """The episodes of an evaluation, [S, E] each: E episodes of each seed."""

    returns: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray  # whether the episode ended by itself, and was not cut at the bound on its steps


class ChunkResult(NamedTuple):
    """What a chunk of training reports."""

    metrics: dict[str, np.ndarray]  # [S] each; empty while no updates are made
    episodes: list[FinishedEpisodes]  # one per seed
    bad_step: np.ndarray  # [S] environment step of the first loss that was not finite, or -1
    params_finite: np.ndarray  # [S]
    histograms: Mapping[str, np.ndarray] = MappingProxyType({})  # [S, bins] counts, of the sampler


class Program(Protocol):
    """Trains seeds. A run, `Any`, is a pytree on the devices. On the host each leaf starts with an axis of seeds."""

    seeds: list[int]
    metric_names: list[str]
    histograms: Mapping[str, tuple[float, ...]]  # the edges of the bins of each histogram that is logged
    log_steps: list[int]  # the environment steps at which to log, in order; the last one ends the training
    evaluation_steps: list[int]  # the log steps at which to evaluate; none if the run does not evaluate

    def shapes(self) -> Any:
        """The shapes of the run on the host; allocates nothing."""

    def prepare(self) -> int:
        """Compiles, and returns the bytes that training will need on the devices; allocates nothing."""

    def begin(self) -> Any:
        """The run before its first step."""

    def advance(self, run: Any, start: int, stop: int) -> tuple[Any, ChunkResult]:
        """Advances the run from environment step `start` to `stop`; the given run must not be used afterwards."""

    def evaluate(self, run: Any, step: int) -> PlayedEpisodes:
        """The episodes that the policy of evaluation plays at this step; the run stays as it is.

        The episodes depend on the seed, the step and the agent only.
        """

    def agent_to_host(self, run: Any) -> Any:
        """The agents of all seeds alone."""

    def with_agent(self, run: Any, agent: Any) -> Any:
        """The run with other agents, which come from the host."""

    def to_host(self, run: Any) -> Any: ...

    def to_devices(self, run: Any) -> Any: ...

    def save_worlds(self) -> Any:
        """The state of environments outside the run, in a form that JSON can hold; None if there is none."""

    def load_worlds(self, saved: Any, step: int) -> None:
        """Restores what `save_worlds` returned at this environment step."""

    @property
    def measuring_seconds(self) -> float:
        """The time that measures have taken so far in this process."""

    def close(self) -> None:
        """Closes what the program has open outside the memory of this process."""
