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

from sharedq.samplers.sampler import Setup
from sharedq.transitions import Step

UNSEEN = 0.5  # ours: the reliability of a transition that nothing is known about
VISITS = 2.0  # ours: the usual deviation counts as so many visits of a transition
PACE = 0.3  # ours: the weight of the newest visit in the moving mean and deviation
USUAL = 0.01  # ours: the weight of the newest batch in the moving average of the usual deviation

Truncation = Literal["end", "one_more_step"]


class Reliability(NamedTuple):
    """The functions get the arrays that `init` makes, for M places."""

    first: float  # of a transition that was just stored
    init: Callable[[], Any]
    added: Callable[[Any, jax.Array, Step], Any]  # (arrays, places [N] of the newest steps, the steps)
    updated: Callable[[Any, jax.Array, jax.Array], Any]  # (arrays, places [B], TD errors [E, B])
    at: Callable[[Any, jax.Array], jax.Array]  # (arrays, places) -> the reliability there
    anew: Callable[[Any, jax.Array, Any], Any] | None = None  # (arrays, TD errors [M], written): looks at all places


def unchanged(arrays: Any, *_: Any) -> Any:
    return arrays


# Of episodes


class OfEpisodes(NamedTuple):
    ended: jax.Array  # [M] 0 if the episode goes on after the step, 1 if it terminated, 2 if it was truncated
    reliability: jax.Array  # [M]


def of_episodes(setup: Setup, truncation: Truncation) -> Reliability:
    """1 - (TD errors of the later steps) / (TD errors of all steps), of those steps of the episode that are stored.

    The total of an episode that goes on is not known yet. The largest total of a stored episode stands in its place,
    so its reliability is underestimated. At a time limit, values would have followed: with `one_more_step` the total
    has one more step, with the mean of the others, and with `end` it is that of any other episode.
    """
    shape = setup.environments, setup.rows
    places = setup.environments * setup.rows

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

    def anew(arrays: OfEpisodes, td: jax.Array, written: Any) -> OfEpisodes:
        begin = setup.first(written) % setup.rows  # where the oldest step lies

        def in_time(x: jax.Array) -> jax.Array:
            return jnp.roll(x.reshape(shape), -begin, axis=1)

        stored = jnp.arange(setup.rows) < jnp.minimum(written, setup.rows)
        ended = jnp.where(stored, in_time(arrays.ended), 0)
        found = shares(jnp.where(stored, in_time(td), 0), ended, truncation)
        return arrays._replace(reliability=jnp.roll(found, begin, axis=1).reshape(-1))

    return Reliability(1.0, init, added, updated, at, anew)


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
    variance: jax.Array  # [M] its moving variance
    visits: jax.Array  # [M]
    usual: jax.Array  # the usual deviation; 0 before the first one is known


def of_deviation(setup: Setup) -> Reliability:
    """1 - d / (d + usual): d is the moving deviation of the TD error over visits, and `usual` that of others."""
    places = setup.environments * setup.rows

    def init() -> OfDeviation:
        return OfDeviation(jnp.zeros(places), jnp.zeros(places), jnp.zeros(places), jnp.float32(0))

    def added(arrays: OfDeviation, newest: jax.Array, steps: Step) -> OfDeviation:
        mean, variance, visits = (x.at[newest].set(0) for x in arrays[:3])
        return OfDeviation(mean, variance, visits, arrays.usual)

    def updated(arrays: OfDeviation, places: jax.Array, errors: jax.Array) -> OfDeviation:
        error = errors.mean(axis=0)
        mean, variance, visits = (x.at[places].get(mode="fill", fill_value=0) for x in arrays[:3])
        away, known = error - mean, visits > 0
        variance = jnp.where(known, (1 - PACE) * (variance + PACE * jnp.square(away)), 0)
        mean = jnp.where(known, mean + PACE * away, error)
        deviation, count = jnp.sqrt(variance), jnp.sum(known)
        now = jnp.sum(jnp.where(known, deviation, 0)) / jnp.maximum(count, 1)
        moved = jnp.where(arrays.usual > 0, arrays.usual + USUAL * (now - arrays.usual), now)
        old = zip(arrays[:3], (mean, variance, visits + 1), strict=True)
        mean, variance, visits = (x.at[places].set(new, mode="drop") for x, new in old)
        return OfDeviation(mean, variance, visits, jnp.where(count > 0, moved, arrays.usual))

    def at(arrays: OfDeviation, places: jax.Array) -> jax.Array:
        variance, visits = (x.at[places].get(mode="fill", fill_value=0) for x in (arrays.variance, arrays.visits))
        expected = (visits * variance + VISITS * jnp.square(arrays.usual)) / (visits + VISITS)
        return _compared(jnp.sqrt(expected), arrays.usual)

    return Reliability(UNSEEN, init, added, updated, at, unchanged)


# Of estimates


class OfEstimates(NamedTuple):
    spread: jax.Array  # [M] the deviation of the TD errors of a transition's last visit; -1 before the first
    usual: jax.Array  # the usual spread; 0 before the first one is known


def of_estimates(setup: Setup) -> Reliability:
    """1 - d / (d + usual): d is the deviation among the TD errors of the estimates, and `usual` that of others."""
    places = setup.environments * setup.rows

    def init() -> OfEstimates:
        return OfEstimates(jnp.full(places, -1.0), jnp.float32(0))

    def added(arrays: OfEstimates, newest: jax.Array, steps: Step) -> OfEstimates:
        return arrays._replace(spread=arrays.spread.at[newest].set(-1))

    def updated(arrays: OfEstimates, places: jax.Array, errors: jax.Array) -> OfEstimates:
        spread = errors.std(axis=0)
        usual = jnp.where(arrays.usual > 0, arrays.usual + USUAL * (spread.mean() - arrays.usual), spread.mean())
        return OfEstimates(arrays.spread.at[places].set(spread, mode="drop"), usual)

    def at(arrays: OfEstimates, places: jax.Array) -> jax.Array:
        spread = arrays.spread.at[places].get(mode="fill", fill_value=-1)
        return jnp.where(spread < 0, UNSEEN, _compared(spread, arrays.usual))

    return Reliability(UNSEEN, init, added, updated, at, unchanged)


def _compared(deviation: jax.Array, usual: jax.Array) -> jax.Array:
    """1 where the deviation is zero, and a half where it is the usual one."""
    none = jnp.where(usual > 0, 1, UNSEEN)
    return jnp.where(deviation > 0, usual / jnp.where(deviation > 0, deviation + usual, 1), none)
