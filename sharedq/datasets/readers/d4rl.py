"""Files of D4RL: flat HDF5, one row for each step, with flags where episodes end."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharedq.datasets import hdf5
from sharedq.datasets.d4rl_scores import reference_scores
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.reading import as_rewards, check_lengths, flags
from sharedq.datasets.spaces import (
    FoundObservations,
    Undeclared,
    find_actions,
    find_observations,
    in_our_form,
)
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError

JUMP = 1e-6  # the distance between what followed a step and the next row, above which another episode begins
NEEDED = "a file of D4RL has observations, actions, rewards and terminals"
OTHERS = {"episode_terminals", "discrete_action"}  # only d3rlpy's old format has these


class Parts(NamedTuple):
    """The episodes of a file, as runs of its rows."""

    first: np.ndarray
    last: np.ndarray  # of the rows that become steps
    end: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True)
class D4RL(Undeclared):
    """A flat HDF5 file as the environments of D4RL download it."""

    @staticmethod
    def recognises(path: str) -> bool:
        found = hdf5.names(path)
        return found is None or ({"observations", "terminals"} <= found and not OTHERS & found)

    def describe(self) -> Description:
        return self._description

    def files(self) -> list[Path]:
        return [Path(self.path)]

    def count(self) -> int:
        return int((self._parts.last - self._parts.first + 1).sum())

    @cached_property
    def _description(self) -> Description:
        with hdf5.opened(self.path) as file:
            rows, own = self._array(file, "observations"), self._array(file, "actions")
            observations = self._observations(rows)
            found = find_actions(self.path, hdf5.blocks(own, f"'actions' of {self.path}"), self.actions, self.bounds)
        notes = self._parts.notes + found.notes
        if self._is_maze2d:
            notes += ("the timeouts of maze2d say that the goal was reached, and the agent went on to another goal",)
        scores = reference_scores(Path(self.path).stem.replace("_", "-"))
        if scores is None:
            notes += ("there are no normalised scores: the file's name is none of D4RL's that have them",)
        return Description(
            source=f"d4rl:{self.path}",
            reader="d4rl",
            spec=EnvironmentSpec(self.environment or "unknown", observations.form, found.actions),
            reference_scores=scores,
            notes=notes,
        )

    @property
    def _is_maze2d(self) -> bool:
        return any("maze2d" in name.lower() for name in (self.environment or "", Path(self.path).name))

    def _array(self, file: Any, name: str) -> Any:
        return hdf5.array(file, name, self.path, NEEDED)

    def _observations(self, rows: Any) -> FoundObservations:
        return find_observations(self.path, rows.shape[1:], rows.dtype, self.channels)

    @cached_property
    def _parts(self) -> Parts:
        """Where episodes end: at a terminal, at a timeout, or where a row is not what followed the one before."""
        with hdf5.opened(self.path) as file:
            rows = self._array(file, "observations")
            count, follows = len(rows), hdf5.array(file, "next_observations", self.path)
            timeouts = hdf5.array(file, "timeouts", self.path)
            arrays = {name: self._array(file, name) for name in ("actions", "rewards", "terminals")}
            arrays |= {"timeouts": timeouts} if timeouts is not None else {}
            arrays |= {"next_observations": follows} if follows is not None else {}
            check_lengths({name: (len(found), count) for name, found in arrays.items()}, self.path)
            terminal, timeout = (self._flags(arrays.get(name), name, count) for name in ("terminals", "timeouts"))
            jump = np.zeros(count, bool) if follows is None else self._jumps(rows, follows)
        over = terminal | timeout | jump
        over[-1:] = True
        last = np.nonzero(over)[0]
        first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)[: len(last)]
        end = np.where(terminal[last], int(End.TERMINATED), int(End.TRUNCATED))
        notes: list[str] = []
        if follows is None:
            cut = ~terminal[last]
            if timeouts is None and cut.any():
                end[-1] = End.UNKNOWN
                notes.append(
                    "the file has neither timeouts nor next_observations: an episode that a time limit ended cannot be "
                    "told from the one after it"
                )
            if cut.any():
                notes.append(
                    f"{cut.sum():,} episodes lose their last step, because the file does not hold what followed it"
                )
            if (~cut).any():
                notes.append("the last observation of a terminated episode is there twice: the file does not hold it")
            last = last - cut
        kept = last >= first
        return Parts(first[kept], last[kept], end[kept], tuple(notes))

    def _flags(self, found: Any, name: str, count: int) -> np.ndarray:
        if found is None:
            return np.zeros(count, bool)
        values = hdf5.rows(found, 0, count, f"'{name}' of {self.path}")
        check_lengths({name: (values.size, count)}, self.path)
        return flags(values, name, self.path, "row")

    def _jumps(self, rows: Any, follows: Any) -> np.ndarray:
        """Whether the row after each is another one than what followed it."""
        if follows.shape != rows.shape:
            raise SharedqError(
                f"{self.path} has observations {list(rows.shape[1:])} and next_observations {list(follows.shape[1:])}: "
                "its arrays do not belong together"
            )
        where, size = f"the observations of {self.path}", hdf5.rows_at_once(rows)
        found = np.zeros(len(rows), bool)
        for first in range(0, len(rows) - 1, size):
            last = min(first + size, len(rows) - 1)
            now, then = hdf5.rows(rows, first + 1, last + 1, where), hdf5.rows(follows, first, last, where)
            with np.errstate(invalid="ignore", over="ignore"):  # the rules find what is not finite
                apart = (now.astype(np.float64) - then).reshape(last - first, -1)
                found[first:last] = np.linalg.norm(apart, axis=1) > JUMP
        return found

    def episodes(self, start: int = 0) -> Iterator[Found]:
        actions, parts = self._description.spec.actions, self._parts
        with hdf5.opened(self.path) as file:
            rows, own, rewards = (self._array(file, name) for name in ("observations", "actions", "rewards"))
            follows, read = hdf5.array(file, "next_observations", self.path), self._observations(rows).read
            for number in range(start, len(parts.first)):
                first, last = int(parts.first[number]), int(parts.last[number])
                where = f"{self.path}, episode {number} (rows {first:,} to {last:,})"
                obs = hdf5.rows(rows, first, last + 1, where)
                after = hdf5.rows(rows if follows is None else follows, *self._after(number, follows), where)
                action = in_our_form(actions, hdf5.rows(own, first, last + 1, where), where)
                reward = as_rewards(hdf5.rows(rewards, first, last + 1, where), where)
                end = End(int(parts.end[number]))
                yield Found(Episode(read(np.concatenate([obs, after])), action, reward, end), where)

    def _after(self, number: int, follows: Any) -> tuple[int, int]:
        """The row that follows the last step: that of `next_observations`, or the row itself if nothing follows."""
        last = int(self._parts.last[number])
        at = last if follows is not None or self._parts.end[number] == End.TERMINATED else last + 1
        return at, at + 1
