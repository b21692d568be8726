"""Plain numpy arrays: a file .npz, or a folder of files .npy, with these names and no others.

    observations        [N, ...], one before each of the N steps, or [N + episodes, ...], with the last one of each
    actions             [N] whole numbers, or [N, A] floats
    rewards             [N]
    next_observations   [N, ...], optional beside observations [N, ...]: the one after each step
    terminated          [N] of 0 and 1 or bool: the episode ended in the environment at this step
    truncated           [N] likewise: a time limit ended it
    dones               [N] likewise: it ended, and nobody knows in which way; instead of the two
    episode_starts      [episodes], optional: the number of the first step of each episode
    episode_ids         [N], optional, instead of episode_starts: steps of one episode have the same one

The steps lie in the order of time, episode behind episode. Where an episode ends is told by terminated, truncated or
dones, or by episode_starts or episode_ids, or by both, which must then agree: no flag may stand inside an episode.

How it ends is told by terminated and truncated at its last step; terminated counts if both are set. If neither is set,
but terminated is among the arrays, it did not end in the environment, and is truncated. The end of the data truncates
the last episode likewise. Otherwise the setting `ends` says it: "unknown" unless the user knows. With observations
[N, ...] alone the successor of the last step is missing. At a termination no value follows it, and the last observation
stands for it; an episode that is truncated, or whose end is unknown, loses the step.

Arrays are read row by row and never unpickled, so that those that are large need not fit into memory.
"""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.readers.streams import ArrayStream
from sharedq.datasets.reading import as_rewards, check_lengths, flags, readable, refuse_link
from sharedq.datasets.spaces import (
    FoundActions,
    FoundObservations,
    Undeclared,
    find_actions,
    find_observations,
    in_our_form,
)
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError, unknown

REQUIRED = ("observations", "actions", "rewards")
FLAGS = ("terminated", "truncated", "dones")
NAMES = (*REQUIRED, "next_observations", *FLAGS, "episode_starts", "episode_ids")


class Steps(NamedTuple):
    """All but the observations, with the episodes."""

    action: np.ndarray
    reward: np.ndarray
    starts: np.ndarray  # of each episode its first step
    ends: list[End]


@dataclass(frozen=True)
class Arrays(Undeclared):
    """The file or folder, and what its arrays do not say."""

    ends: Literal["unknown", "terminated", "truncated"] = "unknown"  # how episodes end where no flag says it

    @staticmethod
    def recognises(path: str) -> bool:
        """By the ending. Arrays of other names are refused later, with a line that says which."""
        if Path(path).is_dir():
            return any(Path(path).glob("*.npy"))
        return path.endswith(".npz")

    def describe(self) -> Description:
        steps = self._steps()
        found = self._actions(steps)
        with ExitStack() as opened:
            form = self._form(self._open("observations", opened)).form
        return Description(
            source=self.path,
            reader="numpy",
            spec=EnvironmentSpec(self.environment or "unknown", form, found.actions),
            rewards="unknown",
            notes=(*found.notes, *self._losses(steps)),
        )

    def files(self) -> list[Path]:
        path = Path(self.path)
        return sorted(path.glob("*.npy")) if path.is_dir() else [path]

    def count(self) -> int:
        with ExitStack() as opened:
            return self._open("rewards", opened).left

    def episodes(self, start: int = 0) -> Iterator[Found]:
        steps = self._steps()
        actions, passed = self._actions(steps).actions, 0
        for number, obs, first, length, end in self._observations(steps):
            if length < 1:
                continue
            passed += 1
            if passed > start:
                rows = slice(first, first + length)
                where = f"{self.path}, episode {number}"
                action = in_our_form(actions, steps.action[rows], where)
                yield Found(Episode(obs, action, as_rewards(steps.reward[rows], where), end), where)

    def _losses(self, steps: Steps) -> Iterator[str]:
        """Says which steps are left out because nothing tells what follows them."""
        with ExitStack() as opened:
            stream = self._open("observations", opened)
            if self._has_every_observation(stream, steps) or self._successors(stream, opened) is not None:
                return
        count = sum(end is not End.TERMINATED for end in steps.ends)
        if count:
            yield (
                f"{count:,} step{'s are' if count > 1 else ' is'} left out, the last of each episode that is truncated "
                "or whose end is unknown: the observation that follows is not in the data"
            )

    def _actions(self, steps: Steps) -> FoundActions:
        return find_actions(self._name("actions"), [steps.action], self.actions, self.bounds)

    def _form(self, stream: ArrayStream) -> FoundObservations:
        return find_observations(stream.name, stream.shape[1:], stream.dtype, self.channels)

    def _observations(self, steps: Steps) -> Iterator[tuple[int, np.ndarray, int, int, End]]:
        """Of each episode its number, its observations, its first step, its whole steps and its end."""
        edges = [*steps.starts.tolist(), len(steps.reward)]
        with ExitStack() as opened:
            stream = self._open("observations", opened)
            read = self._form(stream).read
            every = self._has_every_observation(stream, steps)
            following = self._successors(stream, opened)
            for number, end in enumerate(steps.ends):
                first, length = edges[number], edges[number + 1] - edges[number]
                obs = stream.read(length + every)
                if following is not None:
                    after = following.read(length)
                    self._check_successors(obs, after, number)
                    obs = np.concatenate([obs, after[-1:]])
                elif not every and end is not End.TERMINATED:  # a value may follow, and nobody knows of what
                    length -= 1
                elif not every:
                    obs = np.concatenate([obs, obs[-1:]])
                yield number, read(obs), first, length, end
            stream.finish()
            if following is not None:
                following.finish()

    def _has_every_observation(self, stream: ArrayStream, steps: Steps) -> bool:
        """Whether each episode has one observation more than it has steps."""
        count, episodes = len(steps.reward), len(steps.starts)
        if stream.left not in (count, count + episodes):
            raise SharedqError(
                f"{stream.name} has {stream.left:,} rows, and there are {count:,} steps in {episodes:,} episodes: it "
                f"should have {count:,} rows, or {count + episodes:,} with the last one of each episode"
            )
        return stream.left == count + episodes

    def _successors(self, stream: ArrayStream, opened: ExitStack) -> ArrayStream | None:
        if "next_observations" not in self._members():
            return None
        found = self._open("next_observations", opened)
        if (found.shape, found.dtype) != (stream.shape, stream.dtype):
            raise SharedqError(
                f"{found.name} holds {found.dtype}{list(found.shape)}, and observations "
                f"{stream.dtype}{list(stream.shape)}: they should be alike"
            )
        return found

    def _check_successors(self, obs: np.ndarray, after: np.ndarray, number: int) -> None:
        one, other = obs[1:], after[:-1]
        differ = ((one != other) & (one == one)).any(axis=tuple(range(1, one.ndim)))  # those not finite are told later
        if differ.any():
            raise SharedqError(
                f"{self.path}, episode {number}, step {int(np.argmax(differ))}: the row of next_observations is not "
                "the observation of the next step, so an end flag is missing there, or rows are"
            )

    def _steps(self) -> Steps:
        members = self._members()
        reward = self._small("rewards")
        if reward.ndim != 1 or not len(reward) or reward.dtype.kind not in "biuf":
            raise SharedqError(
                f"{self._name('rewards')} holds {reward.dtype}{list(reward.shape)}, and numbers [N] are expected"
            )
        action = self._small("actions")
        found = {name: self._flags(name) for name in FLAGS if name in members}
        if "dones" in found and len(found) > 1:
            raise SharedqError(
                f"{self.path} has dones and {', '.join(set(found) - {'dones'})}: remove dones, which says less"
            )
        counts = {name: len(np.atleast_1d(array)) for name, array in (("actions", action), *found.items())}
        check_lengths({name: (count, len(reward)) for name, count in counts.items()}, self.path)
        over = np.logical_or.reduce(list(found.values())) if found else np.zeros(len(reward), bool)
        declared = self._starts(len(reward))
        if declared is None and not found:
            raise SharedqError(
                f"{self.path} does not say where an episode ends: add terminated and truncated, or episode_starts"
            )
        starts = np.concatenate([[0], np.nonzero(over[:-1])[0] + 1]) if declared is None else declared
        last = np.concatenate([starts[1:], [len(reward)]]) - 1
        inside = over.copy()
        inside[last] = False
        if inside.any():
            step = int(np.argmax(inside))
            number = int(np.searchsorted(starts, step, side="right")) - 1
            raise SharedqError(
                f"{self.path}, episode {number}, step {step - int(starts[number])}: an end flag stands in the middle "
                "of the episode"
            )
        return Steps(action, reward, starts, [self._end(int(row), found, declared is not None) for row in last])

    def _end(self, row: int, found: dict[str, np.ndarray], declared: bool) -> End:
        """How the episode ends of which this is the last step."""
        terminated, truncated, dones = (name in found and bool(found[name][row]) for name in FLAGS)
        if terminated:
            return End.TERMINATED
        if truncated or "terminated" in found or not (declared or dones):
            return End.TRUNCATED
        return End[self.ends.upper()]

    def _starts(self, steps: int) -> np.ndarray | None:
        """The first step of each episode, if the arrays say it."""
        members = self._members()
        if {"episode_starts", "episode_ids"} <= set(members):
            raise SharedqError(f"{self.path} has episode_starts and episode_ids: remove one of them")
        if "episode_starts" in members:
            found, name = self._small("episode_starts"), self._name("episode_starts")
            right = found.ndim == 1 and found.dtype.kind in "iu" and len(found) and found[0] == 0
            found = found.astype(np.int64) if right else found
            if not right or (np.diff(found) < 1).any() or found[-1] >= steps:
                raise SharedqError(f"{name} should hold whole numbers that begin with 0 and rise, below {steps:,}")
            return found
        if "episode_ids" in members:
            found, name = self._small("episode_ids"), self._name("episode_ids")
            if found.shape != (steps,) or found.dtype.kind not in "iu":
                raise SharedqError(f"{name} holds {found.dtype}{list(found.shape)}, not a whole number for each step")
            starts = np.concatenate([[0], np.nonzero(found[1:] != found[:-1])[0] + 1])
            again = np.ones(len(starts), bool)
            again[np.unique(found[starts], return_index=True)[1]] = False
            if again.any():
                row = int(starts[np.argmax(again)])
                raise SharedqError(f"{name}, row {row}: the steps of episode {found[row]} do not lie together")
            return starts
        return None

    def _flags(self, name: str) -> np.ndarray:
        found = self._small(name)
        if found.ndim != 1 or found.dtype.kind not in "biuf":
            raise SharedqError(f"{self._name(name)} holds {found.dtype}{list(found.shape)}, not 0 or 1 for each step")
        return flags(found, name, self._name(name), "row")

    def _small(self, name: str) -> np.ndarray:
        with ExitStack() as opened:
            return self._open(name, opened).whole()

    def _open(self, name: str, opened: ExitStack) -> ArrayStream:
        path = Path(self.path)
        with readable(self._name(name)):
            if path.is_dir():
                refuse_link(path / f"{name}.npy")
                size = (path / f"{name}.npy").stat().st_size
                file: BinaryIO = opened.enter_context((path / f"{name}.npy").open("rb"))
            else:
                archive = opened.enter_context(zipfile.ZipFile(path))
                size = archive.getinfo(f"{name}.npy").file_size
                file = opened.enter_context(archive.open(f"{name}.npy"))  # type: ignore[assignment]
            return ArrayStream(file, self._name(name), size)

    def _name(self, name: str) -> str:
        return f"{Path(self.path) / f'{name}.npy'}" if Path(self.path).is_dir() else f"{self.path}, {name}.npy"

    def _members(self) -> list[str]:
        """The names of the arrays."""
        with readable(self.path):
            members = _members(Path(self.path))
        for member in members:
            if member not in [f"{name}.npy" for name in NAMES]:
                name = ascii(member.removesuffix(".npy"))[1:-1]
                longer = [one for one in NAMES if name and one.startswith(name)]
                raise SharedqError(f"{self.path}: {unknown('array', name, longer or NAMES)}")
            if members.count(member) > 1:
                raise SharedqError(f"{self.path} holds {member} twice: make it anew")
        for name in REQUIRED:
            if f"{name}.npy" not in members:
                raise SharedqError(f"{self.path} lacks the array '{name}', which every data set needs")
        return [member.removesuffix(".npy") for member in members]


def _members(path: Path) -> list[str]:
    if path.is_dir():
        return [file.name for file in path.glob("*.npy")]
    if not path.is_file() and path.exists():
        raise ValueError("it is no plain file")  # a pipe would never open
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()
