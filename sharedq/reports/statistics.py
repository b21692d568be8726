"""The statistics of a report: learning curves, their area, interquartile means and intervals.

Scores come as *strata*: one array per environment, `[seeds, ...]`, so that an environments x seeds matrix is one
too. Resampling draws seeds with replacement within each stratum and never mixes environments. Every random draw
comes from the generator that is handed in.

References: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"; Newcombe 2006,
"Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in Medicine
25; Zou and Donner 2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from sharedq import formats
from sharedq.reports.load_runs import Run
from sharedq.reports.tables import LARGEST_NUMBER

REPETITIONS = 2000
CONFIDENCE = 0.95
BLOCK = 20_000_000  # numbers of a bootstrap in memory at once
FEWEST = 5  # seeds of which a probability gets an interval; with fewer its pairs are counted

Strata = Sequence[np.ndarray] | np.ndarray


class Interval(NamedTuple):
    """An estimate and its confidence interval, numbers or arrays; the bounds are nan where no spread can be seen."""

    value: Any
    low: Any
    high: Any


class Improvement(NamedTuple):
    """How often a seed of a run is better than a seed of the reference: the share of the pairs, and the pairs."""

    share: Interval
    wins: float  # ties count half
    pairs: tuple[tuple[int, int], ...]  # seeds of the run and of the reference, in each environment


def learning_curve(run: Run, grid: np.ndarray) -> np.ndarray:
    """The return of each seed at each step of a grid: `[seeds, points]`.

    A point is the mean return of the episodes that ended in the window before it, as wide as the grid's spacing. Of a
    run that learns from a data set these are the episodes of its evaluations. If none ended there the point before is
    carried forward. Nan before the first episode and beyond the last step that the seed has done.
    """
    step, seed, returns, _ = run.played
    return window_means(run, grid, step, seed, returns)


def measured(run: Run, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, seed and value of each row in which the measure has a number."""
    column = name if name.startswith(formats.SAMPLER) else formats.MEASURES + name
    values = run.metrics.get(column, np.full(len(run.metrics["step"]), np.nan))
    present = np.abs(values) <= LARGEST_NUMBER
    return run.metrics["step"][present], run.metrics["seed"][present], values[present]


def step_means(run: Run, step: np.ndarray, seed: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps that have a value, and the mean of each seed's values at each, nan without one: `[seeds, steps]`."""
    steps, at = np.unique(step, return_inverse=True)
    cell = np.searchsorted(run.seeds, seed) * len(steps) + at
    return steps, _means(cell, values, len(run.seeds) * len(steps)).reshape(len(run.seeds), len(steps))


def window_means(run: Run, grid: np.ndarray, step: np.ndarray, seed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of each seed's values in the window before each point, carried forward: `[seeds, points]`."""
    points, window = len(grid), grid[0] if len(grid) == 1 else grid[1] - grid[0]
    inside = (step > grid[0] - window) & (step <= grid[-1])
    cell = np.searchsorted(run.seeds, seed[inside]) * points + np.searchsorted(grid, step[inside])
    means = _means(cell, values[inside], len(run.seeds) * points).reshape(-1, points)
    last_seen = np.maximum.accumulate(np.where(np.isfinite(means), np.arange(points), 0), axis=1)
    curve = np.take_along_axis(means, last_seen, axis=1)
    return np.where(grid <= run.reached[:, None], curve, np.nan)


def _means(cell: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """The mean of the values in each cell, nan in an empty one: `[size]`."""
    counts = np.bincount(cell, minlength=size)
    sums = np.bincount(cell, weights=values, minlength=size)
    return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)


def area_under_curve(curve: np.ndarray) -> np.ndarray:
    """Area under each seed's curve divided by its width, i.e. the mean return over training: `[seeds]`.

    Points before a seed's first episode are left out; a seed without any episode has area nan.
    """
    present = np.isfinite(curve)
    counts = present.sum(-1)
    return np.divide(np.where(present, curve, 0.0).sum(-1), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and highest quarter (rounded down) of the scores."""
    ordered = np.sort(np.moveaxis(np.asarray(scores, float), axis, -1), axis=-1)
    count = ordered.shape[-1]
    cut = count // 4
    middle = ordered[..., cut : count - cut].mean(-1)
    return np.where(np.isnan(ordered[..., -1]), np.nan, middle)[()]  # sorting hides a nan in the upper quarter


def resample(strata: Strata, repetitions: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Bootstrap samples of each stratum: `[repetitions, seeds, ...]`."""
    return [row[_places(row, repetitions, rng)] for row in map(np.asarray, strata)]


def _places(row: np.ndarray, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(len(row), size=(repetitions, len(row)))


def stratified_bootstrap(
    strata: Strata,
    statistic: Callable[..., np.ndarray] = iqm,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    rng: np.random.Generator,
) -> Interval:
    """`statistic(scores, axis)` over all seeds of all strata, with its percentile interval."""
    rows = [np.asarray(row, float) for row in strata]
    value = statistic(np.concatenate(rows), axis=0)
    places = [_places(row, repetitions, rng) for row in rows]
    stride = max(1, BLOCK // sum(row.size for row in rows))  # repetitions of which the scores are held at once
    blocks = (
        np.concatenate([row[drawn[at : at + stride]] for row, drawn in zip(rows, places, strict=True)], axis=1)
        for at in range(0, repetitions, stride)
    )
    draws = np.concatenate([statistic(block, axis=1) for block in blocks])
    return _interval(value, draws, confidence, strata)


def ratio(
    scores: Strata,
    reference: Strata,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    rng: np.random.Generator,
) -> Interval:
    """IQM of the scores in units of the reference's IQM in the same environment, both resampled independently.

    Scores are measured from zero, so a ratio means something only above a positive reference: all nan if the
    reference's IQM is not positive in the data or in any resample. Use `difference` there.
    """
    scales = [iqm(row) for row in reference]
    scale_draws = [iqm(draws, axis=1) for draws in resample(reference, repetitions, rng)]
    if any(scale <= 0 or (draws <= 0).any() for scale, draws in zip(scales, scale_draws, strict=True)):
        return Interval(np.nan, np.nan, np.nan)
    value = iqm(np.concatenate([np.asarray(row) / scale for row, scale in zip(scores, scales, strict=True)]))
    draws = [row / scale[:, None] for row, scale in zip(resample(scores, repetitions, rng), scale_draws, strict=True)]
    return _interval(value, iqm(np.concatenate(draws, axis=1), axis=1), confidence, [*scores, *reference])


def difference(
    scores: np.ndarray,
    reference: np.ndarray,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    rng: np.random.Generator,
) -> Interval:
    """IQM of the scores minus the reference's in one environment, both resampled independently."""
    draws = [iqm(row, axis=1) for row in resample([scores, reference], repetitions, rng)]
    return _interval(iqm(scores) - iqm(reference), draws[0] - draws[1], confidence, [scores, reference])


def probability_of_improvement(scores: Strata, reference: Strata, *, confidence: float = CONFIDENCE) -> Improvement:
    """P(X > Y) + P(X = Y) / 2 of a seed X against a seed Y of the reference, averaged over environments.

    The interval is Newcombe's method 5 in each environment; those of several are combined as Zou and Donner do. It has
    a width also where all pairs are won. With fewer than five seeds there is none.
    """
    rows = list(zip(map(np.asarray, scores), map(np.asarray, reference), strict=True))
    pairs = tuple((len(x), len(y)) for x, y in rows)
    shares = [float(_wins(x, y)) for x, y in rows]
    value, wins = float(np.mean(shares)), sum(share * m * n for share, (m, n) in zip(shares, pairs))
    low = high = math.nan
    if min(map(min, pairs)) >= FEWEST:
        bounds = [mann_whitney_interval(share, *sizes, confidence) for share, sizes in zip(shares, pairs)]
        low = value - math.hypot(*(share - one for share, (one, _) in zip(shares, bounds))) / len(rows)
        high = value + math.hypot(*(one - share for share, (_, one) in zip(shares, bounds))) / len(rows)
    return Improvement(Interval(value, low, high), wins, pairs)


def mann_whitney_interval(share: float, m: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Newcombe's method 5: the probabilities from which the share of `m * n` pairs is at most z deviations away.

    The variance is that of Hanley and McNeil for exponential distributions, symmetric in the two samples.
    """
    z, extra = NormalDist().inv_cdf((1 + confidence) / 2), (m + n) / 2 - 1

    def is_far(p: float) -> bool:
        variance = p * (1 - p) * (1 + extra * (1 - p) / (2 - p) + extra * p / (1 + p)) / (m * n)
        return (share - p) ** 2 > z * z * variance

    def bound(end: float) -> float:
        near, far = share, end
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if is_far(middle) else (middle, far)
        return near

    return bound(0.0), bound(1.0)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of pairs in which x is above y, ties counting half. No pair is ever held in memory."""
    ordered = np.sort(y)
    below, not_above = (np.searchsorted(ordered, x, side) for side in ("left", "right"))
    return ((below + not_above - len(y)).sum() / (len(x) * len(y)) + 1) / 2


def _interval(value: np.ndarray, draws: np.ndarray, confidence: float, strata: Strata) -> Interval:
    """The percentile interval of bootstrap draws `[repetitions, ...]`; a single seed shows no spread."""
    if min(len(row) for row in strata) < 2:
        return Interval(value, np.full_like(value, np.nan)[()], np.full_like(value, np.nan)[()])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return Interval(value, low, high)
