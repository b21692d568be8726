"""Performance profiles: which share of all seeds on all environments scores more than each level."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sharedq.reports.statistics import CURVE_REPETITIONS, Interval, stratified_bootstrap

LEVELS = 101
ENOUGH = 25  # scores of a label for a band


class Profile(NamedTuple):
    """The scores of a label in units of the reference, and how many of them lie above each level."""

    levels: np.ndarray  # [LEVELS], the same for all labels
    share: Interval | None  # of the scores above each level, [LEVELS]; None of fewer than 25 scores
    scores: np.ndarray  # all of them, in order


def profiles(scores: Mapping[str, Sequence[np.ndarray]], rng: np.random.Generator) -> dict[str, Profile]:
    """The profile of each label from its scores in each environment. The unit, the reference's, is not drawn again."""
    pooled = {label: np.sort(np.concatenate(list(rows))) for label, rows in scores.items()}
    pooled = {label: found for label, found in pooled.items() if len(found)}
    if not pooled:
        return {}
    every = np.concatenate(list(pooled.values()))
    levels = np.linspace(min(0.0, every.min()), every.max(), LEVELS)
    return {
        label: Profile(levels, _share(scores[label], levels, rng) if len(found) >= ENOUGH else None, found)
        for label, found in pooled.items()
    }


def _share(rows: Sequence[np.ndarray], levels: np.ndarray, rng: np.random.Generator) -> Interval:
    above = [(row[:, None] > levels).astype(float) for row in rows]
    found = stratified_bootstrap(above, np.mean, repetitions=CURVE_REPETITIONS, rng=rng)
    return Interval(found.value, np.clip(found.low, 0, 1), np.clip(found.high, 0, 1))
