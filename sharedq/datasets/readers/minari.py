"""Data sets of Minari, in both of its formats. Its files are read directly, and Minari itself need not be installed."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sharedq.datasets import minari_files
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found
from sharedq.datasets.reading import as_rewards, check_lengths, check_size, flags
from sharedq.datasets.spaces import Channels, check_bounds, in_our_form, turns_channels
from sharedq.environments import ENVIRONMENTS, gymnasium_spaces
from sharedq.environments.spec import EnvironmentSpec
from sharedq.errors import SharedqError, missing_extra, reason
from sharedq.imports import BrokenContract
from sharedq.json_files import Maybe, read_json
from sharedq.settings import require

METADATA = "metadata.json"
FORMATS = ("hdf5", "arrow", "parquet")
FORM = {
    "total_episodes": int,
    "total_steps": int,
    "data_format": Maybe(str),
    "observation_space": Maybe(str),
    "action_space": Maybe(str),
    "env_spec": Maybe(str | None),
    "dataset_id": Maybe(str | None),
    "algorithm_name": Maybe(str | None),
    "ref_min_score": Maybe(float | None),
    "ref_max_score": Maybe(float | None),
}
REMEDY = "get the data set again, with 'minari download'"
LARGEST = 2**24  # ours: numbers in a space, whose bounds come into memory
OLD = "read it with a newer Minari and write it again there"


@dataclass(frozen=True)
class Minari:
    """A data set of Minari, by its id or by its folder."""

    path: str  # the id, such as D4RL/pointmaze/umaze-v2, or the folder
    channels: Channels = None  # which axis of an image holds its colours: last or first

    @staticmethod
    def recognises(path: str) -> bool:
        try:
            return _folder(path) is not None
        except (OSError, ValueError):
            return False

    def describe(self) -> Description:
        return self._description

    def files(self) -> list[Path]:
        with minari_files.opened(self._data, self._format) as files:
            return [self._data / METADATA, *files.paths()]

    def count(self) -> int:
        return self._metadata["total_steps"]

    @cached_property
    def _data(self) -> Path:
        """The folder in which the files lie."""
        found = _folder(self.path)
        if found is None:
            raise SharedqError(
                f"there is no data set '{self.path}', neither a folder nor in {home()}: get it with 'minari download "
                f"{self.path}', or set MINARI_DATASETS_PATH to the folder of your data sets"
            )
        return found

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return read_json(self._data / METADATA, FORM, REMEDY)

    @cached_property
    def _environment(self) -> str:
        """The name of the environment, which an `env_spec` in the metadata gives."""
        try:
            named = json.loads(self._metadata.get("env_spec") or "{}").get("id")
        except (ValueError, AttributeError, RecursionError):
            return "unknown"
        return in_our_name(str(named)) if named else "unknown"

    @cached_property
    def _spaces(self) -> tuple[Any, Any]:
        """The spaces of observations and of actions."""
        return self._space("observation_space"), self._space("action_space")

    def _space(self, name: str) -> Any:
        where = f"'{name}' of {self._data / METADATA}"
        try:
            import gymnasium  # noqa: F401
        except ImportError:
            raise missing_extra("gymnasium", "data", "reading data sets of Minari") from None
        text = self._metadata.get(name)
        if text is None:
            raise SharedqError(f"{where} is missing, and the environment is not asked: {OLD}")
        try:
            return _space_of(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            raise SharedqError(f"{where} is no space of a known form ({reason(error)}): {REMEDY}") from None

    @cached_property
    def _observations(self) -> gymnasium_spaces.Observations:
        from gymnasium import spaces

        space, channels = self._spaces[0], self.channels
        if isinstance(space, spaces.Box):
            channels = "first" if turns_channels(self.path, space.shape, channels) else "last"
        else:
            require(channels != "first", f"--channels first needs images, and {self.path} has a {type(space).__name__}")
        with self._naming_spaces():
            return gymnasium_spaces.observations(self.path, space, channels)

    @contextmanager
    def _naming_spaces(self) -> Iterator[None]:
        """Lets the error about a space name the data set: nobody has an environment to wrap."""
        try:
            yield
        except gymnasium_spaces.Unfit as error:
            raise SharedqError(f"{self.path} has {error.what}: such data cannot be read") from None

    @cached_property
    def _description(self) -> Description:
        with self._naming_spaces():
            actions = gymnasium_spaces.actions(self.path, self._spaces[1])
        check_bounds(self.path, actions.actions)
        found = self._metadata
        scores = found.get("ref_min_score"), found.get("ref_max_score")
        notes = [remark for remark in (self._observations.remark, actions.remark) if remark]
        if self._is_lossy:
            notes.append("Minari compressed the images as JPEG, so that they differ a little from what the agent saw")
        return Description(
            source=f"minari:{self.path}",
            reader="minari",
            spec=EnvironmentSpec(self._environment, self._observations.form, actions.actions),
            behaviour=found.get("algorithm_name"),
            reference_scores=None if scores[0] is None or scores[1] is None else (scores[0], scores[1]),
            notes=tuple(notes),
        )

    @property
    def _is_lossy(self) -> bool:
        """Whether the first episode has images that were compressed."""
        with minari_files.opened(self._data, self._format) as files:
            return files.count() > 0 and files.columns(0, *self._spaces).lossy

    def episodes(self, start: int = 0) -> Iterator[Found]:
        steps = 0
        with minari_files.opened(self._data, self._format) as files:
            if files.count() != self._metadata["total_episodes"]:
                raise SharedqError(
                    f"{self._data / METADATA} says that there are {self._metadata['total_episodes']:,} episodes, and "
                    f"there are {files.count():,}: {REMEDY}"
                )
            for number in range(files.count()):
                steps += (own := files.steps(number))
                if own < 1:
                    continue
                if start:
                    start -= 1
                    continue
                where, form = files.where(number), self._observations.form
                check_size(own + 1, form.shape, form.dtype, where)
                read = 2 + number if self._format != "hdf5" else None  # the metadata, and a file of each episode
                yield Found(self._episode(files.columns(number, *self._spaces), where), where, read)
        if steps != self.count():
            raise SharedqError(
                f"{self._data / METADATA} says that there are {self.count():,} steps, and there are {steps:,}: {REMEDY}"
            )

    @property
    def _format(self) -> str:
        known = self._metadata.get("data_format", "hdf5")
        if known not in FORMATS:
            raise SharedqError(f"{self._data / METADATA} names the format '{known}', and {FORMATS} can be read")
        return known

    def _episode(self, columns: minari_files.Columns, where: str) -> Episode:
        steps = len(columns.rewards)
        for name, found, wanted in (
            ("observations", columns.observations, steps + 1),
            ("actions", columns.actions, steps),
            ("terminations", columns.terminations, steps),
            ("truncations", columns.truncations, steps),
        ):
            for leaf in minari_files.leaves(found):
                check_lengths({name: (len(leaf), wanted)}, where)
        action = in_our_form(self._description.spec.actions, columns.actions, where)
        return Episode(
            self._read(columns.observations, where), action, as_rewards(columns.rewards, where), _end(columns, where)
        )

    def _read(self, found: Any, where: str) -> np.ndarray:
        """Observations [T+1, ...] in our form, by the rules by which those of an environment are read."""
        read, rows = self._observations.read, []
        for step in range(len(next(minari_files.leaves(found)))):
            try:
                with np.errstate(over="ignore"):  # the rules find what is infinite
                    rows.append(read(minari_files.at(found, step)))
            except BrokenContract as error:
                raise SharedqError(f"{where}, step {step}: it {str(error).partition(': wrap')[0]}") from None
        return np.stack(rows)


def _end(columns: minari_files.Columns, where: str) -> End:
    """How the episode ended. A flag before its last step would cut it in two."""
    found = {}
    for name in ("terminations", "truncations"):
        set_at = np.nonzero(flags(getattr(columns, name), name, where))[0]
        if set_at.size and set_at[0] < len(columns.rewards) - 1:
            raise SharedqError(
                f"{where}, step {set_at[0]}: {name} is true, and {len(columns.rewards) - 1 - set_at[0]:,} more steps "
                "follow: make an episode of each part"
            )
        found[name] = set_at.size > 0
    if found["terminations"]:
        return End.TERMINATED
    return End.TRUNCATED if found["truncations"] else End.UNKNOWN


def in_our_name(named: str) -> str:
    """The name that we give to an environment of this id: gymnasium/CartPole-v1. Export writes our own names as ids."""
    return named if named.partition("/")[0] in ENVIRONMENTS else f"gymnasium/{named}"


def home() -> Path:
    """Where Minari keeps its data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def _folder(path: str) -> Path | None:
    """The folder with the files of a data set, which is named by its id or by its place."""
    for folder in (Path(path), home() / path):
        for inside in (folder / "data", folder):
            if inside.name == "data" and (inside / METADATA).is_file():
                return inside
    return None


def _space_of(plain: dict[str, Any]) -> Any:
    """The space that Minari wrote as JSON. Nothing is imported to make it."""
    from gymnasium import spaces

    kind = plain["type"]
    declared = plain.get("shape", plain.get("n", plain.get("max_length", ())))
    if kind != "Discrete" and math.prod(np.ravel(declared).tolist()) > LARGEST:
        raise ValueError(f"a {kind} of {declared} is larger than {LARGEST:,} numbers")
    if kind == "Dict":
        return spaces.Dict([(key, _space_of(one)) for key, one in plain["subspaces"].items()])  # a dict would be sorted
    if kind == "Tuple":
        return spaces.Tuple([_space_of(one) for one in plain["subspaces"]])
    if kind == "Box":
        dtype = np.dtype(plain["dtype"])
        low, high = (np.array(plain[bound], dtype) for bound in ("low", "high"))
        return spaces.Box(low, high, tuple(plain["shape"]), dtype)
    if kind == "Discrete":
        return spaces.Discrete(plain["n"], start=plain["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(plain["nvec"], dtype=np.dtype(plain["dtype"]), start=plain["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(plain["n"])
    if kind == "Text":
        return spaces.Text(plain["max_length"], min_length=plain["min_length"], charset=plain["charset"])
    raise ValueError(f"it is a {kind}")
