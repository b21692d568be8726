"""Files of d3rlpy: HDF5 with arrays for each episode, as its `ReplayBuffer.dump` writes them since its version 2."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sharedq.datasets import hdf5
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.reading import as_rewards, check_lengths, flags
from sharedq.datasets.spaces import (
    Channels,
    FoundObservations,
    Undeclared,
    find_actions,
    find_observations,
    in_our_form,
)
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError

NEEDED = "a file of d3rlpy has num_episodes, and for each episode observations, actions, rewards and terminated"
AGAIN = "write it again with d3rlpy.dataset.dump"
OLD = (  # an array that only an old format has, the format, and what makes a new file of it
    ("terminals", "first format", f"read it there with d3rlpy.dataset.load_v1, {AGAIN}"),
    ("total_size", "format 2.0", f"read it with the d3rlpy that wrote it, {AGAIN} of a newer one"),
)


class Part(NamedTuple):
    """The arrays of one episode."""

    observations: list[Any]  # several if an observation is a tuple
    actions: Any
    rewards: Any
    end: End
    steps: int  # a truncated episode has one less than rows: what followed the last is not in the file


@dataclass(frozen=True)
class D3rlpy(Undeclared):
    """An HDF5 file that d3rlpy wrote, of its format 2.1."""

    channels: Channels = "first"  # which axis of an image holds its colours: last or first

    @staticmethod
    def recognises(path: str) -> bool:
        found = hdf5.names(path) or set()
        return "columns" in found or {"terminals", "episode_terminals"} <= found

    def describe(self) -> Description:
        return self._description

    def files(self) -> list[Path]:
        return [Path(self.path)]

    def count(self) -> int:
        with hdf5.opened(self.path) as file:
            return sum(self._part(file, number).steps for number in range(self._episodes(file)))

    @cached_property
    def _description(self) -> Description:
        with hdf5.opened(self.path) as file:
            episodes = self._episodes(file)
            parts = [self._part(file, number) for number in range(min(episodes, 1))]
            if not parts:
                raise SharedqError(f"{self.path} holds no episodes")
            forms = self._forms(parts[0])
            every = (
                block
                for number in range(episodes)
                for block in hdf5.blocks(self._part(file, number).actions, self._where(number))
            )
            found = find_actions(self.path, every, self.actions, self.bounds)
        form = forms[0].form
        notes = (
            "the last observation of a terminated episode is there twice: d3rlpy does not keep it",
            "truncated episodes lose their last step, because d3rlpy does not keep what followed it",
            *found.notes,
        )
        if len(forms) > 1:
            form = jax.ShapeDtypeStruct((sum(int(np.prod(one.form.shape)) for one in forms),), np.float32)
            notes += (f"the {len(forms)} arrays of an observation are flattened into one vector",)
        return Description(
            source=f"d3rlpy:{self.path}",
            reader="d3rlpy",
            spec=EnvironmentSpec(self.environment or "unknown", form, found.actions),
            rewards="unknown",
            notes=notes,
        )

    def _where(self, number: int) -> str:
        return f"{self.path}, episode {number}"

    def _episodes(self, file: Any) -> int:
        """The number of episodes in the file, if it is of the format that we read."""
        for sign, form, remedy in OLD:  # the text 'version' is not read: a damaged text lets the HDF5 library hang
            if hdf5.item(file, sign, self.path) is not None:
                raise SharedqError(f"{self.path} is of d3rlpy's {form}: {remedy}, and convert that file")
        return int(hdf5.value(file, "num_episodes", self.path, NEEDED, hdf5.WHOLE))

    def _part(self, file: Any, number: int) -> Part:
        actions = hdf5.array(file, f"actions_{number}", self.path, NEEDED)
        rewards = hdf5.array(file, f"rewards_{number}", self.path, NEEDED)
        observations = [hdf5.array(file, f"observations_{number}", self.path)]
        if observations[0] is None:
            observations = []
            while (one := hdf5.array(file, f"observations_{number}_{len(observations)}", self.path)) is not None:
                observations.append(one)
            if not observations:
                raise SharedqError(f"{self.path} has no 'observations_{number}': {NEEDED}")
        count, where = len(actions), self._where(number)
        for one in observations:
            check_lengths({"observations": (len(one), count), "rewards": (len(rewards), count)}, where)
        terminated = np.asarray(hdf5.value(file, f"terminated_{number}", self.path, NEEDED, hdf5.NUMBERS))
        if flags(terminated, "terminated", where)[0]:
            return Part(observations, actions, rewards, End.TERMINATED, count)
        return Part(observations, actions, rewards, End.TRUNCATED, max(count - 1, 0))

    def _forms(self, part: Part) -> list[FoundObservations]:
        one = len(part.observations) == 1
        return [
            find_observations(self.path, x.shape[1:], x.dtype, self.channels if len(x.shape) == 4 and one else "last")
            for x in part.observations
        ]

    def episodes(self, start: int = 0) -> Iterator[Found]:
        actions = self._description.spec.actions
        with hdf5.opened(self.path) as file:
            for number in range(self._episodes(file)):
                part, where = self._part(file, number), self._where(number)
                if not part.steps:
                    continue
                if start:
                    start -= 1
                    continue
                action = in_our_form(actions, hdf5.rows(part.actions, 0, part.steps, where), where)
                reward = as_rewards(hdf5.rows(part.rewards, 0, part.steps, where), where)
                yield Found(Episode(self._read(part, where), action, reward, part.end), where)

    def _read(self, part: Part, where: str) -> np.ndarray:
        """The observations of an episode, with the one that follows the last step."""
        count = len(part.actions)
        read = [
            form.read(hdf5.rows(found, 0, count, where))
            for form, found in zip(self._forms(part), part.observations, strict=True)
        ]
        if len(read) > 1:
            read = [np.concatenate([one.reshape(count, -1) for one in read], axis=1, dtype=np.float32)]
        return np.concatenate([read[0], read[0][-1:]]) if part.end == End.TERMINATED else read[0]
