"""The statistics of reports: closed forms, an exact bootstrap by enumeration, coverage by simulation, identities."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, t, trim_mean, ttest_ind

from sharedq.reports.load_runs import Episodes, Run
from sharedq.reports.statistics import (
    area_under_curve,
    difference,
    iqm,
    learning_curve,
    mann_whitney_interval,
    measured,
    probability_of_improvement,
    ratio,
    step_means,
    stratified_bootstrap,
    student_t,
    widening,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def run_of(rows: list[tuple[int, int, float]], seeds: tuple[int, ...], steps: int) -> Run:
    """A finished run with these (step, seed, return) episodes."""
    step, seed, returns = np.array(rows, float).reshape(-1, 3).T
    episodes = Episodes(step, seed, returns, np.ones_like(step))
    nothing = {"step": np.empty(0), "seed": np.empty(0)}
    return Run("run", Path(), {}, seeds, episodes, nothing, {}, {"steps": steps}, True, {}, "", {})


@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 23)), elements=st.floats(-1e6, 1e6)))
def test_iqm_is_the_trimmed_mean_of_scipy(scores):
    np.testing.assert_allclose(iqm(scores, axis=1), trim_mean(scores, 0.25, axis=1), rtol=1e-12, atol=1e-6)


def test_iqm_of_known_scores():
    assert iqm(np.array([100.0, 1, 2, 3, 4, -100, 5, 6])) == 3.5


def test_iqm_does_not_trim_a_nan_away():
    assert np.isnan(iqm(np.array([1.0, 2, 3, np.nan])))


def test_a_point_is_the_mean_of_its_window_and_is_carried_forward():
    rows = [(10, 3, 1.0), (11, 3, 5.0), (20, 3, 7.0), (40, 3, 2.0), (25, 8, 4.0)]
    curve = learning_curve(run_of(rows, (3, 8), 40), np.array([10, 20, 30, 40]))
    np.testing.assert_array_equal(curve, [[1, 6, 6, 2], [np.nan, np.nan, 4, 4]])


def test_a_curve_ends_where_the_run_ends():
    curve = learning_curve(run_of([(5, 0, 1.0)], (0,), 20), np.array([10, 20, 30]))
    np.testing.assert_array_equal(curve, [[1, 1, np.nan]])


def test_a_seed_without_episodes_has_neither_curve_nor_area():
    curve = learning_curve(run_of([(5, 0, 1.0)], (0, 1), 20), np.array([10, 20]))
    np.testing.assert_array_equal(area_under_curve(curve), [1, np.nan])


def test_what_is_measured_now_and_then_skips_empty_cells():
    run = run_of([], (3, 4), 40)
    rows = {"step": [10, 10, 20, 20, 30], "seed": [3, 4, 3, 4, 3], "measures/x": [1, 2, np.nan, 4, np.inf]}
    run = dataclasses.replace(run, metrics={name: np.array(column, float) for name, column in rows.items()})
    steps, means = step_means(run, *measured(run, "x"))
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(means, [[1, np.nan], [2, 4]])
    assert step_means(run, *measured(run, "other"))[1].shape == (2, 0)


def test_area_is_the_mean_return_over_training():
    np.testing.assert_array_equal(area_under_curve(np.array([[0.0, 2, 4], [np.nan, 3, 5]])), [2, 4])


def test_bootstrap_agrees_with_all_resamples():
    scores, levels = np.array([0.0, 1.0, 3.0]), [10, 90]
    exact = np.percentile([np.mean(draw) for draw in itertools.product(scores, repeat=3)], levels)
    found = stratified_bootstrap([scores], np.mean, repetitions=20_000, confidence=0.8, rng=rng())
    k = math.sqrt(3 / 2) * t.ppf(0.9, 2) / norm.ppf(0.9)
    np.testing.assert_allclose([found.low, found.high], np.mean(scores) + k * (exact - np.mean(scores)))


def test_bootstrap_never_mixes_strata():
    matrix = np.array([[1.0, 1, 1], [5.0, 5, 5]])
    assert stratified_bootstrap(matrix, np.mean, rng=rng()) == (3, 3, 3)


def test_constant_scores_have_an_interval_of_no_width():
    assert stratified_bootstrap([np.full(7, 2.5)], rng=rng()) == (2.5, 2.5, 2.5)


def test_bootstrap_of_a_curve_is_the_bootstrap_of_each_point():
    curves = rng(1).normal(size=(6, 4))
    together = stratified_bootstrap([curves], rng=rng(2))
    for point in range(4):
        alone = stratified_bootstrap([curves[:, point]], rng=rng(2))
        np.testing.assert_allclose([bound[point] for bound in together], alone)


def test_one_generator_seed_one_interval():
    scores = rng(3).normal(size=(2, 9))
    assert stratified_bootstrap(scores, rng=rng(4)) == stratified_bootstrap(scores, rng=rng(4))
    assert stratified_bootstrap(scores, rng=rng(4)) != stratified_bootstrap(scores, rng=rng(5))


def test_fewer_than_three_seeds_have_no_interval():
    for few in ([4.0], [3.0, 5.0]):
        found = (
            stratified_bootstrap([np.array(few)], rng=rng()),
            stratified_bootstrap([np.array(few), np.ones(9)], np.median, rng=rng()),
            ratio([np.full(9, 4.0)], [np.array(few)], rng=rng()),
            difference(np.full(9, 5.0), np.array(few)),
        )
        assert [one.value for one in found] == [4, 1, 1, 1]
        assert np.isnan([bound for one in found for bound in one[1:]]).all()


def plain(strata: list[np.ndarray], repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of the interquartile mean, without any scaling."""
    own = rng(7).spawn(len(strata))
    drawn = [row[one.integers(len(row), size=(repetitions, len(row)))] for row, one in zip(strata, own)]
    low, high = np.percentile(iqm(np.concatenate(drawn, axis=1), axis=1), [2.5, 97.5], axis=0)
    return low, high


@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_an_interval_of_95_percent_holds_the_truth_about_that_often(seeds, tasks):
    """Each column of the strata is a study of its own; the true interquartile mean is 0."""
    strata = list(rng(seeds).normal(size=(tasks, seeds, 600)))
    found = stratified_bootstrap(strata, repetitions=400, rng=rng(7))
    assert 0.90 < np.mean((found.low <= 0) & (found.high >= 0)) < 0.985
    low, high = plain(strata, 400)
    assert np.mean((low <= 0) & (high >= 0)) < (0.85 if (seeds, tasks) == (3, 1) else 0.95)
    k = widening(strata)
    np.testing.assert_allclose(found.low, found.value - k * (found.value - low))
    np.testing.assert_allclose(found.high, found.value + k * (high - found.value))


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_of_a_ratio_holds_the_truth_about_that_often(seeds):
    samples = rng(seeds).normal(size=(400, 2, 1, seeds)) + np.array([15.0, 10.0])[:, None, None]
    found = [ratio(x, y, repetitions=300, rng=rng(7)) for x, y in samples]
    assert 0.90 < np.mean([one.low <= 1.5 <= one.high for one in found]) < 0.985


@pytest.mark.parametrize(
    ("seeds", "tasks", "k"),
    [
        (3, 1, 2.69),
        (3, 5, 1.39),
        (3, 24, 1.26),
        (5, 1, 1.58),
        (5, 5, 1.19),
        (5, 24, 1.13),
        (10, 1, 1.22),
        (10, 5, 1.08),
    ],
)
def test_equal_environments_widen_by_the_table(seeds, tasks, k):
    same = [np.arange(float(seeds)) + 100 * task for task in range(tasks)]
    assert widening(same) == pytest.approx(k, abs=0.005)
    assert widening([100 * row for row in same]) == pytest.approx(widening(same))


def test_unequal_strata_widen_between_the_ones_and_the_others():
    """Welch and Satterthwaite by hand: v = 1 / 3 and 4 / 9, their squares over 2 and 8."""
    strata = [np.array([1.0, 2, 3]), 2 * np.array([-1.0, -1, -1, -1, 0, 1, 1, 1, 1])]
    freedom = (1 / 3 + 4 / 9) ** 2 / (1 / 18 + 16 / 81 / 8)
    share = (1 / 3 + 4 / 9) / (1 / 3 * 2 / 3 + 4 / 9 * 8 / 9)
    assert widening(strata) == pytest.approx(math.sqrt(share) * t.ppf(0.975, freedom) / norm.ppf(0.975))
    assert widening([strata[0], np.ones(50)]) == pytest.approx(
        widening(strata[:1])
    )  # what has no spread counts nothing


@pytest.mark.parametrize(
    ("freedom", "bound"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1e6, 1.960)]
)
def test_quantiles_of_student_are_those_of_the_tables(freedom, bound):
    assert student_t(freedom) == pytest.approx(bound, abs=5e-4)


@given(arrays(float, st.integers(1, 5), elements=st.floats(1, 2000)), st.floats(0.5, 0.995))
def test_quantiles_of_student_are_those_of_scipy(freedom, confidence):
    np.testing.assert_allclose(student_t(freedom, confidence), t.ppf((1 + confidence) / 2, freedom), rtol=1e-8)


def test_ratio_of_constants():
    assert ratio([np.full(3, 3.0)], [np.full(5, 2.0)], rng=rng()) == (1.5, 1.5, 1.5)


def test_ratio_weighs_environments_by_their_own_reference():
    scores, reference = [np.full(4, 2.0), np.full(4, 2000.0)], [np.full(4, 1.0), np.full(4, 1000.0)]
    assert ratio(scores, reference, rng=rng()) == (2, 2, 2)


def test_numerator_and_denominator_are_drawn_apart():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = ratio([scores], [scores], rng=rng())
    assert found.value == 1 and found.low < 0.9 and found.high > 1.1


@pytest.mark.parametrize("reference", [[-3.0, -2.0, -1.0], [0.0, 0.0], [-9.0, 5.0, 6.0, 7.0]])
def test_no_ratio_to_a_reference_that_may_not_be_positive(reference):
    assert np.isnan(ratio([np.ones(3)], [np.array(reference)], rng=rng())).all()


def test_difference_of_constants():
    assert difference(np.full(3, -1.0), np.full(4, -3.0)) == (2, 2, 2)


def test_the_interval_of_a_difference_is_welchs_by_hand():
    """Means 5 and 2, variances 4 and 1 of 4 and 3 seeds: v = 1 and 1/3, nu = (4/3)^2 / (1/3 + 1/18) = 32/7."""
    x, y = np.array([5 - math.sqrt(6), 5, 5, 5 + math.sqrt(6)]), np.array([1.0, 2, 3])
    found, reach = difference(x, y), t.ppf(0.975, 32 / 7) * math.sqrt(4 / 3)
    assert found == (pytest.approx(3), pytest.approx(3 - reach), pytest.approx(3 + reach))


@given(*[arrays(float, st.integers(3, 9), elements=st.floats(-100, 100), unique=True)] * 2)
def test_the_interval_of_a_difference_is_that_of_scipy(x, y):
    bounds = ttest_ind(x, y, equal_var=False).confidence_interval()
    np.testing.assert_allclose(difference(x, y)[1:], bounds, rtol=1e-7, atol=1e-9)


def test_disjoint_samples_improve_for_sure_and_equal_ones_half_the_time():
    low, high = np.array([1.0, 2, 3, 4, 5]), np.array([6.0, 7, 8, 9, 10])
    assert probability_of_improvement([high], [low]).share[:2] == (1, pytest.approx(0.6427028, abs=1e-6))
    assert probability_of_improvement([low], [high]).share[::2] == (0, pytest.approx(0.3572972, abs=1e-6))
    same = probability_of_improvement([np.ones(5)], [np.ones(7)]).share
    assert same.value == 0.5 and same.low + same.high == pytest.approx(1) and 0.1 < same.low < 0.3


def test_few_seeds_have_pairs_and_no_interval():
    found = probability_of_improvement([np.array([1.0, 2, 3, 4])], [np.array([0.0, 1, 2, 3, 4])])
    assert found.pairs == ((4, 5),) and found.wins == 12 and found.share.value == 0.6  # of 20, ties counting half
    assert np.isnan(found.share.low) and np.isnan(found.share.high)
    for seeds, tasks, has_interval in ((3, 5, True), (3, 4, False), (2, 9, False)):
        many = probability_of_improvement(np.ones((tasks, seeds)), np.ones((tasks, seeds))).share
        assert np.isfinite(many.low) == np.isfinite(many.high) == has_interval


@pytest.mark.parametrize(("share", "m", "n"), [(1.0, 5, 5), (0.8, 5, 5), (0.65, 8, 12), (0.0, 20, 6)])
def test_newcombes_interval_solves_its_quartic(share, m, n):
    """(share - p)² mn (2-p)(1+p) = z² p(1-p) [(2-p)(1+p) + N(1-p)(1+p) + N p(2-p)] with N = (m+n)/2 - 1, by hand."""
    p, z, extra = np.polynomial.Polynomial([0, 1]), 1.959963984540054, (m + n) / 2 - 1
    inner = (2 - p) * (1 + p) + extra * (1 - p) * (1 + p) + extra * p * (2 - p)
    roots = ((share - p) ** 2 * m * n * (2 - p) * (1 + p) - z * z * p * (1 - p) * inner).roots()
    inside = sorted({round(float(root.real), 9) for root in roots if abs(root.imag) < 1e-9 and 0 <= root.real <= 1})
    assert mann_whitney_interval(share, m, n) == (pytest.approx(inside[0]), pytest.approx(inside[-1]))


@given(st.integers(5, 30), st.integers(5, 30), st.floats(0, 1))
def test_newcombes_interval_is_symmetric_and_has_a_width(m, n, share):
    low, high = mann_whitney_interval(share, m, n)
    assert 0 <= low <= share <= high <= 1 and high - low > 0.05
    assert mann_whitney_interval(1 - share, n, m) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_newcombes_interval_holds_the_truth_about_as_often_as_it_says():
    shift = 1.0  # of one normal distribution: the true probability is that of a normal below shift / sqrt(2)
    truth = norm.cdf(shift / np.sqrt(2))
    samples = rng(1).normal(size=(1000, 2, 8)) + np.array([[shift], [0]])
    found = [probability_of_improvement([x], [y]).share for x, y in samples]
    assert 0.92 < np.mean([one.low <= truth <= one.high for one in found]) < 0.98


def test_the_mean_over_environments_has_the_interval_of_zou_and_donner():
    better, mixed = (np.arange(5) + 10.0, np.arange(5.0)), (np.array([1.0, 2, 3, 4, 5]), np.array([1.5, 2.5, 0, 6, 7]))
    one, two = (probability_of_improvement([x], [y]).share for x, y in (better, mixed))
    both = probability_of_improvement([better[0], mixed[0]], [better[1], mixed[1]])
    assert both.share.value == (one.value + two.value) / 2 and both.pairs == ((5, 5), (5, 5))
    assert both.share.low == pytest.approx(both.share.value - np.hypot(one.value - one.low, two.value - two.low) / 2)
    assert both.share.high == pytest.approx(both.share.value + np.hypot(one.high - one.value, two.high - two.value) / 2)


@given(arrays(float, 5, elements=st.integers(-3, 3)), arrays(float, 4, elements=st.integers(-3, 3)))
def test_improvement_counts_pairs(x, y):
    wins = sum((a > b) + (a == b) / 2 for a in x for b in y)
    found = probability_of_improvement([x], [y])
    assert found.share.value == pytest.approx(wins / 20) and found.wins == pytest.approx(wins)


def test_a_bootstrap_in_blocks_is_the_same(monkeypatch):
    scores = rng(1).normal(size=(9, 7))
    whole = stratified_bootstrap([scores], rng=rng())
    monkeypatch.setattr("sharedq.reports.statistics.BLOCK", 1000)
    np.testing.assert_array_equal(stratified_bootstrap([scores], rng=rng()), whole)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_wins_are_counted_over_all_pairs(x, y):
    value = probability_of_improvement([np.array(x)], [np.array(y)]).share.value
    assert value == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in itertools.product(x, y)]))
