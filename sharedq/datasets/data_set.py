"""A data set as the place of a replay: the settings, and the feed that is opened when training begins."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from sharedq.datasets.episode import End
from sharedq.datasets.feed import FractionOf, Rewards, StoreFeed, chosen_part
from sharedq.datasets.store import Store
from sharedq.datasets.text_feed import TextFeed
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec, Tokens, to_json
from sharedq.errors import SharedqError
from sharedq.settings import N_STEP, as_typed, check_count, require
from sharedq.transitions import Batch, Step

UnknownEnds = Literal["refuse", "terminated", "truncated"]


@dataclass(frozen=True)
class DataSet:
    """The transitions of a data set on disk, drawn uniformly; of text, whole episodes."""

    learns_from: ClassVar = "data"

    path: str = ""  # folder of the data set, as 'sharedq data convert' and 'sharedq data collect' make it
    content: str = ""  # checksum of the data set; a run notes it and then refuses other data
    batch_size: int = 256  # transitions per update; of text, episodes per update
    n_step: int = 1  # number of rewards before the bootstrap (n-step returns)
    fraction: float = 1.0  # share of the data to learn from
    fraction_of: FractionOf = "first"  # which share: the first steps of each group, or random whole episodes
    reward_shift: float = 0.0  # added to every reward; -1 in implicit Q-learning on AntMaze
    return_range: float | None = None  # scale rewards so that the data's returns spread this far; none keeps them
    unknown_ends: UnknownEnds = "refuse"  # what to do with episodes whose end is not known: refuse, or take them as one

    def __post_init__(self):
        check_count("replay.batch_size", self.batch_size)
        check_count("replay.n_step", self.n_step, most=N_STEP)
        spread = self.return_range
        require(spread is None or spread > 0, f"replay.return_range must be above 0 or none, not {spread}")
        require(
            0 < self.fraction <= 1, f"replay.fraction must be above 0 and at most 1 (all data), not {self.fraction}"
        )

    def pinned(self) -> "DataSet":
        """The same settings with the checksum of the data that are there now."""
        return dataclasses.replace(self, content=self.content or self._store.manifest.content)

    @property
    def part(self) -> tuple[str, float, str]:
        """Which data are learned from. A report compares only runs that have the same ones."""
        return self.path, self.fraction, self.fraction_of if self.fraction < 1 else "first"

    def note(self) -> dict[str, Any]:
        """What a report says of the data, in a form that JSON can hold. A run keeps it as its data.json."""
        manifest = self._store.manifest
        known = manifest.description
        return {
            "source": known.source,
            "reader": known.reader,
            "environment": known.spec.name,
            "behaviour": known.behaviour,
            "rewards": known.rewards,
            "reference_scores": known.reference_scores,
            "notes": known.notes,
            "made": manifest.made,
            "steps": manifest.steps,
            "episodes": manifest.episodes,
            "ends": manifest.ends,
            "groups": manifest.groups,
            "used": chosen_part(self._store, self.fraction, self.fraction_of).steps,
            "reward_shift": self.reward_shift,
            "reward_scale": self.rewards.scale,
        }

    @property
    def rewards(self) -> Rewards:
        """How the rewards of the data are changed before anything is learned from them."""
        if self.return_range is None:
            return Rewards(self.reward_shift, 1.0)
        returns = self._store.returns
        require(
            returns.max() > returns.min(),
            f"all episodes of {self.path} have the return {returns.min():g}: leave --return_range out",
        )
        return Rewards(self.reward_shift, self.return_range / float(returns.max() - returns.min()))

    def for_other_data(
        self, path: str, note: Mapping[str, Any], unknown_ends: UnknownEnds | None = None
    ) -> tuple["DataSet", Rewards, str | None]:
        """The settings to look at all of other data with, how their rewards are changed, and a remark on that.

        `note` is that of the run which learned with these settings: its rewards are scaled by its own data.
        """
        ends = unknown_ends or self.unknown_ends
        found = dataclasses.replace(self, path=path, content="", fraction=1.0, unknown_ends=ends)
        if self.return_range is None:
            return found, Rewards(self.reward_shift, 1.0), None
        if (scale := note.get("reward_scale")) is not None:
            return found, Rewards(self.reward_shift, scale), None
        remark = (
            "the run does not say by how much it scaled its rewards (it is of an older version), so they are scaled by "
            f"the returns of {path}: compare no values with those of other data"
        )
        return found, found.rewards, remark

    @property
    def spec(self) -> EnvironmentSpec:
        """The description of the environment that the data were recorded in."""
        return self._store.description.spec

    @cached_property
    def _store(self) -> Store:
        require(bool(self.path), "name a data set with --data FOLDER; 'sharedq data collect' makes one")
        path = Path(self.path)
        require(path.is_dir(), f"there is no data set in {path}: run this from the folder where it is, or name another")
        return Store(path)

    def check_meanings(self, own: Callable[[], tuple[str, ...] | None]) -> None:
        """Raises if the actions of the data have other names than those `own` of the environment, if both are known."""
        theirs = self._store.description.action_meanings
        if theirs is None or (mine := own()) is None or tuple(theirs) == tuple(mine):
            return
        raise SharedqError(
            f"the actions in {self.path} are {', '.join(theirs)}, and those of the environment {', '.join(mine)}: "
            "choose the settings of the environment that the data were recorded with, or add --environment recorded to "
            "learn without one"
        )

    def _other_settings(self, environment: Mapping[str, Any]) -> Iterator[str]:
        """Says which settings of an environment of ours are others than when the data were recorded."""
        recorded = self._store.description.environment or {}
        if recorded.get("kind") != environment.get("kind"):
            return
        differing = [name for name in recorded if name in environment and recorded[name] != environment[name]]
        if differing:
            told = (f"{n} {as_typed(recorded[n])} and has {as_typed(environment[n])} here" for n in differing)
            yield f"the data were recorded in an environment with other settings: it had {', '.join(told)}"

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        manifest, steps = self._store.manifest, experiment.training.steps
        part = chosen_part(self._store, self.fraction, self.fraction_of)
        share = "" if self.fraction == 1 else f"{part.steps:,} of the "
        # Of text, whole episodes are drawn.
        length = manifest.steps / manifest.episodes if isinstance(self.spec.actions, Tokens) else 1
        times = steps * self.batch_size * length / part.steps
        yield (
            f"learning from {share}{manifest.steps:,} steps of {manifest.episodes:,} episodes in {self.path}, each "
            f"about {times:.3g} times"
        )
        if manifest.ends["unknown"]:
            yield f"the end of {manifest.ends['unknown']:,} episodes is not known; they count as {self.unknown_ends}"
        yield from self._other_settings(experiment.to_dict()["environment"])
        yield from manifest.description.notes

    def build(self, step: Step, gamma: float, environments: int) -> "DataFeed":
        return DataFeed(self, gamma)


class DataFeed:
    """The feed of a data set (see `Feed` in replay/feed.py). An agent that only acts never opens it."""

    def __init__(self, settings: DataSet, gamma: float, rewards: Rewards | None = None):
        self.batch_size, self._settings, self._gamma = settings.batch_size, settings, gamma
        self._rewards = rewards  # None: as the settings say

    def init(self) -> tuple:
        return ()

    def open(self, spec: EnvironmentSpec) -> None:
        settings, store = self._settings, self._settings._store
        path = store.path
        if settings.content not in ("", store.manifest.content):
            raise SharedqError(
                f"{path} is not the data set that the run began with (its checksum differs): restore that one, or "
                "train again"
            )
        store.check()
        check_made_for(store, spec)
        if settings.unknown_ends == "refuse" and store.manifest.ends["unknown"]:
            number = int((store.episodes["end"] == End.UNKNOWN).argmax())
            step = int(store.episodes["length"][number]) - 1
            raise SharedqError(
                f"{path} does not say how episode {number} ends, at step {step}, and of {store.manifest.episodes:,} "
                f"episodes the ends of {store.manifest.ends['unknown']:,} are not known: add --unknown_ends terminated "
                "if no value follows them, or truncated if a time limit ended them"
            )

    @cached_property
    def _feed(self) -> StoreFeed | TextFeed:
        settings, store = self._settings, self._settings._store
        part = chosen_part(store, settings.fraction, settings.fraction_of)
        unknown = End.TERMINATED if settings.unknown_ends == "terminated" else End.TRUNCATED
        rewards = settings.rewards if self._rewards is None else self._rewards
        if isinstance(store.description.spec.actions, Tokens):
            require(settings.n_step == 1, "text is learned from in whole episodes: leave replay.n_step at 1")
            return TextFeed(store, part, settings.batch_size, self._gamma, unknown, rewards)
        return StoreFeed(store, part, settings.batch_size, settings.n_step, self._gamma, unknown, rewards)

    @property
    def ends(self) -> np.ndarray:
        """How each episode ends, as it is learned from."""
        return self._feed.ends

    def discounted_returns(self, reward_bound: float | None = None) -> np.ndarray:
        """The discounted sum of the rewards of each episode, as they are learned from."""
        assert isinstance(self._feed, StoreFeed)  # text is not evaluated on data
        return self._feed.discounted_returns(reward_bound)

    @property
    def store(self) -> Store:
        """The data set, open for reading."""
        return self._settings._store

    def batches(self, seeds: Sequence[int], first: int, count: int) -> Any:
        return self._feed.batches(seeds, first, count)

    def decode(self, raw: Any, reward_bound: float | None = None) -> Batch:
        return self._feed.decode(raw, reward_bound)


def check_made_for(store: Store, spec: EnvironmentSpec) -> None:
    """Raises if the data were recorded in another environment, or with other observations or actions."""
    own = store.description.spec
    what = f"{store.path} was recorded in '{own.name}'"
    if own.name not in ("unknown", spec.name):
        raise SharedqError(
            f"{what}, and the experiment's environment is '{spec.name}': name the environment of the data"
            f"{_as_options(store)}, or add --environment recorded to learn without one"
        )
    for name, found, wanted in (
        ("observations", _observation(own), _observation(spec)),
        ("actions", _actions(own), _actions(spec)),
    ):
        if found != wanted:
            raise SharedqError(
                f"{what} with {name} {found}, and '{spec.name}' has {wanted}: choose the settings of the environment "
                "that the data were recorded with, or add --environment recorded to learn without one"
            )


def _as_options(store: Store) -> str:
    """The environment of data that were collected in one of ours, in brackets, as it is typed."""
    known = store.description.environment
    if known is None:
        return ""
    names = ("--environment", *(f"--environment.{name}" for name in known if name != "kind"))
    values = (known["kind"], *(value for name, value in known.items() if name != "kind"))
    return f" ({' '.join(f'{n} {shlex.quote(as_typed(v))}' for n, v in zip(names, values, strict=True))})"


def _observation(spec: EnvironmentSpec) -> str:
    return f"{spec.observation.dtype}{list(spec.observation.shape)}"


def _actions(spec: EnvironmentSpec) -> str:
    actions = spec.actions
    if isinstance(actions, Discrete):
        return f"0 .. {actions.n - 1}" + (f" of {list(actions.sizes)}" if actions.sizes else "")
    if isinstance(actions, Tokens):
        meanings = {name: value for name, value in actions._asdict().items() if name not in ("length", "vocabulary")}
        told = ", ".join(f"{name} {value}" for name, value in meanings.items())
        return f"texts of {actions.length} tokens out of {actions.vocabulary} ({told})"
    assert isinstance(actions, Continuous)
    plain = to_json(spec)["actions"]
    return f"from {plain['low']} to {plain['high']}"
