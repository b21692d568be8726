"""Evaluation during training: which episodes are played, how they are told, and which agents were the best so far."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.playing.episodes import apart
from sharedq.runs import MetricsLog, RunDirectory, checkpoints
from sharedq.training.program import FinishedEpisodes, Program

MAX_STEPS = 10_000  # of an episode, as in `Agent.evaluate`
LARGEST = float(np.finfo(np.float32).max)
META = {"steps": [int], "returns": [float]}  # of the best agents: the step and the mean return of each seed's own


def evaluation_seeds(seeds: Sequence[int], step: int) -> np.ndarray:
    """The seeds [S] of the episodes that the agents play at this step of the training."""
    return np.array([apart(seed, step) for seed in seeds], np.int32)


def episodes_at(step: int, returns: np.ndarray, lengths: np.ndarray) -> list[FinishedEpisodes]:
    """The episodes [S, E] that were played at this step, for each seed."""
    return [
        FinishedEpisodes(np.full(len(length), step), returned, length)
        for returned, length in zip(returns, lengths, strict=True)
    ]


class Best(NamedTuple):
    """The best evaluation of each seed: its step and its mean return. Of equal ones, the first."""

    steps: list[int]
    returns: list[float]

    def beaten_by(self, returns: list[float]) -> np.ndarray:
        return np.array(returns) > np.array(self.returns)

    def with_more(self, step: int, returns: list[float]) -> "Best":
        better = self.beaten_by(returns)
        return Best(
            *(np.where(better, new, old).tolist() for new, old in ((step, self.steps), (returns, self.returns)))
        )


class Evaluation:
    """The evaluations of a run: when they are due, how long they took, and which agents were the best."""

    def __init__(self, program: Program, directory: RunDirectory, seconds: float):
        self.due, self.seconds = set(program.evaluation_steps), seconds
        self._program, self._directory = program, directory
        self._best = self._read_best()

    def _read_best(self) -> Best:
        """What was best so far. A best that is later than the checkpoint of the run is found again, as it is."""
        path, count = checkpoints.best(self._directory.checkpoints), len(self._program.seeds)
        if path is None:
            return Best([0] * count, [-np.inf] * count)
        return Best(**checkpoints.read_meta(path, self._directory.digests(), META, checkpoints.SCHEMA))

    def carry_out(self, run: Any, step: int, log: MetricsLog) -> np.ndarray:
        """Evaluates the agents, and keeps those that are better than before; returns the mean return of each seed."""
        began = time.perf_counter()
        episodes = self._program.evaluate(run, step)
        for seed, played in zip(self._program.seeds, episodes, strict=True):
            log.evaluation(step, seed, played.returns, played.lengths)
        returns = _mean_returns(episodes)
        if self._best.beaten_by(returns).any():
            self._keep_best(run, step, returns)
        self.seconds += time.perf_counter() - began
        return np.array(returns)

    def _keep_best(self, run: Any, step: int, returns: list[float]) -> None:
        folder, agent, better = (
            self._directory.checkpoints,
            self._program.agent_to_host(run),
            self._best.beaten_by(returns),
        )
        if not better.all():
            old = checkpoints.load_agent(folder / checkpoints.BEST, self._program.shapes().agent)
            agent = _chosen(better, agent, old)
        self._best = self._best.with_more(step, returns)
        checkpoints.save_best(folder, step, agent, self._directory.digest(), self._best._asdict())


def _mean_returns(episodes: list[FinishedEpisodes]) -> list[float]:
    """The mean return of each seed. One that is not a number counts as the lowest."""
    means = [np.mean(one.returns, dtype=np.float64) for one in episodes]
    return np.nan_to_num(means, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST).tolist()


def _chosen(better: np.ndarray, new: Any, old: Any) -> Any:
    """Agents [S, ...] on the host: the new one of each seed that is `better` [S], and the old ones of the others."""

    def choose(new, old):
        mask = better.reshape(-1, *[1] * (new.ndim - 1))
        return (np if isinstance(new, np.ndarray) else jnp).where(mask, new, old)  # random keys are no numpy arrays

    return jax.tree.map(choose, new, old)
