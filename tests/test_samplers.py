"""Samplers by priorities and by surprise, against slow loops over whole episodes and against the written formulas.

One run of a sampler is compiled for each of its settings. It adds steps to a small ring that wraps several times, and
learns from batches whose TD errors depend on the transition and the time. A slow loop then follows the same draws.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sharedq.samplers import (
    Annealed,
    Ensemble,
    Index,
    Prioritized,
    Reaper,
    ReaperPlus,
    SamplerSpec,
    Surprise,
    block_sums,
)
from sharedq.samplers.priorities import MIN_RELIABILITY
from sharedq.samplers.reliability import BATCH_WEIGHT, PRIOR_VISITS, VISIT_WEIGHT, shares
from sharedq.samplers.surprise import surprise
from sharedq.transitions import Batch, Step, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

ROWS, ENVIRONMENTS, BATCH, TIMES, FIRST, ESTIMATES = 11, 3, 8, 70, 6, 2
PLACES = ROWS * ENVIRONMENTS
RUN = TIMES * ENVIRONMENTS  # environment steps
GOES_ON, TERMINATED, TRUNCATED = 0, 1, 2
KEY = jax.random.key(17)
RNG = np.random.default_rng(17)
ENDS = RNG.choice(3, (TIMES, ENVIRONMENTS), p=[0.8, 0.1, 0.1])
ENDS[20:45, 1] = GOES_ON  # an episode that is longer than the ring
ERRORS = (RNG.normal(size=(TIMES, ESTIMATES, TIMES, ENVIRONMENTS)) * RNG.gamma(0.5, 4, (TIMES, ENVIRONMENTS))).astype(
    np.float32
)  # at each time, of every transition


def steps_of(ends: Any) -> Step:
    ends, nothing = jnp.asarray(ends), jnp.zeros(np.shape(ends))
    return Step(nothing, nothing, nothing, ends == TERMINATED, ends == TRUNCATED, nothing)


class Told(NamedTuple):
    """What was drawn at each time [T, ...], and the state and the summary after the update."""

    index: Index
    weights: jax.Array
    metrics: dict
    state: Any
    numbers: dict  # these and the next ones of one sampler only, because they take long to compile
    histograms: dict


@functools.cache
def told(settings: Any, n_step: int = 1) -> Told:
    sampler = settings.build(SamplerSpec(ROWS, ENVIRONMENTS, n_step, BATCH, RUN))

    def add(state, time):
        return sampler.added(state, time, steps_of(jnp.array(ENDS)[time])), None

    def once(state, time):
        state, written = add(state, time)[0], time + 1
        index, weights, metrics = sampler.draw(state, written, written, jax.random.fold_in(KEY, time))
        errors = jnp.array(ERRORS)[time][:, index.time, index.environment]
        state = sampler.updated(state, written, index, errors, written)
        summary = sampler.summarise(state, written) if settings == SHARP else ({}, {})
        return state, Told(index, weights, metrics, state, *summary)

    @jax.jit
    def run():
        start, _ = jax.lax.scan(add, sampler.init(), jnp.arange(FIRST))
        return jax.lax.scan(once, start, jnp.arange(FIRST, TIMES))[1]

    return jax.tree.map(np.asarray, run())


def moved(settings: Any, name: str, written: int) -> float:
    """An exponent when each environment has written so many steps."""
    if hasattr(settings, name):
        return getattr(settings, name)
    start, end = getattr(settings, f"{name}_start", 0), getattr(settings, f"{name}_end", 0)
    return start + (end - start) * min(written * ENVIRONMENTS / (settings.anneal_steps or RUN), 1)


class Slow(NamedTuple):
    """What a slow loop knows of the stored transitions after the update at a time."""

    told: Told
    written: int
    before: dict  # TD errors of all steps when the batch was drawn, by time and environment
    td: dict  # the same after the update
    since: dict  # the update that gave them, when the batch was drawn
    first: dict  # the largest TD error when a transition could first be drawn
    drawn: list  # of (time, environment), one for each of the batch
    errors: np.ndarray  # [E, B]

    def stored(self) -> list:
        return [(t, e) for e in range(ENVIRONMENTS) for t in range(max(self.written - ROWS, 0), self.written)]


def followed(settings: Any, n_step: int = 1) -> Iterator[Slow]:
    run, td, since, first, largest = told(settings, n_step), {}, {}, {}, 1.0
    for time in range(TIMES):
        for e in range(ENVIRONMENTS):
            td[time, e], since[time, e] = largest, 0
            if time >= n_step - 1:
                td[time - n_step + 1, e] = first[time - n_step + 1, e] = largest
        if time < FIRST:
            continue
        now = jax.tree.map(lambda x, t=time: x[t - FIRST], run)
        drawn = list(zip(now.index.time.tolist(), now.index.environment.tolist()))
        errors = np.array([ERRORS[time][:, t, e] for t, e in drawn], np.float64).T
        before, was = dict(td), dict(since)
        for (t, e), error in zip(drawn, np.abs(errors).mean(axis=0)):
            td[t, e], since[t, e] = error, time + 1
            largest = max(largest, error)
        yield Slow(now, time + 1, before, dict(td), was, first, drawn, errors)


def place(t: int, e: int) -> int:
    return e * ROWS + t % ROWS


def priorities_of(state: Any) -> np.ndarray:
    return np.asarray(state.sums[0]).reshape(-1)[:PLACES]


def priority(settings: Any, written: int, td: float, reliability: float) -> float:
    power = (td + settings.td_offset) ** moved(settings, "alpha", written)
    return power * max(reliability, MIN_RELIABILITY) ** moved(settings, "omega", written)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other, tolerance=2e-4):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=1e-7)


def filled(sampler, written: int, ends: Any = None):
    """The state after so many steps of every environment."""
    steps = np.zeros((written, ENVIRONMENTS), int) if ends is None else ends
    add = jax.jit(sampler.added)
    state = sampler.init()
    for time in range(written):
        state = add(state, jnp.int32(time), steps_of(steps[time]))
    return state


def everything(written: int, n_step: int = 1) -> Index:
    """All transitions that can be drawn, each once."""
    times = jnp.arange(max(written - ROWS, 0), written - n_step + 1)
    return Index(jnp.tile(times, ENVIRONMENTS), jnp.repeat(jnp.arange(ENVIRONMENTS), len(times)))


# Prioritised replay

SHARP = Prioritized(alpha=0.7, td_offset=0.1, uniform_share=0.05, beta_start=0.3, beta_end=0.9, anneal_steps=150)


@pytest.mark.parametrize("n_step", [1, 3])
def test_priorities_and_weights_follow_the_formula(n_step):
    """A transition has the priority of its last TD error, or of the largest one when it could first be drawn."""
    before, seen = None, set()
    for slow in followed(SHARP, n_step):
        can = [(t, e) for t, e in slow.stored() if t <= slow.written - n_step]
        wanted = np.zeros(PLACES)
        for t, e in can:
            wanted[place(t, e)] = priority(SHARP, slow.written, slow.td[t, e], 1)
        close(priorities_of(slow.told.state), wanted)

        drawn_by = np.array([priority(SHARP, slow.written, slow.before[one], 1) for one in can])
        p = dict(zip(can, 0.95 * drawn_by / drawn_by.sum() + 0.05 / len(can)))
        assert set(slow.drawn) <= set(can)
        weights = np.array([len(can) * p[one] for one in slow.drawn]) ** -moved(SHARP, "beta", slow.written)
        close(slow.told.weights, weights / weights.max())
        before, seen = slow, seen | set(slow.drawn)
    assert before is not None
    assert before.written * ENVIRONMENTS > 150  # so that the end of the exponent was seen
    assert len({e for _, e in seen}) == ENVIRONMENTS


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_log_tells_what_was_drawn_and_what_lies_in_the_replay(n_step):
    for slow in followed(SHARP, n_step):
        can = [(t, e) for t, e in slow.stored() if t <= slow.written - n_step]
        metrics, since = slow.told.metrics, np.array([slow.since[one] for one in slow.drawn])
        close(metrics["last_td_error"], np.mean([slow.before[one] for one in slow.drawn]))
        close(metrics["weight"], slow.told.weights.mean())
        close(metrics["age"], ENVIRONMENTS * np.mean([slow.written - 1 - t for t, _ in slow.drawn]))
        close(metrics["first_priority"], (since == 0).mean())
        close(metrics["stale"], ((since > 0) & (slow.written - since > len(can) / BATCH)).mean())

        priorities = priorities_of(slow.told.state)[[place(t, e) for t, e in can]]
        p = 0.95 * priorities / priorities.sum() + 0.05 / len(can)
        close(slow.told.numbers["entropy"], scipy.stats.entropy(p) / np.log(len(can)))
        close(slow.told.numbers["effective_size"], 1 / (len(can) * (p**2).sum()))
        edges = SHARP.build(SamplerSpec(ROWS, ENVIRONMENTS, n_step, BATCH)).histograms
        for name, x in {"td_error": [slow.td[one] for one in can], "probability": len(can) * p}.items():
            counts, _ = np.histogram(np.clip(x, edges[name][0], edges[name][-1]), edges[name])
            assert slow.told.histograms[name].sum() == len(can)
            assert np.abs(slow.told.histograms[name] - counts).sum() <= 2  # one may lie at an edge


def test_alpha_0_draws_all_equally_often_and_weighs_them_by_exactly_1():
    setup = SamplerSpec(ROWS, ENVIRONMENTS, 1, BATCH, RUN)
    sampler = Prioritized(alpha=0.0, uniform_share=0.0).build(setup)
    state = filled(sampler, 2 * ROWS + 3)
    index = everything(2 * ROWS + 3)
    state = sampler.updated(state, 2 * ROWS + 3, index, jax.random.normal(KEY, (2, PLACES)) * 100, 1)
    drawn, weights = draws(sampler, state, 2 * ROWS + 3, 2_000)
    assert (weights == 1).all()
    same(priorities_of(state), np.ones(PLACES))
    assert fits(drawn, np.ones(PLACES)) > 0.01


def draws(sampler, state, written: int, batches: int):
    """The places that so many batches find, and their weights."""
    draw = jax.jit(jax.vmap(lambda key: sampler.draw(state, jnp.int32(written), jnp.int32(1), key)[:2]))
    index, weights = draw(jax.random.split(KEY, batches))
    assert (index.time >= max(written - ROWS, 0)).all()
    assert (index.time < written).all()
    return np.asarray(index.environment * ROWS + index.time % ROWS), np.asarray(weights)


def fits(places: np.ndarray, share: np.ndarray) -> float:
    """The probability that independent draws fit the shares worse. Stratified draws fit them better."""
    count, expected = np.bincount(places.ravel(), minlength=len(share)), places.size * share / share.sum()
    return scipy.stats.chi2.sf(((count - expected) ** 2 / expected).sum(), len(share) - 1)


@pytest.mark.parametrize("uniform_share", [0.0, 0.05, 1.0])
def test_transitions_are_drawn_as_often_as_their_probabilities_say(uniform_share):
    """Some priorities are a millionth of the largest: the uniform share lets them be drawn all the same."""
    sampler = Prioritized(alpha=1.0, uniform_share=uniform_share).build(SamplerSpec(ROWS, ENVIRONMENTS, 1, BATCH, RUN))
    written = 2 * ROWS + 3
    errors = np.random.default_rng(4).gamma(1, size=PLACES) + 0.2
    errors[::7] = 1e-6 * errors.max()
    state = sampler.updated(filled(sampler, written), written, everything(written), jnp.array([errors], jnp.float32), 1)
    p = priorities_of(state).astype(float)
    p = (1 - uniform_share) * p / p.sum() + uniform_share / PLACES
    places, weights = draws(sampler, state, written, 20_000)
    common = p > 1e-5
    assert fits(np.searchsorted(np.flatnonzero(common), places[common[places]]), p[common]) > 0.01
    assert (np.bincount(places.ravel(), minlength=PLACES)[~common] <= 10).all()
    assert common.all() == (uniform_share > 0)
    weighed = (PLACES * p[places[0]]) ** -moved(Prioritized(), "beta", written)
    close(weights[0], weighed / weighed.max())


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("uniform_share", [0.0, 1.0])
def test_only_complete_transitions_are_drawn_and_all_of_them(n_step, uniform_share):
    sampler = Prioritized(uniform_share=uniform_share).build(SamplerSpec(ROWS, ENVIRONMENTS, n_step, BATCH, RUN))
    add = jax.jit(sampler.added)
    draw = jax.jit(jax.vmap(lambda state, written, key: sampler.draw(state, written, 1, key)[0], (None, None, 0)))
    state, keys = sampler.init(), jax.random.split(KEY, 100)
    for time in range(2 * ROWS + 3):
        state, written = add(state, jnp.int32(time), steps_of(np.zeros(ENVIRONMENTS))), time + 1
        if written < n_step:
            assert block_sums.total(state.sums) == 0
            continue
        index = draw(state, jnp.int32(written), keys)
        found = set(zip(index.time.ravel().tolist(), index.environment.ravel().tolist()))
        assert found == set(zip(*(x.tolist() for x in everything(written, n_step))))


def test_the_first_priority_is_that_of_the_largest_td_error_so_far():
    sampler = Prioritized(alpha=1.0, td_offset=0.5).build(SamplerSpec(ROWS, ENVIRONMENTS, 1, 2, RUN))
    add, state, largest = jax.jit(sampler.added), sampler.init(), [1.0, 1.0, 7.0, 7.0]  # 1 before the first update
    for time, error in enumerate([0.25, 7.0, 0.5, 2.0]):
        state = add(state, jnp.int32(time), steps_of(np.zeros(ENVIRONMENTS)))
        new = [place(time, e) for e in range(ENVIRONMENTS)]
        close(priorities_of(state)[new], np.full(ENVIRONMENTS, largest[time] + 0.5))
        index = Index(jnp.zeros(2, jnp.int32), jnp.array([0, 2]))  # one that is not the newest
        state = sampler.updated(state, time + 1, index, jnp.array([[error, -error], [-error, error]]), time + 1)
        close(priorities_of(state)[[0, 2 * ROWS]], [error + 0.5] * 2)  # the mean of absolute values


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (Prioritized(alpha=2.0, td_offset=1e-30), 0.0),
        (Prioritized(alpha=2.0, td_offset=1e20), 0.0),
        (Prioritized(alpha=2.0), 1e25),
        (Reaper(alpha=2.0, omega=10.0, refresh_period=1_000), 0.0),
    ],
    ids=["too small", "offset too large", "error too large", "unreliable"],
)
def test_priorities_that_32_bits_cannot_hold_are_bounded(settings, error):
    """Otherwise a sum would be zero or infinite, and the weights would be no numbers."""
    sampler = settings.build(SamplerSpec(ROWS, ENVIRONMENTS, 1, BATCH, RUN))
    state, index = filled(sampler, ROWS), everything(ROWS)
    if settings.__class__ is Reaper:
        state = state._replace(reliability=state.reliability._replace(reliability=jnp.zeros(PLACES)))
    state = sampler.updated(state, ROWS, index, jnp.full((1, PLACES), error), 1)
    assert (priorities_of(state) > 0).all()
    assert 0 < block_sums.total(state.sums) < np.inf
    _, weights, _ = sampler.draw(state, ROWS, 1, KEY)
    close(weights, np.ones(BATCH))


BY_PRIORITY = [
    Prioritized(),
    Reaper(refresh_period=1),
    Annealed(),
    Annealed(reliability="estimates", favours="unreliable"),
    Ensemble(),
]


@pytest.mark.parametrize(
    ("settings", "n_step"), [*((one, 1) for one in BY_PRIORITY), (BY_PRIORITY[1], 3)], ids=lambda x: type(x).__name__
)
def test_a_transition_that_was_overwritten_since_it_was_drawn_is_not_credited(settings, n_step):
    """Its place belongs to a newer transition, which keeps its priority, its TD error and what is known of it."""
    sampler = settings.build(SamplerSpec(ROWS, ENVIRONMENTS, n_step, BATCH, RUN))
    update = jax.jit(sampler.updated)
    written = 3 * ROWS + 4
    index = everything(written, n_step)
    size = len(index.time)
    state = update(filled(sampler, written), written, index, jax.random.normal(KEY, (2, size)), 2)
    oldest = written - ROWS
    late = Index(jnp.array([oldest - 1, oldest - 2, oldest - ROWS, 0]), jnp.array([0, 1, 2, 0]))
    after = update(state, written, late, jnp.full((2, 4), 50.0), 3)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        if one.shape == (PLACES,):  # TD errors, when they were given, and what reliability keeps of each place
            np.testing.assert_array_equal(one, other)
    if settings.__class__ is Prioritized:
        same(state.sums, after.sums)
    kept = Index(late.time.at[0].set(oldest), late.environment)  # the oldest one that is stored is credited
    credited = update(state, written, kept, jnp.full((2, 4), 50.0), 3)
    changed = np.flatnonzero(np.asarray(credited.td) != np.asarray(state.td))
    assert changed.tolist() == [place(oldest, 0)]


# ReaPER


def slow_reliability(slow: Slow, truncation: str) -> np.ndarray:
    """The share of its episode's TD error that does not lie after a step, of all stored steps of each episode."""
    episodes = []
    for e in range(ENVIRONMENTS):
        steps = [(t, e) for t, one in slow.stored() if one == e]
        cuts = [i + 1 for i, one in enumerate(steps) if ENDS[one] != GOES_ON]
        episodes += [part for part in map(list, np.split(np.array(steps), cuts)) if part]

    def total(episode) -> float:
        errors = [slow.td[tuple(one)] for one in episode]
        more = ENDS[tuple(episode[-1])] == TRUNCATED and truncation == "one_more_step"
        return sum(errors) + more * np.mean(errors)

    finished = [one for one in episodes if ENDS[tuple(one[-1])] != GOES_ON]
    largest = max(map(total, finished), default=0.0)
    found = np.full(PLACES, np.nan)
    for episode in episodes:
        whole = total(episode) if ENDS[tuple(episode[-1])] != GOES_ON else largest
        for i, (t, e) in enumerate(episode):
            so_far = sum(slow.td[tuple(one)] for one in episode[: i + 1])
            found[place(t, e)] = min(so_far / whole, 1) if whole > 0 else 1
    return found


@pytest.mark.parametrize(
    ("kind", "truncation", "n_step"), [(Reaper, "end", 1), (Reaper, "one_more_step", 3), (ReaperPlus, "end", 1)]
)
def test_reliability_and_priorities_are_those_of_a_slow_loop_over_episodes(kind, truncation, n_step):
    settings = kind(truncation=truncation, refresh_period=1, **({"anneal_steps": 150} if kind is ReaperPlus else {}))
    kinds = set()
    for slow in followed(settings, n_step):
        wanted = slow_reliability(slow, truncation)
        known = ~np.isnan(wanted)
        np.testing.assert_allclose(slow.told.state.reliability.reliability[known], wanted[known], atol=2e-5)
        numbers = np.zeros(PLACES)
        for t, e in slow.stored():
            if t <= slow.written - n_step:
                at = place(t, e)
                numbers[at] = priority(settings, slow.written, slow.td[t, e], wanted[at])
                kinds |= {(ENDS[t, e], bool(wanted[at] > 1 - 1e-9))}
        np.testing.assert_allclose(priorities_of(slow.told.state), numbers, rtol=3e-4, atol=1e-6)
    ends_at_one = {True} if truncation == "end" else {False}
    assert {one for end, one in kinds if end == TERMINATED} == {True}  # the last step of an episode is reliable
    assert ends_at_one <= {one for end, one in kinds if end == TRUNCATED}
    assert {one for end, one in kinds if end == GOES_ON} >= {False}


@pytest.mark.parametrize(
    ("settings", "n_step"),
    [
        (Reaper(omega=0.0, refresh_period=1_000), 3),
        (ReaperPlus(omega_start=0.0, omega_end=0.0, refresh_period=1_000), 1),
        (Annealed(alpha_start=0.4, alpha_end=0.4, omega_end=0.0, refresh_period=1_000), 1),
    ],
    ids=["reaper of 3 steps", "reaper_plus", "annealed"],
)
def test_omega_0_is_prioritised_replay_to_the_bit(settings, n_step):
    """The same draws with the same keys, and so the same priorities and weights all the way."""
    plain, found = told(Prioritized(alpha=0.4), n_step), told(settings, n_step)
    same(found.index, plain.index)
    same(found.weights, plain.weights)
    same((found.state.sums, found.state.td), (plain.state.sums, plain.state.td))


@pytest.mark.parametrize("n_step", [1, 3])
def test_omega_0_is_prioritised_replay_also_where_priorities_are_computed_anew(n_step):
    """Only the order of summing may differ then."""
    plain, found = told(Prioritized(alpha=0.4), n_step), told(Reaper(omega=0.0, refresh_period=3), n_step)
    same((found.index, found.weights, found.state.td), (plain.index, plain.weights, plain.state.td))
    for one, other in zip(found.state.sums, plain.state.sums, strict=True):
        close(one, other, 1e-6)


def test_reliability_is_known_anew_only_after_every_period():
    """In between, a stored step has reliability 1, and nothing else moves."""
    found = told(Reaper(refresh_period=9)).state.reliability.reliability
    for time in range(FIRST + 1, TIMES):
        before, after = found[time - FIRST - 1], found[time - FIRST]
        new = [place(time, e) for e in range(ENVIRONMENTS)]
        if (time + 1) % 9:
            assert (after[new] == 1).all()
            np.testing.assert_array_equal(np.delete(after, new), np.delete(before, new))
        else:
            assert (after != before).any()


def slow_shares(td: np.ndarray, ended: np.ndarray, truncation: str) -> np.ndarray:
    episodes, totals = [], []
    for e, row in enumerate(ended):
        for part in np.split(np.arange(row.size), np.flatnonzero(row) + 1):
            if part.size:
                more = td[e, part].mean() if row[part[-1]] == TRUNCATED and truncation == "one_more_step" else 0
                episodes.append((e, part, row[part[-1]] > 0, td[e, part].sum() + more))
    totals = [total for _, _, finished, total in episodes if finished]
    found = np.ones(td.shape)
    for e, part, finished, total in episodes:
        total = total if finished else max(totals, default=0)
        if total > 0:
            found[e, part] = np.minimum(np.cumsum(td[e, part]) / total, 1)
    return found


@pytest.mark.parametrize("truncation", ["end", "one_more_step"])
@examples(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 1e-3, 1.0, 5.0, 1e4]), st.sampled_from([0, 0, 0, 1, 2])),
        min_size=2 * 13,
        max_size=2 * 13,
    )
)
def test_shares_of_any_episodes_equal_a_slow_loop(truncation, steps):
    td, ended = np.array(steps).T.reshape(2, 2, 13)
    found = np.asarray(compiled_shares(td.astype(np.float32), ended.astype(np.int8), truncation))
    np.testing.assert_allclose(found, slow_shares(td, ended, truncation), atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


compiled_shares = jax.jit(shares, static_argnames="truncation")


def test_with_constant_errors_reliability_grows_in_equal_steps_to_1():
    ended = np.zeros((1, 12), np.int8)
    ended[0, [3, 8]] = TERMINATED, TRUNCATED
    td = np.full((1, 12), 0.3, np.float32)
    at_end = np.array([1, 2, 3, 4]) / 4, np.arange(1, 6) / 5, np.arange(1, 4) / 5  # the last one goes on: of 5 steps
    np.testing.assert_allclose(compiled_shares(td, ended, "end")[0], np.concatenate(at_end), rtol=1e-6)
    with_more = np.array([1, 2, 3, 4]) / 4, np.arange(1, 6) / 6, np.arange(1, 4) / 6
    np.testing.assert_allclose(compiled_shares(td, ended, "one_more_step")[0], np.concatenate(with_more), rtol=1e-6)
    assert compiled_shares(td, ended, "end")[0, [3, 8]].tolist() == [1, 1]


# Exponents that move, and the other reliabilities


@pytest.mark.parametrize(
    ("settings", "alpha", "omega"),
    [
        (Prioritized(), (0.6, 0.6), (0.0, 0.0)),
        (Reaper(), (0.4, 0.4), (0.2, 0.2)),
        (ReaperPlus(), (0.4, 0.4), (0.1, 0.7)),
        (Annealed(reliability="episodes"), (0.7, 0.1), (0.0, 0.5)),
    ],
    ids=["prioritized", "reaper", "reaper_plus", "annealed"],
)
def test_exponents_go_in_a_straight_line_from_their_start_to_their_end(settings, alpha, omega):
    """Of a run of 10^6 steps. Two transitions have reliability 1/4, and TD errors of 1 and 16."""
    sampler = settings.build(SamplerSpec(ROWS, 1, 1, 2, 1_000_000))
    update, state = jax.jit(sampler.updated), sampler.init()
    if state.reliability:
        state = state._replace(reliability=state.reliability._replace(reliability=jnp.full(ROWS, 0.25)))
    for written, share in {0: 0, 250_000: 0.25, 1_000_000: 1, 1_500_000: 1}.items():
        index = Index(max(written - ROWS, 0) + jnp.arange(2), jnp.zeros(2, jnp.int32))
        sums = update(state, jnp.int32(written), index, jnp.array([[1.0, 16.0]]), 1).sums
        small, large = block_sums.read(sums, index.time % ROWS)
        np.testing.assert_allclose(large / small, 16 ** (alpha[0] + share * (alpha[1] - alpha[0])), rtol=1e-4)
        np.testing.assert_allclose(small, 0.25 ** (omega[0] + share * (omega[1] - omega[0])), rtol=1e-4)


def weighted_variance(errors: list[float]) -> float:
    """The unbiased variance of the errors, where each visit takes VISIT_WEIGHT of the weight from those before it."""
    ages = np.arange(len(errors))[::-1]
    weights = np.where(ages == len(errors) - 1, 1.0, VISIT_WEIGHT) * (1 - VISIT_WEIGHT) ** ages
    mean = weights @ np.array(errors)
    return weights @ np.square(np.array(errors) - mean) / (1 - weights @ weights)


def slow_deviation(settings: Any, n_step: int = 1) -> Iterator[tuple[Slow, np.ndarray]]:
    """The reliability of all places by the moving deviation over visits, in 64 bits; 1 before the first visit."""
    errors, usual = {}, 0.0
    for slow in followed(settings, n_step):
        for one in [one for one in errors if one not in slow.stored()]:
            del errors[one]
        for one, error in dict(zip(slow.drawn, slow.errors.mean(axis=0))).items():
            errors.setdefault(one, []).append(float(error))
        again = [weighted_variance(errors[one]) for one in dict.fromkeys(slow.drawn) if len(errors[one]) > 1]
        if again:
            now = np.mean(again)
            usual = usual + BATCH_WEIGHT * (now - usual) if usual > 0 else now
        found = np.full(PLACES, np.nan)
        for one in slow.stored():
            visits = errors.get(one, [])
            known = max(len(visits) - 1, 0)
            own = weighted_variance(visits) if known else 0.0
            expected = np.sqrt((known * own + PRIOR_VISITS * usual) / (known + PRIOR_VISITS))
            seen = np.sqrt(usual) / (expected + np.sqrt(usual)) if usual > 0 else 0.5
            found[place(*one)] = seen if visits else 1
        yield slow, found


def test_constant_noise_has_reliability_one_half_however_often_it_was_seen():
    """A deviation of few visits is not taken for a small one."""
    spec = SamplerSpec(512, 1, 1, 512, 1_000_000)
    sampler = Annealed(refresh_period=10**6, omega_end=1.0, omega_start=1.0, alpha_start=0, alpha_end=0).build(spec)
    update, state = jax.jit(sampler.updated), sampler.init()
    index = Index(jnp.arange(512), jnp.zeros(512, jnp.int32))
    for visit in range(1, 12):
        errors = jax.random.normal(jax.random.key(visit), (1, 512))
        state = update(state, jnp.int32(512), index, errors, visit)
        reliability = np.asarray(block_sums.numbers(state.sums, 512))
        if visit > 1:
            assert 0.46 < reliability.mean() < 0.56, visit


def test_deviation_follows_a_slow_recursion_over_visits():
    settings = Annealed(refresh_period=1)
    spread = 0.0
    for slow, wanted in slow_deviation(settings):
        state = slow.told.state
        numbers = np.zeros(PLACES)
        for one in slow.stored():
            numbers[place(*one)] = priority(settings, slow.written, slow.td[one], wanted[place(*one)])
        np.testing.assert_allclose(priorities_of(state), numbers, rtol=1e-3)
        spread = max(spread, np.nanmax(wanted) - np.nanmin(wanted))
    assert spread > 0.3


def test_estimates_are_compared_by_their_standard_deviation():
    settings, usual, known = Ensemble(omega=2.0, refresh_period=1), 0.0, {}
    for slow in followed(settings):
        spread = dict(zip(slow.drawn, slow.errors.std(axis=0)))  # what was drawn twice counts once
        now = np.mean(list(spread.values()))
        usual = usual + BATCH_WEIGHT * (now - usual) if usual > 0 else now
        known |= spread
        numbers = np.zeros(PLACES)
        for one in slow.stored():
            r = usual / (usual + known[one]) if one in known else 1
            numbers[place(*one)] = priority(settings, slow.written, slow.td[one], r)
        np.testing.assert_allclose(priorities_of(slow.told.state), numbers, rtol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [Annealed(omega_start=1.0), Annealed(reliability="estimates", omega_start=1.0), Ensemble(omega=1.0)],
    ids=["deviation", "estimates", "ensemble"],
)
def test_what_nothing_is_known_of_has_full_reliability(settings):
    state = filled(settings.build(SamplerSpec(ROWS, ENVIRONMENTS, 1, BATCH, 1_000_000_000)), 5)
    numbers = priorities_of(state)
    assert np.count_nonzero(numbers) == 5 * ENVIRONMENTS
    close(numbers[numbers > 0], np.ones(5 * ENVIRONMENTS))  # the TD error is 1


@pytest.mark.parametrize(("favours", "first"), [("reliable", "steady"), ("unreliable", "moving")])
def test_favours_says_which_of_two_transitions_is_drawn_more_often(favours, first):
    """One has always the TD error 2, and the other 2 or -2. The third makes the usual deviation lie between."""
    sampler = Annealed(favours=favours, omega_start=1.0, omega_end=1.0).build(SamplerSpec(ROWS, 1, 1, 3, 1_000_000))
    update, state = jax.jit(sampler.updated), sampler.init()
    index = Index(jnp.arange(3), jnp.zeros(3, jnp.int32))
    for visit in range(8):
        sign = (-1) ** visit
        state = update(state, jnp.int32(3), index, jnp.array([[2.0, 2.0 * sign, 2.0 + 0.5 * sign]]), visit + 1)
    steady, moving = block_sums.read(state.sums, jnp.array([0, 1])).tolist()
    assert ("steady" if steady > 1.5 * moving else "moving" if moving > 1.5 * steady else "") == first


# Surprise

FEATURES = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]], np.float32)
REWARDS = np.array([0.5, -2.0, 0.0, 0.02], np.float32)


def weighed(settings: Surprise, written: int, batches: int = 2, rewards: Any = REWARDS, usual: float = 1.0):
    """What a sampler makes of the same batch, again and again, after `written` steps of a run of 1000."""
    setup = SamplerSpec(
        ROWS, 2, 1, 4, 1_000, features=lambda agent, batch: agent * batch.transition.obs, feature_count=2
    )
    sampler = settings.build(setup)
    state = sampler.init()._replace(setpoint=jnp.array([2.0, 0.0]), reward=jnp.float32(usual))
    nothing = jnp.zeros(4)
    transition = Transition(jnp.array(FEATURES), nothing, jnp.array(rewards), nothing, nothing)
    found, weigh = [], jax.jit(sampler.weigh)
    for _ in range(batches):
        state, batch, metrics = weigh(state, jnp.int32(written), jnp.float32(1), Batch(transition, WEIGHTS, ()))
        found.append((state, batch, metrics))
    return found


WEIGHTS = jnp.array([1.0, 0.5, 2.0, 0.0])  # as a storage gives them: 0 for what is not whole
S = np.array([0, np.sqrt(2) / 2, 1, 0.5])  # half the distance from the direction (1, 0)


def test_surprise_is_half_the_distance_between_directions():
    np.testing.assert_allclose(surprise(jnp.array(FEATURES), jnp.array([2.0, 0.0])), S, rtol=1e-6)
    np.testing.assert_allclose(surprise(jnp.array(FEATURES), jnp.zeros(2)), [0.5, 0.5, 0.5, 0], rtol=1e-6)


@pytest.mark.parametrize(("written", "k"), [(0, 1.0), (250, 1 - 0.5**1.2), (500, 0.0), (900, 0.0)])
def test_surprise_weighs_the_loss_or_shapes_the_reward_as_its_formulas_say(written, k):
    (_, plastic, metrics), _ = weighed(Surprise(strength=3.0), written)
    np.testing.assert_allclose(plastic.weights, WEIGHTS * (1 + 3 * k * S), rtol=1e-5)
    np.testing.assert_allclose(metrics["surprise"], S.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["weight"], (1 + 3 * k * S).mean(), rtol=1e-5)
    (_, conservative, _), _ = weighed(Surprise(effect="conservative"), written)
    np.testing.assert_allclose(conservative.weights, WEIGHTS * (1 - np.tanh(S)), rtol=1e-5)
    for unchanged in (plastic, conservative):
        same(unchanged.transition.reward, REWARDS)
    (_, shaped, _), _ = weighed(Surprise(effect="shaping", strength=0.4), written)
    usual = 0.99 + 0.01 * np.abs(REWARDS).mean()
    wanted = np.clip(REWARDS / usual - 0.04 * k * 0.4 * 2 * S, -1, 1)
    np.testing.assert_allclose(shaped.transition.reward, wanted, rtol=1e-5, atol=1e-7)
    same(shaped.weights, WEIGHTS)


def test_the_effect_of_surprise_falls_over_its_own_steps_if_they_are_given():
    (_, batch, _), _ = weighed(Surprise(anneal_steps=400), 100)  # of 2 environments: half of 400
    np.testing.assert_allclose(batch.weights, WEIGHTS * (1 + (1 - 0.5**1.2) * S), rtol=1e-5)


def test_the_setpoint_moves_towards_the_mean_features_after_each_batch():
    setpoint, usual = np.array([2.0, 0.0]), 1.0
    for state, _, metrics in weighed(Surprise(pace=0.25), 10, batches=4):
        np.testing.assert_allclose(metrics["surprise"], surprise(FEATURES, setpoint).mean(), rtol=1e-5)
        setpoint = 0.75 * setpoint + 0.25 * FEATURES.mean(axis=0)
        usual = 0.99 * usual + 0.01 * np.abs(REWARDS).mean()
        np.testing.assert_allclose(state.setpoint, setpoint, rtol=1e-5)
        np.testing.assert_allclose(state.reward, usual, rtol=1e-5)


def test_rewards_that_were_always_zero_stay_zero():
    """The mean of their absolute values falls by a hundredth with each batch, and in 32 bits it becomes zero."""
    for usual in (1.0, 1e-30, 0.0):
        settings = Surprise(effect="shaping", strength=0.0)
        (_, batch, _), _ = weighed(settings, 10, rewards=np.zeros(4, np.float32), usual=usual)
        same(batch.transition.reward, np.zeros(4))
    (_, batch, _), _ = weighed(settings, 10, usual=0.0)  # the first reward at last
    np.testing.assert_allclose(batch.transition.reward, np.clip(REWARDS / (0.01 * np.abs(REWARDS).mean()), -1, 1))
