"""Tests of runs against a reference: exact enumerations by hand, levels by simulation, and closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from sharedq.reports import comparisons
from sharedq.reports.comparisons import (
    MOST_NEEDED,
    Pair,
    all_arrangements,
    arrangement_count,
    closed_tests,
    compare,
    hedges_g,
    holm,
    seeds_needed,
    smallest_p,
)
from sharedq.reports.profiles import LEVELS, profiles
from sharedq.reports.statistics import CURVE_REPETITIONS, Interval, stratified_bootstrap


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def quick(monkeypatch):
    """Few random permutations: the level of a test does not depend on how many there are."""
    monkeypatch.setattr(comparisons, "PERMUTATIONS", 199)


def statistic(groups: list[list[np.ndarray]]) -> float:
    """Over environments: groups of scores, the reference first. The largest mean difference in standard deviations."""
    found = [[(np.mean(one) - np.mean(rest[0])) / np.std(np.concatenate(rest)) for one in rest[1:]] for rest in groups]
    return float(np.abs(np.mean(found, axis=0)).max())


def every_way(groups: list[np.ndarray]) -> list[list[np.ndarray]]:
    """All ways to hand the scores out again, each as often as any other."""
    scores, cuts = np.concatenate(groups), np.cumsum([len(group) for group in groups])[:-1]
    return [np.split(np.array(order), cuts) for order in itertools.permutations(scores)]


def slow_p(tasks: list[list[np.ndarray]]) -> float:
    sizes = [statistic(list(ways)) for ways in itertools.product(*map(every_way, tasks))]
    return float(np.mean(np.array(sizes) >= statistic(tasks) - 1e-9))


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (1, 2), (4, 4)])
def test_two_runs_have_the_p_of_a_slow_enumeration(sizes):
    reference, scores = (
        rng(sum(sizes)).normal(size=size).round(1) for size in sizes
    )  # rounded, so that some are equal
    found = closed_tests({"a": [scores]}, [reference], rng())["a"]
    assert found == pytest.approx(slow_p([[reference, scores]]))


def test_runs_in_two_environments_have_the_p_of_a_slow_enumeration():
    tasks = [[rng(1).normal(size=2), rng(2).normal(size=2) + 2], [rng(3).normal(size=3), rng(4).normal(size=2)]]
    found = closed_tests({"a": [task[1] for task in tasks]}, [task[0] for task in tasks], rng())["a"]
    assert found == pytest.approx(slow_p(tasks))


def test_the_corrected_p_is_the_largest_of_all_sets_by_a_slow_enumeration():
    reference, a, b = rng(1).normal(size=3), rng(2).normal(size=2) + 2, rng(3).normal(size=2) - 1
    both, alone = slow_p([[reference, a, b]]), {name: slow_p([[reference, one]]) for name, one in (("a", a), ("b", b))}
    found = closed_tests({"a": [a], "b": [b]}, [reference], rng())
    assert found == {name: pytest.approx(max(both, alone[name])) for name in "ab"}


def test_many_arrangements_are_sampled_and_agree_with_scipy():
    x, y = rng(5).normal(size=9) + 0.7, rng(6).normal(size=9)
    exact = permutation_test((x, y), lambda x, y: np.mean(x) - np.mean(y), n_resamples=np.inf).pvalue
    assert arrangement_count((9, 9)) > comparisons.PERMUTATIONS
    assert closed_tests({"a": [x]}, [y], rng())["a"] == pytest.approx(exact, abs=0.01)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_arrangements_are_all_different_and_begin_with_the_datas_own(sizes):
    found = all_arrangements(tuple(sizes))
    assert len(found) == arrangement_count(sizes)
    np.testing.assert_array_equal(found[0], np.arange(sum(sizes)))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(sum(sizes)), (len(found), 1)))
    cuts = np.cumsum(sizes)[:-1]
    assert len({tuple(frozenset(part.tolist()) for part in np.split(row, cuts)) for row in found}) == len(found)


def test_the_unit_of_an_environment_does_not_matter_and_equal_scores_say_nothing():
    scores, reference = rng(1).normal(size=(3, 4)) + 1, rng(2).normal(size=(3, 4))
    units = np.array([[1.0], [1000.0], [0.01]])
    found = closed_tests({"a": scores}, reference, rng())
    assert closed_tests({"a": scores * units + 7}, reference * units + 7, rng()) == found
    assert closed_tests({"a": [np.full(5, 0.1)]}, [np.full(5, 0.1 + 1e-17)], rng()) == {"a": 1}


@pytest.mark.parametrize("tasks", [1, 5])
def test_equal_runs_are_told_apart_as_often_as_the_level_says(quick, tasks):
    samples = rng(7).normal(size=(1000, 2, tasks, 5))
    p = [closed_tests({"a": x}, y, rng(number))["a"] for number, (x, y) in enumerate(samples)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.07


def test_any_of_several_equal_runs_is_told_apart_as_often_as_the_level_says(quick):
    samples = rng(8).normal(size=(600, 4, 1, 5))
    p = [min(closed_tests(dict(zip("abc", x[1:])), x[0], rng(number)).values()) for number, x in enumerate(samples)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.07


def test_equal_runs_keep_the_level_beside_runs_that_differ_and_are_less_spread(quick):
    """Permuting all runs at once would not: the seeds that lie close make every difference look large."""
    draw, found = rng(9), []
    for number in range(400):
        reference, equal = draw.normal(size=(2, 1, 6))
        others = {name: 0.5 + 0.01 * draw.normal(size=(1, 6)) for name in "bcd"}
        found.append(closed_tests({"a": equal, **others}, reference, rng(number))["a"])
    assert np.mean(np.array(found) < 0.05) < 0.07


def test_a_run_that_is_far_off_hides_no_other():
    reference, near = np.array([0.0, 0.1, 0.2, 0.3, 0.4]), np.array([1.0, 1.1, 1.2, 1.3, 1.4])
    found = closed_tests({"near": [near], "far": [near - 1000]}, [reference], rng())
    assert found["near"] == pytest.approx(2 / 252) and found["far"] < 0.01


def test_three_seeds_on_one_environment_separate_nothing_however_many_runs_there_are():
    family = {
        name: [Pair(np.array([100.0, 101, 102]) + number, np.array([1.0, 2, 3]), 9)]
        for number, name in enumerate("abcd")
    }
    relative = dict.fromkeys(family, Interval(50, 40, 60))
    found = compare(family, relative, 1.0, rng())
    assert {one.smallest for one in found.values()} == {0.1} and all(one.p >= 0.1 for one in found.values())
    assert not any(one.separated for one in found.values()) and {one.seeds_needed for one in found.values()} == {4}
    both = compare({"a": family["a"] * 2}, relative, 1.0, rng())["a"]
    assert both.separated and both.p == both.smallest == pytest.approx(2 / 400) and both.seeds_needed is None


def test_separated_takes_the_interval_and_the_test():
    pair = [Pair(np.arange(5.0) + 10, np.arange(5.0), 9)]
    for bounds, separated in (((1.1, 3), True), ((0.2, 0.9), True), ((0.9, 3), False), ((math.nan, math.nan), False)):
        test = compare({"a": pair}, {"a": Interval(2, *bounds)}, 1.0, rng())["a"]
        assert test.separated is separated and test.p == pytest.approx(2 / 252) and test.seeds == (5, 5)
        assert (test.seeds_needed is None) is separated
    equal = [Pair(np.arange(5.0), np.arange(5.0), 9)]
    assert not compare({"a": equal}, {"a": Interval(2, 1.5, 3)}, 1.0, rng())["a"].separated


@pytest.mark.parametrize("spans", [(9, 8), (9, 9, 9, 9, 9, 9, 9, 9)])
def test_runs_over_other_steps_and_many_runs_are_corrected_as_holm_does(spans):
    family = {
        str(number): [Pair(rng(number).normal(size=5) + number / 2, rng(99).normal(size=5), until)]
        for number, until in enumerate(spans)
    }
    alone = {
        label: closed_tests({label: [pair.scores]}, [pair.reference], rng())[label] for label, (pair,) in family.items()
    }
    found = compare(family, dict.fromkeys(family, Interval(2, 1, 3)), 1.0, rng())
    assert {label: test.p for label, test in found.items()} == holm(alone)
    assert found["0"].smallest == pytest.approx(len(spans) * 2 / 252)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.6}) == {
        "a": pytest.approx(0.04),
        "c": pytest.approx(0.09),
        "b": pytest.approx(0.09),  # 2 * 0.04, but not below the one before
        "d": pytest.approx(0.6),
    }
    assert holm({"a": 0.7, "b": 0.6}) == {"b": 1, "a": 1}


@pytest.mark.parametrize(
    ("seeds", "tasks", "smallest"), [(3, 1, 0.1), (4, 1, 2 / 70), (5, 1, 2 / 252), (3, 2, 2 / 400), (10, 1, 1e-4)]
)
def test_the_smallest_p_of_some_seeds(seeds, tasks, smallest):
    assert smallest_p([(seeds, seeds)] * tasks) == pytest.approx(smallest)


def test_the_smallest_p_is_attained():
    for low, high in (([1.0, 2, 3], [4.0, 5, 6]), ([1.0, 2, 3, 4], [7.0, 8]), ([1.0], [2.0])):
        found = closed_tests({"a": [np.array(high)]}, [np.array(low)], rng())["a"]
        assert found == pytest.approx(smallest_p([(len(high), len(low))]))


def test_hedges_g_by_hand():
    """Means 6 and 3, pooled variance (10 + 10) / 8 = 2.5, and the correction 1 - 3 / (8 * 5 - 9)."""
    x, y = np.array([4.0, 5, 6, 7, 8]), np.array([1.0, 2, 3, 4, 5])
    assert hedges_g(x, y) == pytest.approx(3 / math.sqrt(2.5) * (1 - 3 / 31))
    assert hedges_g(y, x) == -hedges_g(x, y)
    assert hedges_g(np.array([3.0]), np.array([1.0, 1.0, 2.0])) == pytest.approx(5 / 3 / math.sqrt(1 / 3) * (1 - 3 / 7))
    assert math.isnan(hedges_g(np.array([3.0]), np.array([1.0])))
    assert hedges_g(np.full(3, 0.1), np.full(3, 0.1)) == 0 and hedges_g(np.full(3, 1.0), np.full(3, 2.0)) == -math.inf


def test_hedges_g_is_nearly_unbiased_and_cohens_d_is_not():
    samples = rng(3).normal(size=(20_000, 2, 3)) + np.array([[1.0], [0.0]])
    g = np.array([hedges_g(x, y) for x, y in samples])
    assert np.mean(g) == pytest.approx(1, abs=0.02) and np.mean(g) / (1 - 3 / 15) > 1.2


@pytest.mark.parametrize(
    ("effect", "seeds", "tasks", "needed"),
    [
        (1.0, 5, 1, 16),
        (-1.0, 5, 1, 16),
        (1.0, 3, 5, 4),  # 16 / 5
        (0.5, 5, 3, 22),  # 64 / 3
        (4.0, 5, 1, 6),  # one more than there are
        (math.inf, 2, 1, 4),  # with 3 no test can find anything
        (math.inf, 1, 9, 3),  # an interval needs 3
        (0.4, 5, 1, 100),
        (0.39, 5, 1, MOST_NEEDED + 1),
        (0.0, 5, 1, MOST_NEEDED + 1),
        (2.0, 100, 1, MOST_NEEDED + 1),
        (math.nan, 5, 1, None),
    ],
)
def test_the_seeds_that_a_difference_takes(effect, seeds, tasks, needed):
    assert seeds_needed(effect, seeds, tasks) == needed


def test_thousands_of_seeds_are_permuted_less_often(monkeypatch):
    monkeypatch.setattr(comparisons, "MOST_SCORES", 2000)
    x = rng(1).normal(size=(2, 1, 20))
    assert closed_tests({"a": x[0] + 50}, x[1], rng()) == {"a": pytest.approx(1 / 51)}  # 2000 / 40 permutations


def test_a_profile_is_the_share_of_the_scores_above_each_level():
    scores = {
        "a": [rng(1).normal(size=9) + 2, rng(2).normal(size=8), rng(3).normal(size=8)],
        "few": [np.array([2.0, 1])],
    }
    found = profiles(scores, rng())
    assert found["few"].share is None and found["few"].scores.tolist() == [1, 2]
    pooled, (levels, share, ordered) = np.concatenate(scores["a"]), found["a"]
    np.testing.assert_array_equal(ordered, np.sort(pooled))
    np.testing.assert_array_equal(levels, np.linspace(min(0, pooled.min()), max(pooled.max(), 2), LEVELS))
    np.testing.assert_allclose(share.value, [np.mean(pooled > level) for level in levels])
    assert (np.diff(share.value) <= 0).all() and (share.low <= share.value).all() and (share.value <= share.high).all()
    assert share.low.min() >= 0 and share.high.max() <= 1
    middle = LEVELS // 2
    alone = [(row > levels[middle]).astype(float) for row in scores["a"]]
    band = stratified_bootstrap(alone, np.mean, repetitions=CURVE_REPETITIONS, rng=rng())
    assert (share.low[middle], share.high[middle]) == (pytest.approx(band.low), pytest.approx(band.high))


def test_no_scores_have_no_profile():
    assert profiles({}, rng()) == {} and profiles({"a": [np.empty(0)]}, rng()) == {}


def test_few_arrangements_of_very_many_seeds_are_not_all_made(monkeypatch):
    """One seed against 3000 has 3001 arrangements of 3001 scores."""
    monkeypatch.setattr(comparisons, "all_arrangements", None)
    assert closed_tests({"a": [np.array([9.0])]}, [rng().normal(size=3000)], rng())["a"] < 0.01
