"""Evaluation during training: which episodes are played, how they are told, and which agents were the best so far."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.playing import MAX_STEPS
from sharedq.playing.episodes import evaluation_seed
from sharedq.runs import MetricsLog, RunDirectory, checkpoints
from sharedq.training.program import Program

LARGEST = float(np.finfo(np.float32).max)
META = {"steps": [int], "returns": [float]}  # of the best agents: the step and the mean return of each seed's own


def evaluation_seeds(seeds: Sequence[int], step: int) -> np.ndarray:
    """The seeds [S] of the episodes that the agents play at this step of the training."""
    return np.array([evaluation_seed(seed, step) for seed in seeds], np.int32)


class Best(NamedTuple):
    """The best evaluation of each seed: its step and its mean return. If several are equal, the first counts."""

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
    """The evaluations of a run: when they are due, how long they took, and which agents were the best.

    `say` takes a line on each evaluation.
    """

    def __init__(self, program: Program, directory: RunDirectory, say: Callable[[str], None], seconds: float):
        self.due, self.seconds = set(program.evaluation_steps), seconds
        self._program, self._directory, self._say = program, directory, say
        self._best = self._read_best()
        self._told_of_cuts = False

    def _read_best(self) -> Best:
        """The best evaluations so far.

        A run that was killed may have kept a best agent of a later step than its checkpoint. The resumed run comes to
        that step again and finds the same agent with the same return, which is not better, so the file stays as it is.
        """
        path, count = checkpoints.best(self._directory.checkpoints), len(self._program.seeds)
        if path is None:
            return Best([0] * count, [-np.inf] * count)
        return Best(**checkpoints.read_meta(path, self._directory.digests(), META, checkpoints.SEALED))

    def carry_out(self, run: Any, step: int, log: MetricsLog) -> np.ndarray:
        """Evaluates the agents, and keeps those that are better than before; returns the mean return of each seed."""
        began = time.perf_counter()
        played = self._program.evaluate(run, step)
        for seed, returned, length in zip(self._program.seeds, played.returns, played.lengths, strict=True):
            log.evaluation(step, seed, returned, length)
        means = _mean_returns(played.returns)
        if self._best.beaten_by(means).any():
            self._keep_best(run, step, means)
        self.seconds += time.perf_counter() - began
        self._tell(step, means, played.ended)
        return np.array(means)

    def _tell(self, step: int, means: list[float], ended: np.ndarray) -> None:
        self._say(f"evaluation at step {step:,}: mean return {np.mean(means):.2f}")
        if not (self._told_of_cuts or ended.all()):
            cut = f"{(~ended).sum()} of {ended.size} episodes of this evaluation were cut at {MAX_STEPS:,} steps"
            self._say(f"{cut}; their returns count up to there")
            self._told_of_cuts = True

    def _keep_best(self, run: Any, step: int, returns: list[float]) -> None:
        folder, agent, better = (
            self._directory.checkpoints,
            self._program.agent_to_host(run),
            self._best.beaten_by(returns),
        )
        before = checkpoints.best(folder)
        if before is not None and not better.all():
            old = checkpoints.load_agent(before, self._program.shapes().agent)
            agent = _chosen(better, agent, old)
        self._best = self._best.with_more(step, returns)
        checkpoints.save_best(folder, step, agent, self._directory.digest(), self._best._asdict())


def _mean_returns(returns: np.ndarray) -> list[float]:
    """The mean of the returns [S, E] of each seed. A mean that is not a number counts as the lowest."""
    means = [np.mean(one, dtype=np.float64) for one in returns]
    return np.nan_to_num(means, nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST).tolist()


def _chosen(better: np.ndarray, new: Any, old: Any) -> Any:
    """Agents [S, ...] on the host: the new one of each seed that is `better` [S], and the old ones of the others."""

    def choose(new, old):
        mask = better.reshape(-1, *[1] * (new.ndim - 1))
        return (np if isinstance(new, np.ndarray) else jnp).where(mask, new, old)  # random keys are no numpy arrays

    return jax.tree.map(choose, new, old)
