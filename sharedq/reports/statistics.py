"""The statistics of a report: learning curves, their area, interquartile means and intervals.

Scores come as *strata*: one array per environment, `[seeds, ...]`, so that an environments x seeds matrix is one
too. Resampling draws seeds with replacement within each stratum and never mixes environments. Every random draw
comes from the generator that is handed in.

Percentiles of a bootstrap over three to ten seeds are too narrow: at three seeds they hold the truth in three of four
cases. So the distances of the bounds from the value are scaled by the factor that makes the same interval of a mean
right: the bootstrap's missing n / (n - 1), and Student's t in place of the normal distribution (`widening`).

References: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"; Newcombe 2006,
"Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in Medicine
25; Zou and Donner 2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27; Welch
1947, "The generalization of Student's problem when several different population variances are involved", Biometrika 34.
The scaled percentiles are ours.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from sharedq import formats
from sharedq.reports.load_runs import Run
from sharedq.reports.tables import LARGEST_NUMBER

REPETITIONS = 10_000
CURVE_REPETITIONS = 2000  # of curves, which have an interval at each point
CONFIDENCE = 0.95
BLOCK = 20_000_000  # numbers of a bootstrap in memory at once
FEWEST = 3  # seeds of which anything gets an interval
FEWEST_OF_PAIRS = 5  # seeds, or environments, of which a probability gets one; with fewer its pairs are counted

Strata = Sequence[np.ndarray] | np.ndarray


class Interval(NamedTuple):
    """An estimate and its confidence interval, numbers or arrays; the bounds are nan with fewer than three seeds."""

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
    column = name if name.startswith((formats.TARGET, formats.SAMPLER)) else formats.MEASURES + name
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


def _resampled(
    rows: list[np.ndarray],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    repetitions: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """`statistic` of the rows `[repetitions, seeds, ...]`, each drawn with replacement, some repetitions at a time."""
    stride = max(1, BLOCK // sum(row.size for row in rows))
    own = rng.spawn(len(rows))  # so that the size of a block changes nothing
    found = []
    for start in range(0, repetitions, stride):
        count = min(stride, repetitions - start)
        drawn = [row[one.integers(len(row), size=(count, len(row)))] for row, one in zip(rows, own, strict=True)]
        found.append(statistic(drawn))
    return np.concatenate(found)


def stratified_bootstrap(
    strata: Strata,
    statistic: Callable[..., np.ndarray] = iqm,
    *,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    rng: np.random.Generator,
) -> Interval:
    """`statistic(scores, axis)` over all seeds of all strata, with its scaled percentile interval."""
    rows = [np.asarray(row, float) for row in strata]
    value = statistic(np.concatenate(rows), axis=0)
    draws = _resampled(rows, lambda drawn: statistic(np.concatenate(drawn, axis=1), axis=1), repetitions, rng)
    return _interval(value, draws, confidence, rows)


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
    rows, count = [np.asarray(row, float) for row in (*scores, *reference)], len(scores)
    scales = [iqm(row) for row in rows[count:]]

    def pooled(drawn: list[np.ndarray]) -> np.ndarray:
        """The IQM of each repetition; nan where a reference is not positive."""
        units = [iqm(row, axis=1) for row in drawn[count:]]
        units = [np.where(unit > 0, unit, np.nan)[:, None] for unit in units]
        return iqm(np.concatenate([row / unit for row, unit in zip(drawn, units)], axis=1), axis=1)

    if min(scales) <= 0:
        return Interval(np.nan, np.nan, np.nan)
    draws = _resampled(rows, pooled, repetitions, rng)
    if np.isnan(draws).any():
        return Interval(np.nan, np.nan, np.nan)
    own = [row / scale for row, scale in zip(rows, scales)]
    theirs = [iqm(one) * row / scale for one, row, scale in zip(own, rows[count:], scales)]  # by the delta method
    return _interval(iqm(np.concatenate(own)), draws, confidence, [*own, *theirs])


def difference(scores: np.ndarray, reference: np.ndarray, *, confidence: float = CONFIDENCE) -> Interval:
    """Mean of the scores minus the reference's in one environment, with Welch's t interval."""
    rows = [np.asarray(scores, float), np.asarray(reference, float)]
    value = rows[0].mean() - rows[1].mean()
    if min(map(len, rows)) < FEWEST:
        return Interval(value, np.nan, np.nan)
    variance, freedom = _welch(rows)
    reach = student_t(freedom, confidence) * np.sqrt(variance)
    return Interval(value, value - reach, value + reach)


def probability_of_improvement(scores: Strata, reference: Strata, *, confidence: float = CONFIDENCE) -> Improvement:
    """P(X > Y) + P(X = Y) / 2 of a seed X against a seed Y of the reference, averaged over environments.

    The interval is Newcombe's method 5 in each environment; those of several are combined as Zou and Donner do. It has
    a width also where all pairs are won. There is none with fewer than five seeds, or three in five environments.
    """
    rows = list(zip(map(np.asarray, scores), map(np.asarray, reference), strict=True))
    pairs = tuple((len(x), len(y)) for x, y in rows)
    shares = [float(_wins(x, y)) for x, y in rows]
    value, wins = float(np.mean(shares)), sum(share * m * n for share, (m, n) in zip(shares, pairs))
    low = high = math.nan
    if min(map(min, pairs)) >= (FEWEST_OF_PAIRS if len(pairs) < FEWEST_OF_PAIRS else FEWEST):
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
    """The percentiles of bootstrap draws `[repetitions, ...]`, their distances from the value scaled by `widening`.

    The strata say how much each part of the value varies, on the value's scale. Fewer than three seeds have none.
    """
    if min(len(row) for row in strata) < FEWEST:
        return Interval(value, np.full_like(value, np.nan)[()], np.full_like(value, np.nan)[()])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    factor = widening(strata, confidence)
    return Interval(value, value - factor * (value - low), value + factor * (high - value))


def widening(strata: Strata, confidence: float = CONFIDENCE) -> np.ndarray:
    """`sqrt(n / (n - 1)) * t / z`, where t has the degrees of freedom of Welch and Satterthwaite over the strata.

    With unequal strata `n / (n - 1)` is the variance of the means over what a bootstrap sees of it.
    """
    rows = [np.asarray(row, float) for row in strata]
    variance, freedom = _welch(rows)
    seen = sum(row.var(axis=0) / len(row) for row in rows)
    share = np.divide(variance, seen, out=np.ones_like(variance), where=seen > 0)
    return np.sqrt(share) * student_t(freedom, confidence) / NormalDist().inv_cdf((1 + confidence) / 2)


def _welch(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the sum of the rows' means, and its degrees of freedom by Welch and Satterthwaite."""
    parts = [row.var(axis=0, ddof=1) / len(row) for row in rows]
    variance = np.asarray(sum(parts))
    spread = np.asarray(sum(part**2 / (len(row) - 1) for part, row in zip(parts, rows, strict=True)))
    most = np.full_like(variance, sum(len(row) - 1 for row in rows))
    return variance, np.divide(variance**2, spread, out=most, where=spread > 0)


def student_t(freedom: np.ndarray | float, confidence: float = CONFIDENCE) -> np.ndarray:
    """The bound that the size of Student's t stays below with this probability, for each number of degrees of freedom.

    With t = sqrt(nu) tan(angle) the density is a power of a cosine. Gauss and Legendre's rule integrates it, and
    Newton's method finds the angle from below, because the integral is concave.
    """
    nu, places = np.unique(np.asarray(freedom, float), return_inverse=True)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    constant = np.array([math.exp(math.lgamma((one + 1) / 2) - math.lgamma(one / 2)) for one in nu]) / math.sqrt(
        math.pi
    )
    angle = np.arctan(NormalDist().inv_cdf((1 + confidence) / 2) / np.sqrt(nu))
    for _ in range(30):
        density = np.cos(angle[:, None] * (nodes + 1) / 2) ** (nu[:, None] - 1)
        area = constant * angle * (density @ weights)  # of both sides
        angle = angle + (confidence - area) / (2 * constant * np.cos(angle) ** (nu - 1))
    return (np.sqrt(nu) * np.tan(angle))[places].reshape(np.shape(freedom))[()]
