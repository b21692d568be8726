"""The statistics of a report: learning curves, their area, interquartile means and stratified bootstrap intervals.

Scores come as *strata*: one array per environment, `[seeds, ...]`, so that an environments x seeds matrix is one
too. Resampling draws seeds with replacement within each stratum and never mixes environments. Every random draw
comes from the generator that is handed in.

References: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sharedq.reports.load_runs import Run

REPETITIONS = 2000
CONFIDENCE = 0.95
BLOCK = 20_000_000  # numbers of a bootstrap in memory at once

Strata = Sequence[np.ndarray] | np.ndarray


class Interval(NamedTuple):
    """An estimate and its confidence interval, numbers or arrays; the bounds are nan where no spread can be seen."""

    value: Any
    low: Any
    high: Any


def learning_curve(run: Run, grid: np.ndarray) -> np.ndarray:
    """The return of each seed at evenly spaced steps: `[seeds, points]`.

    A point is the mean return of the episodes that ended in the window before it, as wide as the grid's spacing.
    If none ended there the point before is carried forward. Nan before the first episode and beyond the last step
    that the seed has done.
    """
    points, window = len(grid), grid[0] if len(grid) == 1 else grid[1] - grid[0]
    step, seed, returns, _ = run.episodes
    inside = (step > grid[0] - window) & (step <= grid[-1])
    cell = np.searchsorted(run.seeds, seed[inside]) * points + np.searchsorted(grid, step[inside])
    size = len(run.seeds) * points
    counts = np.bincount(cell, minlength=size).reshape(-1, points)
    sums = np.bincount(cell, weights=returns[inside], minlength=size).reshape(-1, points)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    last_seen = np.maximum.accumulate(np.where(counts > 0, np.arange(points), 0), axis=1)
    curve = np.take_along_axis(means, last_seen, axis=1)
    return np.where(grid <= run.reached[:, None], curve, np.nan)


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


def probability_of_improvement(
    scores: Strata,
    reference: Strata,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    rng: np.random.Generator,
) -> Interval:
    """P(X > Y) + P(X = Y) / 2 of a seed X against a seed Y of the reference, averaged over environments."""
    pairs = list(zip(map(np.asarray, scores), map(np.asarray, reference), strict=True))
    value = np.mean([_wins(x, y) for x, y in pairs])
    samples = zip(resample(scores, repetitions, rng), resample(reference, repetitions, rng), strict=True)
    draws = np.mean([_wins(x, y) for x, y in samples], axis=0)
    return _interval(value, draws, confidence, [*scores, *reference])


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of pairs (last axes) in which x is above y, ties counting half. No pair is ever held in memory."""
    if x.ndim > 1:
        return np.array([_wins(*rows) for rows in zip(x, y, strict=True)])
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
