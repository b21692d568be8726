"""Tests of runs against a reference: whether a difference is more than chance, and how many seeds would tell.

The unit is the seed: one score for each seed, in strata as in `statistics`. A permutation test hands the scores of an
environment out to the runs anew. Equal runs make every arrangement equally likely, whatever the distribution is.

References: Westfall and Young 1993, "Resampling-based multiple testing"; Marcus, Peritz and Gabriel 1976, "On closed
testing procedures with special reference to ordered analysis of variance", Biometrika 63; Holm 1979, "A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6; Hedges 1981, "Distribution theory
for Glass's estimator of effect size and related estimators", Journal of Educational Statistics 6.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from sharedq.reports.statistics import FEWEST, Interval, Strata

PERMUTATIONS = 9999  # drawn at random where there are more arrangements
MOST_SCORES = 5_000_000  # in all permutations together: fewer are drawn of thousands of seeds
LEVEL = 0.05  # of the tests
TOGETHER = 7  # comparisons at most of which all sets are tested
MOST_NEEDED = 100  # seeds; of a number above it only that is said
TOLERANCE = 1e-9  # of the size of numbers: sums in another order differ by less


class Pair(NamedTuple):
    """The scores of a run and of its reference in one environment: areas up to the step that both have reached."""

    scores: np.ndarray
    reference: np.ndarray
    until: int


class Test(NamedTuple):
    """What a comparison with the reference found."""

    p: float  # corrected for all comparisons of the family
    effect: float  # Hedges' g, the mean over environments
    separated: bool  # the interval leaves the reference's level out, and p is below 0.05
    seeds_needed: int | None  # per run; 101 stands for any larger number; None if separated or if nothing can be said
    smallest: float  # p that can be attained with these numbers of seeds
    seeds: tuple[int, int]  # the fewest and the most of a run and its reference in an environment


def compare(
    family: Mapping[str, Sequence[Pair]], relative: Mapping[str, Interval], level: float, rng: np.random.Generator
) -> dict[str, Test]:
    """Each label against the reference, over the environments that all have; `level` is that of an equal run.

    Runs that are compared over the same steps are tested in sets, by `closed_tests`. Those over other steps, or too
    many, are tested one by one and corrected as Holm does.
    """
    if not family:
        return {}
    spans = {tuple(pair.until for pair in pairs) for pairs in family.values()}
    samples = {label: [pair.scores for pair in pairs] for label, pairs in family.items()}
    references = {label: [pair.reference for pair in pairs] for label, pairs in family.items()}
    in_sets = len(spans) == 1 and len(family) <= TOGETHER
    if in_sets:
        p = closed_tests(samples, next(iter(references.values())), rng)
    else:
        p = holm({label: closed_tests({label: samples[label]}, references[label], rng)[label] for label in samples})
    return {
        label: _told(p[label], pairs, relative[label], level, 1 if in_sets else len(family))
        for label, pairs in family.items()
    }


def _told(p: float, pairs: Sequence[Pair], relative: Interval, level: float, factor: int) -> Test:
    effects = [hedges_g(pair.scores, pair.reference) for pair in pairs]
    effect = math.nan if {math.inf, -math.inf} <= {*effects} else float(np.mean(effects))
    counts = [(len(pair.scores), len(pair.reference)) for pair in pairs]
    fewest, most = min(map(min, counts)), max(map(max, counts))
    separated = bool(p < LEVEL and (relative.low > level or relative.high < level))
    needed = None if separated else seeds_needed(effect, fewest, len(pairs), factor)
    return Test(p, effect, separated, needed, min(1.0, factor * smallest_p(counts)), (fewest, most))


def closed_tests(samples: Mapping[str, Strata], reference: Strata, rng: np.random.Generator) -> dict[str, float]:
    """The corrected p of each label: the largest of the tests of all sets of labels that contain it.

    The test of a set is that of its largest difference (max-T), and permutes the reference and this set alone. So the
    chance of any wrong finding stays below the level whichever of the runs equal the reference, and a run that is far
    off hides no other.
    """
    sets = [labels for size in range(1, len(samples) + 1) for labels in combinations(samples, size)]
    tasks = range(len(reference))
    sizes = {
        labels: [tuple(len(one) for one in _groups(samples, reference, labels, t)) for t in tasks] for labels in sets
    }
    exact = {labels: _are_few(found) for labels, found in sizes.items()}
    totals = {labels: np.zeros((1, len(labels))) for labels in sets}
    for task in tasks:
        drawn: dict[tuple[int, ...], np.ndarray] = {}  # sets of one size share their arrangements
        for labels in sets:
            size = sizes[labels][task]
            if not exact[labels] and size not in drawn:
                drawn[size] = _random_arrangements(sum(size), rng)
            order = all_arrangements(size) if exact[labels] else drawn[size]
            found = _differences(_groups(samples, reference, labels, task), order)
            before = totals[labels][:, None] if exact[labels] else totals[labels]
            totals[labels] = (before + found).reshape(-1, len(labels))
    p = {labels: _share_as_large(np.abs(total).max(axis=1) / len(tasks)) for labels, total in totals.items()}
    return {label: max(p[labels] for labels in sets if label in labels) for label in samples}


def _groups(samples: Mapping[str, Strata], reference: Strata, labels: Sequence[str], task: int) -> list[np.ndarray]:
    return [np.asarray(reference[task], float), *(np.asarray(samples[label][task], float) for label in labels)]


def _differences(groups: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Mean of each other group minus that of the first, in every arrangement: `[arrangements, groups - 1]`.

    The unit is the standard deviation of all scores, which no arrangement changes; without any spread all are 0.
    """
    scores, sizes = np.concatenate(groups), np.array([len(group) for group in groups])
    spread = scores.std()
    scores = (scores - scores.mean()) / (spread if spread > TOLERANCE * np.abs(scores).max() else np.inf)
    means = np.add.reduceat(scores[order], np.cumsum(sizes) - sizes, axis=1) / sizes
    return means[:, 1:] - means[:, :1]


def _share_as_large(sizes: np.ndarray) -> float:
    """The share of the arrangements whose difference is at least that of the first one, which is the data's."""
    return float(np.mean(sizes >= sizes[0] - TOLERANCE))


def arrangement_count(sizes: Sequence[int]) -> int:
    """In how many ways scores can be handed out to groups of these sizes."""
    return math.prod(math.comb(sum(sizes[place:]), size) for place, size in enumerate(sizes))


def _are_few(sizes: Sequence[tuple[int, ...]]) -> bool:
    """Whether all arrangements in all environments can be tried."""
    counts = [arrangement_count(size) for size in sizes]
    held = max(count * sum(size) for count, size in zip(counts, sizes, strict=True))
    return math.prod(counts) <= PERMUTATIONS and held <= MOST_SCORES


@lru_cache(maxsize=64)
def all_arrangements(sizes: tuple[int, ...]) -> np.ndarray:
    """Every way to hand scores out to groups of these sizes, the scores' own way first: `[ways, scores]`."""

    def handed_out(scores: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(sizes) == 1:
            yield scores
            return
        for first in combinations(scores, sizes[0]):
            taken = set(first)
            left = tuple(one for one in scores if one not in taken)
            yield from (first + others for others in handed_out(left, sizes[1:]))

    return np.array(list(handed_out(tuple(range(sum(sizes))), sizes)))


def _random_arrangements(count: int, rng: np.random.Generator) -> np.ndarray:
    """The scores' own way first, then random ones: `[1 + ways, scores]`."""
    own = np.arange(count)
    ways = max(1, min(PERMUTATIONS, MOST_SCORES // count))
    return np.concatenate([own[None], rng.permuted(np.tile(own, (ways, 1)), axis=1)])


def smallest_p(counts: Sequence[tuple[int, int]]) -> float:
    """The smallest p of a two-sided test of two runs with these numbers of seeds in each environment."""
    mirrored = all(one == other for one, other in counts)
    return max((1 + mirrored) / math.prod(map(arrangement_count, counts)), 1 / (PERMUTATIONS + 1))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p of each test, corrected for all of them: the j-th smallest times the number of those not smaller."""
    corrected, largest = {}, 0.0
    for place, label in enumerate(sorted(p, key=lambda label: p[label])):
        largest = max(largest, min(1.0, (len(p) - place) * p[label]))
        corrected[label] = largest
    return corrected


def hedges_g(x: np.ndarray, y: np.ndarray) -> float:
    """Difference of the means in pooled standard deviations, corrected for few seeds; nan of single seeds."""
    freedom = len(x) + len(y) - 2
    if freedom < 1:
        return math.nan
    gap, spread = float(np.mean(x) - np.mean(y)), math.sqrt((np.var(x) * len(x) + np.var(y) * len(y)) / freedom)
    nothing = TOLERANCE * max(np.abs(x).max(), np.abs(y).max())
    if spread <= nothing:
        return math.copysign(math.inf, gap) if abs(gap) > nothing else 0.0
    return gap / spread * (1 - 3 / (4 * freedom - 1))


def seeds_needed(effect: float, seeds: int, tasks: int, factor: int = 1) -> int | None:
    """Seeds per run that tell a difference of this size in four of five studies: the rule `n * T >= 16 / g^2`.

    At least one more than there are, and as many as an interval needs and a test whose p is multiplied by `factor`. At
    most one above `MOST_NEEDED`.
    """
    if math.isnan(effect):
        return None
    wanted = 16 / effect**2 / tasks if effect else math.inf
    least = max(seeds + 1, FEWEST)
    while factor * smallest_p([(least, least)] * tasks) >= LEVEL:
        least += 1
    return max(least, math.ceil(wanted)) if max(least, wanted) <= MOST_NEEDED else MOST_NEEDED + 1
