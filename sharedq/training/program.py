"""What the loop drives: a training program that advances all seeds from one step to a later one."""

from typing import Any, NamedTuple, Protocol

import numpy as np


class FinishedEpisodes(NamedTuple):
    """Episodes of one seed that ended, in order."""

    steps: np.ndarray  # environment steps of the seed when they ended
    returns: np.ndarray
    lengths: np.ndarray


class ChunkResult(NamedTuple):
    """What a stretch of training tells of itself."""

    metrics: dict[str, np.ndarray]  # [S] each; empty while nothing is learned
    episodes: list[FinishedEpisodes]  # one per seed
    bad_step: np.ndarray  # [S] environment step of the first loss that was not a finite number, else -1
    params_finite: np.ndarray  # [S]


class Program(Protocol):
    """A run, `Any`, is one pytree on the devices; on the host it has a leading axis of seeds on every leaf."""

    seeds: list[int]
    metric_names: list[str]
    log_steps: list[int]  # the environment steps at which to log, in order; the last is the end of training

    def shapes(self) -> Any:
        """The run's shapes on the host, nothing allocated."""

    def prepare(self) -> int:
        """Compiles, and returns the bytes that training will hold on the devices; allocates nothing."""

    def begin(self) -> Any:
        """The run before its first step."""

    def advance(self, run: Any, start: int, stop: int) -> tuple[Any, ChunkResult]:
        """The run at environment step `stop`, given it at `start`, which is used up."""

    def to_host(self, run: Any) -> Any: ...

    def to_devices(self, run: Any) -> Any: ...

    def save_worlds(self) -> Any:
        """Where worlds outside the run are, as JSON can hold it; None if the run holds all there is."""

    def load_worlds(self, saved: Any, step: int) -> None:
        """Puts them where `save_worlds` found them, at that environment step."""

    def close(self) -> None:
        """Ends what the program holds outside this process's memory."""
