"""How far the TD error of a stored transition can be trusted: three estimates of its reliability, from 0 to 1.

    of episodes   the share of its episode's TD error that does not lie after it (ReaPER)
    of deviation  how little its TD error has moved from one visit to the next
    of estimates  how little the TD errors of several heads, networks or critics differ

The first needs to know the episodes. It looks at all stored steps at once, every so many updates. The others know what
the last visits of a transition have shown.

Places number the stored transitions: that of time t in environment e is `e * rows + t % rows`.

Shape letters: N environments of a seed, R rows of each, M = N * R places, B batch, E estimates.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.samplers.sampler import SamplerSpec
from sharedq.transitions import Step

UNSEEN = 0.5  # ours: the reliability of a transition that nothing is known about
PRIOR_VISITS = 2.0  # ours: the usual variance counts as so many visits of a transition
VISIT_WEIGHT = 0.3  # ours: the weight of the newest visit in the moving mean and variance
BATCH_WEIGHT = 0.01  # ours: the weight of the newest batch in the moving average of what is usual

Truncation = Literal["end", "one_more_step"]


class Reliability(NamedTuple):
    """The functions get the arrays that `init` makes, for M places."""

    init: Callable[[], Any]
    added: Callable[[Any, jax.Array, Step], Any]  # (arrays, places [N] of the newest steps, the steps)
    updated: Callable[[Any, jax.Array, jax.Array], Any]  # (arrays, places [B], TD errors [E, B])
    at: Callable[[Any, jax.Array], jax.Array]  # (arrays, places) -> the reliability there
    recompute: Callable[[Any, jax.Array, Any], Any]  # (arrays, TD errors [M], written): looks at all places
    of_visits: bool = False  # whether nothing is known of a transition before it is drawn


def unchanged(arrays: Any, *_: Any) -> Any:
    return arrays


# Of episodes


class OfEpisodes(NamedTuple):
    ended: jax.Array  # [M] 0 if the episode goes on after the step, 1 if it terminated, 2 if it was truncated
    reliability: jax.Array  # [M]


def of_episodes(spec: SamplerSpec, truncation: Truncation) -> Reliability:
    """1 - (TD errors of the later steps) / (TD errors of all steps), of those steps of the episode that are stored.

    The total of an episode that goes on is not known yet. The largest total of a stored episode stands in its place,
    so its reliability is underestimated. At a time limit, values would have followed: with `one_more_step` the total
    has one more step, with the mean of the others, and with `end` it is that of any other episode.
    """
    shape = spec.environments, spec.rows
    places = spec.environments * spec.rows

    def init() -> OfEpisodes:
        return OfEpisodes(jnp.zeros(places, jnp.int8), jnp.zeros(places))

    def added(arrays: OfEpisodes, newest: jax.Array, steps: Step) -> OfEpisodes:
        ended = steps.terminated.astype(jnp.int8) + 2 * steps.truncated.astype(jnp.int8)
        return OfEpisodes(arrays.ended.at[newest].set(ended), arrays.reliability.at[newest].set(1.0))

    def updated(arrays: OfEpisodes, places: jax.Array, errors: jax.Array) -> OfEpisodes:
        # It changes nothing, but what is read before a write in place is read from the same memory. In front of the
        # loop in which everything is computed anew, XLA would copy the array at every update.
        same = arrays.reliability.at[places].get(mode="fill", fill_value=1)
        return arrays._replace(reliability=arrays.reliability.at[places].set(same, mode="drop"))

    def at(arrays: OfEpisodes, places: jax.Array) -> jax.Array:
        return arrays.reliability[places]

    def recompute(arrays: OfEpisodes, td: jax.Array, written: Any) -> OfEpisodes:
        begin = spec.first(written) % spec.rows  # where the oldest step lies

        def in_time(x: jax.Array) -> jax.Array:
            return jnp.roll(x.reshape(shape), -begin, axis=1)

        stored = jnp.arange(spec.rows) < jnp.minimum(written, spec.rows)
        ended = jnp.where(stored, in_time(arrays.ended), 0)
        found = shares(jnp.where(stored, in_time(td), 0), ended, truncation)
        return arrays._replace(reliability=jnp.roll(found, begin, axis=1).reshape(-1))

    return Reliability(init, added, updated, at, recompute)


def shares(td: jax.Array, ended: jax.Array, truncation: Truncation) -> jax.Array:
    """The reliability [N, R] of consecutive steps with these TD errors, where `ended` says how episodes end."""
    begins = jnp.pad(ended[:, :-1] > 0, ((0, 0), (1, 0)), constant_values=True)

    def so_far(left: tuple, right: tuple) -> tuple:
        return left[0] | right[0], *(jnp.where(right[0], r, a + r) for a, r in zip(left[1:], right[1:], strict=True))

    _, prefix, length = jax.lax.associative_scan(so_far, (begins, td, jnp.ones_like(td)), axis=1)

    def of_the_end(later: tuple, earlier: tuple) -> tuple:  # a reverse scan combines from the right
        return later[0] | earlier[0], jnp.where(earlier[0], earlier[1], later[1])

    whole = prefix if truncation == "end" else jnp.where(ended == 2, prefix + prefix / length, prefix)
    finished, total = jax.lax.associative_scan(of_the_end, (ended > 0, whole), reverse=True, axis=1)
    largest = jnp.max(jnp.where(ended > 0, whole, 0))
    total = jnp.where(finished, total, largest)
    return jnp.where(total > 0, jnp.clip(prefix / jnp.where(total > 0, total, 1), 0, 1), 1)


# Of deviation


class OfDeviation(NamedTuple):
    mean: jax.Array  # [M] moving average of the TD error
    variance: jax.Array  # [M] its variance in the weights of the moving average
    visits: jax.Array  # [M]
    usual: jax.Array  # the usual variance; 0 before the first one is known


def of_deviation(spec: SamplerSpec) -> Reliability:
    """1 - d / (d + usual): d is the moving deviation of the TD error over visits, and `usual` that of others.

    The variance of a few visits is corrected for their number, and drawn towards the usual one.
    """
    places = spec.environments * spec.rows

    def init() -> OfDeviation:
        return OfDeviation(jnp.zeros(places), jnp.zeros(places), jnp.zeros(places), jnp.float32(0))

    def added(arrays: OfDeviation, newest: jax.Array, steps: Step) -> OfDeviation:
        mean, variance, visits = (x.at[newest].set(0) for x in arrays[:3])
        return OfDeviation(mean, variance, visits, arrays.usual)

    def updated(arrays: OfDeviation, places: jax.Array, errors: jax.Array) -> OfDeviation:
        error = errors.mean(axis=0)
        mean, variance, visits = (x.at[places].get(mode="fill", fill_value=0) for x in arrays[:3])
        away, again = error - mean, visits > 0
        variance = jnp.where(again, (1 - VISIT_WEIGHT) * (variance + VISIT_WEIGHT * jnp.square(away)), 0)
        mean = jnp.where(again, mean + VISIT_WEIGHT * away, error)
        usual = _averaged(arrays.usual, _corrected(variance, visits + 1), again)
        old = zip(arrays[:3], (mean, variance, visits + 1), strict=True)
        mean, variance, visits = (x.at[places].set(new, mode="drop") for x, new in old)
        return OfDeviation(mean, variance, visits, usual)

    def at(arrays: OfDeviation, places: jax.Array) -> jax.Array:
        variance, visits = (x.at[places].get(mode="fill", fill_value=0) for x in (arrays.variance, arrays.visits))
        known = jnp.maximum(visits - 1, 0)
        expected = (known * _corrected(variance, visits) + PRIOR_VISITS * arrays.usual) / (known + PRIOR_VISITS)
        return _compared(jnp.sqrt(expected), jnp.sqrt(arrays.usual))

    return Reliability(init, added, updated, at, unchanged, of_visits=True)


def _corrected(variance: jax.Array, visits: jax.Array) -> jax.Array:
    """The variance without its bias: 1 - (the sum of squared weights of the visits) is how much too small it is."""
    kept = (1 - VISIT_WEIGHT) ** (2 * jnp.maximum(visits - 1, 0))
    squares = kept + VISIT_WEIGHT**2 * (1 - kept) / (1 - (1 - VISIT_WEIGHT) ** 2)
    return jnp.where(visits > 1, variance / jnp.where(visits > 1, 1 - squares, 1), 0)


# Of estimates


class OfEstimates(NamedTuple):
    spread: jax.Array  # [M] the deviation of the TD errors of a transition's last visit; -1 before the first
    usual: jax.Array  # the usual spread; 0 before the first one is known


def of_estimates(spec: SamplerSpec) -> Reliability:
    """1 - d / (d + usual): d is the deviation among the TD errors of the estimates, and `usual` that of others."""
    places = spec.environments * spec.rows

    def init() -> OfEstimates:
        return OfEstimates(jnp.full(places, -1.0), jnp.float32(0))

    def added(arrays: OfEstimates, newest: jax.Array, steps: Step) -> OfEstimates:
        return arrays._replace(spread=arrays.spread.at[newest].set(-1))

    def updated(arrays: OfEstimates, at: jax.Array, errors: jax.Array) -> OfEstimates:
        spread = errors.std(axis=0)
        usual = _averaged(arrays.usual, spread, at < places)
        return OfEstimates(arrays.spread.at[at].set(spread, mode="drop"), usual)

    def at(arrays: OfEstimates, places: jax.Array) -> jax.Array:
        spread = arrays.spread.at[places].get(mode="fill", fill_value=-1)
        return jnp.where(spread < 0, UNSEEN, _compared(spread, arrays.usual))

    return Reliability(init, added, updated, at, unchanged, of_visits=True)


def _averaged(usual: jax.Array, new: jax.Array, known: jax.Array) -> jax.Array:
    """The moving average of what is usual, with those new numbers [B] that are known. The first ones begin it."""
    count = jnp.sum(known)
    now = jnp.sum(jnp.where(known, new, 0)) / jnp.maximum(count, 1)
    moved = jnp.where(usual > 0, usual + BATCH_WEIGHT * (now - usual), now)
    return jnp.where(count > 0, moved, usual)


def _compared(deviation: jax.Array, usual: jax.Array) -> jax.Array:
    """1 where the deviation is zero, and a half where it is the usual one."""
    none = jnp.where(usual > 0, 1, UNSEEN)
    return jnp.where(deviation > 0, usual / jnp.where(deviation > 0, deviation + usual, 1), none)
