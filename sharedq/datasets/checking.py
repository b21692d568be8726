"""Checks a whole data set: what breaks a rule raises, and what only looks odd is remarked.

Odd is an observation that stays the same, as after a sensor failed or where a file was padded, and a jump of the
observations, as between two episodes whose end was lost.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Found, Reader
from sharedq.datasets.rules import check_episode
from sharedq.datasets.store import Store
from sharedq.output import Counted, uncounted

STILL = 100  # ours: steps in which an observation stays the same
SHORT = 10  # ours: in a shorter episode nothing is called odd
JUMP = 20  # ours: how many times the usual change of the observation a jump is


class Oddities:
    """Counts the episodes that look odd, and remembers the first place of each kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def look_at(self, found: Found) -> None:
        episode, where = found.episode, found.where
        if episode.end == End.UNKNOWN:
            self._note("unknown", where)
        if len(episode.reward) < SHORT:
            return
        change = _changes(episode)
        if (still := _longest_run(change == 0)) >= min(STILL, len(change)):
            self._note("still", f"{where}: {still:,} steps")
        usual = np.median(change[change > 0]) if change.any() else 0.0
        if episode.obs.dtype.kind == "f" and (change >= JUMP * usual).any() and usual > 0:
            self._note("jumps", f"{where}, step {int(np.argmax(change >= JUMP * usual))}")

    def _note(self, kind: str, place: str) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._places.setdefault(kind, place)

    def remarks(self) -> Iterator[str]:
        told = {
            "unknown": "the data do not tell a termination from a time limit in {}",
            "still": "the observation stays the same for long in {}",
            "jumps": f"an observation changes {JUMP} times as much as usual or more in {{}}: is an end missing there?",
        }
        for kind, text in told.items():
            if kind in self._counts:
                count = self._counts[kind]
                yield f"{text.format(f'{count:,} episode' + 's' * (count != 1))} (first: {self._places[kind]})"


def check_all(found: Iterable[Found], description: Description) -> tuple[int, int, list[str]]:
    """The numbers of steps and episodes, and what looks odd. Raises at the first episode that breaks a rule."""
    odd, steps, episodes = Oddities(), 0, 0
    for one in found:
        check_episode(one.episode, description, one.where)
        odd.look_at(one)
        steps, episodes = steps + len(one.episode.reward), episodes + 1
    return steps, episodes, list(odd.remarks())


def found_in_store(store: Store, progress: Counted = uncounted) -> Iterator[Found]:
    """The episodes of a store, with their places."""
    done = 0
    for number, episode in enumerate(store):
        yield Found(episode, f"{store.path}, episode {number}")
        done += len(episode.reward)
        progress(done, store.manifest.steps)


def found_in_source(reader: Reader, progress: Counted = uncounted) -> Iterator[Found]:
    """The episodes of other people's data, with their places."""
    done, total = 0, reader.count()
    for one in reader.episodes():
        yield one
        done += len(one.episode.reward)
        progress(done, total)


def _changes(episode: Episode) -> np.ndarray:
    """How much the observation changes in each step, [T]."""
    before, after = (x.reshape(len(x), -1) for x in (episode.obs[:-1], episode.obs[1:]))
    if episode.obs.dtype.kind == "f":
        return np.linalg.norm(after.astype(np.float64) - before, axis=1)
    return (before != after).any(axis=1).astype(np.float64)


def _longest_run(true: np.ndarray) -> int:
    """The length of the longest run of true entries."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
