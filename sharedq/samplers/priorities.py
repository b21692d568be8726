"""Replay by priorities: one rule with exponents, of which the published rules are special cases.

    priority of a transition  =  (|TD error| + td_offset)^alpha * max(reliability, 0.001)^omega
    its probability P         =  (1 - uniform_share) * priority / sum of priorities  +  uniform_share / M
    its weight in the loss    =  (M P)^-beta, divided by the largest weight of the batch

M is the number of stored transitions. The TD error is that of the last update that drew the transition, and the mean of
the absolute values if there are several heads or critics. A transition that was just stored gets the largest TD error
so far, or 1 if that is larger, and full reliability, so that it is soon drawn. The `uniform_share` makes it certain
that each can be drawn.

The exponents may change during the run, and a transition that was not drawn keeps its old priority. So where they do,
or where reliability depends on other transitions, all priorities are computed anew every `refresh_period` updates.

Shape letters: N environments of a seed, M places (see `reliability.py`), B batch, E estimates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.exploration import linear_schedule
from sharedq.samplers import block_sums
from sharedq.samplers.reliability import Reliability
from sharedq.samplers.sampler import Index, Sampler, SamplerSpec, Summary
from sharedq.settings import COUNTABLE, check_count, check_shares, require
from sharedq.transitions import Step
from sharedq.trees import moved_every

MIN_RELIABILITY = 1e-3  # ours; so no priority is zero
MAX_ALPHA, MAX_OMEGA = 2.0, 10.0  # ours
MIN_PRIORITY, MAX_PRIORITY = 1e-30, 1e30  # ours; the sums of priorities are 32-bit numbers, and must be finite

Exponent = Callable[[jax.Array], Any]  # at an environment step

NOWHERE = 2**31 - 1  # a place beyond the end of every level of the sums
EDGES = {  # of the bins of the histograms
    "td_error": tuple(float(f"{10 ** (power / 4):.4g}") for power in range(-16, 13)),  # 1e-4 to 1e3
    "probability": tuple(float(f"{10 ** (power / 4):.4g}") for power in range(-12, 13)),  # 1e-3 to 1e3
    "reliability": tuple(n / 20 for n in range(21)),
}


class Rule(NamedTuple):
    """The numbers of a rule. Exponents are functions of the environment step."""

    alpha: Exponent
    omega: Exponent  # of no consequence without a reliability
    beta: Exponent
    td_offset: float
    uniform_share: float
    reliability: Reliability | None = None
    favours_reliable: bool = True  # otherwise a priority has (1 - reliability)^omega
    refresh_period: int | None = None  # updates; None: a priority changes only when its transition is drawn


class State(NamedTuple):
    sums: block_sums.Levels  # of the priorities; a transition that cannot be drawn has priority 0
    td: jax.Array  # [M] the last TD error
    updated_at: jax.Array  # [M] the update that gave it; 0 before the first
    largest: jax.Array  # the largest TD error so far
    reliability: Any  # the arrays of the rule's reliability


class Priorities(NamedTuple):
    """The functions of a sampler with a rule."""

    spec: SamplerSpec
    rule: Rule

    @property
    def places(self) -> int:
        """M"""
        return self.spec.environments * self.spec.rows

    def sampler(self) -> Sampler:
        known = () if self.rule.reliability is None else ("reliability",)
        return Sampler(
            self.init,
            self.added,
            self.draw,
            self.updated,
            summarise=self.summarise,
            metrics=(*known, "last_td_error", "weight", "age", "first_priority", "stale"),
            numbers=("entropy", "effective_size"),
            histograms={name: EDGES[name] for name in ("td_error", "probability", *known)},
        )

    def place_of(self, index: Index) -> jax.Array:
        return index.environment * self.spec.rows + index.time % self.spec.rows

    def time_of(self, row: jax.Array, written: Any) -> jax.Array:
        """When the newest step in a row of the ring was written; below 0 if none was."""
        return written - 1 - (written - 1 - row) % self.spec.rows

    def drawable(self, written: Any) -> jax.Array:
        """Whether the transition at each place [M] can be drawn."""
        time = self.time_of(jnp.arange(self.places) % self.spec.rows, written)
        return (time >= 0) & (time <= written - self.spec.n_step)

    def priority(self, td: jax.Array, written: Any, reliability: jax.Array | None = None) -> jax.Array:
        """The priorities of TD errors. Without a reliability it plays no role."""
        rule, step = self.rule, written * self.spec.environments
        found = jnp.power(td + rule.td_offset, rule.alpha(step))
        if reliability is not None:
            trusted = reliability if rule.favours_reliable else 1 - reliability
            found = found * jnp.power(jnp.maximum(trusted, MIN_RELIABILITY), rule.omega(step))
        return jnp.clip(found, MIN_PRIORITY, MAX_PRIORITY)

    def relative(self, state: State, numbers: jax.Array, written: Any) -> jax.Array:
        """M P of priorities: how much likelier than under uniform replay they make a draw."""
        stored = self.spec.count(written) * self.spec.environments
        share = numbers / block_sums.total(state.sums) * stored
        return (1 - self.rule.uniform_share) * share + self.rule.uniform_share

    def init(self) -> State:
        of, zeros = self.rule.reliability, jnp.zeros(self.places)
        arrays = () if of is None else of.init()
        return State(block_sums.zeros(self.places), zeros, zeros.astype(jnp.int32), jnp.float32(1), arrays)

    def added(self, state: State, written: Any, steps: Step) -> State:
        environments, n_step, of = self.spec.environments, self.spec.n_step, self.rule.reliability
        everywhere = jnp.arange(environments)
        newest = self.place_of(Index(jnp.broadcast_to(written, environments), everywhere))
        arrays = state.reliability if of is None else of.added(state.reliability, newest, steps)
        complete = self.place_of(Index(written - n_step + 1 + jnp.zeros_like(everywhere), everywhere))
        complete = jnp.where(written >= n_step - 1, complete, NOWHERE)
        first = self.priority(state.largest, written + 1)
        changed, numbers = complete, jnp.broadcast_to(first, environments)
        td = state.td.at[newest].set(state.largest)
        if n_step > 1:  # the newest steps have taken the places of transitions, and are none themselves yet
            td = td.at[complete].set(state.largest, mode="drop")  # it may have grown since the step was stored
            changed = jnp.concatenate([newest, complete])
            numbers = jnp.concatenate([jnp.zeros(environments), numbers])
        return State(
            block_sums.write(state.sums, changed, numbers),
            td,
            state.updated_at.at[newest].set(0),
            state.largest,
            arrays,
        )

    def draw(self, state: State, written: Any, count: Any, key: jax.Array) -> tuple[Index, jax.Array, dict]:
        spec, rule = self.spec, self.rule
        # All random numbers come from one call, because each call costs as much as drawing from the sums.
        bits = jax.random.bits(key, (len(state.sums) + 3, spec.batch_size))
        random = (bits[3:] >> 9) * jnp.float32(2**-23)  # in [0, 1)
        environment, row = jnp.divmod(block_sums.draw(state.sums, random), spec.rows)
        time = self.time_of(row, written)
        if rule.uniform_share:
            uniformly = bits[0] < jnp.uint32(rule.uniform_share * (2**32 - 1))
            time = jnp.where(uniformly, spec.first(written) + _below(bits[1], spec.count(written)), time)
            environment = jnp.where(uniformly, _below(bits[2], spec.environments), environment)
        index = Index(time, environment)
        place = self.place_of(index)
        relative = self.relative(state, block_sums.read(state.sums, place), written)
        weights = jnp.power(relative, -rule.beta(written * spec.environments))
        weights = weights / weights.max()
        return index, weights, self.metrics(state, written, count, index, weights)

    def metrics(self, state: State, written: Any, count: Any, index: Index, weights: jax.Array) -> dict[str, jax.Array]:
        """The metrics of a batch."""
        spec, of, place = self.spec, self.rule.reliability, self.place_of(index)
        since = state.updated_at[place]
        late = count - since > spec.count(written) * spec.environments / spec.batch_size
        known = {} if of is None else {"reliability": of.at(state.reliability, place).mean()}
        return known | {
            "last_td_error": state.td[place].mean(),
            "weight": weights.mean(),
            "age": (written - 1 - index.time).mean(dtype=jnp.float32) * spec.environments,
            "first_priority": (since == 0).mean(dtype=jnp.float32),
            "stale": ((since > 0) & late).mean(dtype=jnp.float32),
        }

    def updated(self, state: State, written: Any, index: Index, td_errors: jax.Array, count: Any) -> State:
        rule, of = self.rule, self.rule.reliability
        place = self.place_of(index)
        repeats = jnp.argmax(place[:, None] == place, axis=1) < jnp.arange(place.size)  # of one drawn twice, the first
        credited = (index.time >= self.spec.first(written)) & ~repeats
        place = jnp.where(credited, place, NOWHERE)
        td = jnp.abs(td_errors).mean(axis=0)
        arrays = state.reliability if of is None else of.updated(state.reliability, place, td_errors)
        numbers = self.priority(td, written, None if of is None else of.at(arrays, place))
        state = State(
            block_sums.write(state.sums, place, numbers),
            state.td.at[place].set(td, mode="drop"),
            state.updated_at.at[place].set(count, mode="drop"),
            jnp.maximum(state.largest, jnp.where(credited, td, 0).max()),
            arrays,
        )
        if rule.refresh_period is None:
            return state
        return moved_every(count, rule.refresh_period, lambda old: self.recomputed(old, written), state)

    def recomputed(self, state: State, written: Any) -> State:
        """The state with the priorities of all transitions by the exponents and the reliability of now."""
        of, arrays = self.rule.reliability, state.reliability
        if of is None:
            numbers = self.priority(state.td, written)
        else:
            arrays = of.recompute(arrays, state.td, written)
            numbers = self.priority(state.td, written, of.at(arrays, jnp.arange(self.places)))
            if of.of_visits:
                numbers = jnp.where(state.updated_at > 0, numbers, self.priority(state.td, written))
        numbers = jnp.where(self.drawable(written), numbers, 0)
        return state._replace(sums=block_sums.build(numbers), reliability=arrays)

    def summarise(self, state: State, written: Any) -> Summary:
        can, of = self.drawable(written), self.rule.reliability
        stored = jnp.maximum(can.sum(), 1)
        relative = self.relative(state, block_sums.numbers(state.sums, self.places), written)
        relative = jnp.where(can, relative, 0)
        p = relative / stored
        entropy = jax.scipy.special.entr(p).sum() / jnp.maximum(jnp.log(stored), 1e-9)
        numbers = {"entropy": entropy, "effective_size": 1 / jnp.maximum(stored * jnp.sum(p * p), 1e-9)}
        found = {"td_error": state.td, "probability": relative}
        if of is not None:
            found["reliability"] = of.at(state.reliability, jnp.arange(self.places))
        return Summary(numbers, {name: counts(x, can, EDGES[name]) for name, x in found.items()})


def _below(bits: jax.Array, count: Any) -> jax.Array:
    """Random numbers in 0 .. count-1, from random bits. The smaller ones are likelier by at most count / 2^32."""
    return (bits % jnp.uint32(count)).astype(jnp.int32)


def counts(x: jax.Array, among: jax.Array, edges: tuple[float, ...]) -> jax.Array:
    """How many of the numbers [M] lie in each bin. The first and the last bin also have those beyond the edges."""
    bins = jnp.clip(jnp.searchsorted(jnp.array(edges), x, side="right") - 1, 0, len(edges) - 2)
    return jnp.zeros(len(edges) - 1, jnp.int32).at[bins].add(among.astype(jnp.int32))


@dataclass(frozen=True)
class Prioritising:
    """The base of the settings of samplers by priorities, with the numbers that all of them have."""

    beta_start: float = 0.4  # how much weights make up for the drawing at step 0: 0 not at all, 1 in full
    beta_end: float = 1.0  # the same after anneal_steps
    anneal_steps: int | None = None  # environment steps over which exponents move, in straight lines; none: all steps
    td_offset: float = 1e-6  # added to the absolute TD error, so that none is zero
    uniform_share: float = 1e-3  # share of the draws that are uniform, so that each transition can be drawn

    def __post_init__(self):
        for name, most in {"alpha": MAX_ALPHA, "omega": MAX_OMEGA, "beta": 1.0}.items():
            for one in (name, f"{name}_start", f"{name}_end"):
                value = getattr(self, one, 0.0)
                require(0 <= value <= most, f"sampler.{one} must lie in 0 .. {most:g}, not {value}")
        require(self.td_offset > 0, f"sampler.td_offset must be above 0, not {self.td_offset}")
        check_shares("sampler", self, "uniform_share")
        check_count("sampler.anneal_steps", 1 if self.anneal_steps is None else self.anneal_steps)
        check_count("sampler.refresh_period", getattr(self, "refresh_period", 1))

    def by(
        self,
        spec: SamplerSpec,
        alpha: float | Exponent,
        omega: float | Exponent = 0.0,
        reliability: Reliability | None = None,
        **others: Any,
    ) -> Sampler:
        """The sampler of the rule with these exponents, and with the numbers of these settings."""
        places = spec.rows * spec.environments
        require(places < COUNTABLE, f"replay.capacity can be {COUNTABLE:,} at most with priorities, not {places:,}")
        require(
            spec.filled >= spec.batch_size,
            f"replay.batch_size {spec.batch_size} is larger than the {spec.filled} transitions that have a priority at "
            "the first update: raise training.warm_up, or lower the batch size",
        )
        alpha, omega = (one if callable(one) else partial(_constant, one) for one in (alpha, omega))
        beta = self.annealed(spec, "beta")
        return Priorities(
            spec, Rule(alpha, omega, beta, self.td_offset, self.uniform_share, reliability, **others)
        ).sampler()

    def annealed(self, spec: SamplerSpec, name: str) -> Exponent:
        """The exponent of this name, which moves from its start to its end."""
        start, end = getattr(self, f"{name}_start"), getattr(self, f"{name}_end")
        return partial(linear_schedule, start, end, self.anneal_steps or spec.steps)


def _constant(value: float, step: jax.Array) -> float:
    return value
