"""Replay by priorities: one rule with exponents, of which the published rules are special cases.

    priority of a transition  =  (|TD error| + td_offset)^alpha * reliability^omega
    its probability P         =  (1 - uniform_share) * priority / sum of priorities  +  uniform_share / M
    its weight in the loss    =  (M P)^-beta, divided by the largest weight of the batch

M is the number of stored transitions. The TD error is that of the last update that drew the transition, and the mean of
the absolute values if there are several heads or critics. A transition that was just stored gets the largest TD error
so far, so that each is soon drawn. The `uniform_share` makes it certain that each can be drawn.

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
from sharedq.samplers.sampler import Index, Sampler, Setup, Summary
from sharedq.settings import check_count, require
from sharedq.transitions import Step
from sharedq.trees import moved_every

LEAST = 1e-3  # ours: the smallest reliability, so that no priority is zero
ALPHA, OMEGA = 2.0, 10.0  # ours: the largest exponents
SMALLEST, LARGEST = 1e-30, 1e30  # ours: of the priorities, whose sums are 32-bit numbers and must be finite, not zero

Exponent = Callable[[jax.Array], Any]  # at an environment step

TD_EDGES = tuple(float(f"{10 ** (power / 4):.4g}") for power in range(-16, 13))  # 1e-4 to 1e3, 4 bins a decade
SHARE_EDGES = tuple(float(f"{10 ** (power / 4):.4g}") for power in range(-12, 13))  # 1e-3 to 1e3
RELIABILITY_EDGES = tuple(n / 20 for n in range(21))


class Rule(NamedTuple):
    """The numbers of a rule. Exponents are functions of the environment step."""

    alpha: Exponent
    omega: Exponent | None  # None: reliability plays no role
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


def sampler(setup: Setup, rule: Rule) -> Sampler:
    """The sampler of a rule."""
    rows, environments, n_step = setup.rows, setup.environments, setup.n_step
    places, of = environments * rows, rule.reliability
    nowhere = jnp.iinfo(jnp.int32).max  # beyond the end of every level of the sums

    def place_of(index: Index) -> jax.Array:
        return index.environment * rows + index.time % rows

    def priority(td: jax.Array, reliability: Any, written: Any) -> jax.Array:
        step = written * environments
        found = jnp.power(td + rule.td_offset, rule.alpha(step))
        if rule.omega is not None:
            trusted = reliability if rule.favours_reliable else 1 - reliability
            found = found * jnp.power(jnp.maximum(trusted, LEAST), rule.omega(step))
        return jnp.clip(found, SMALLEST, LARGEST)

    def init() -> State:
        arrays = () if of is None else of.init()
        zeros = jnp.zeros(places)
        return State(block_sums.zeros(places), zeros, jnp.zeros(places, jnp.int32), jnp.float32(1), arrays)

    def added(state: State, written: Any, steps: Step) -> State:
        everywhere = jnp.arange(environments)
        newest = place_of(Index(jnp.broadcast_to(written, environments), everywhere))
        td = state.td.at[newest].set(state.largest)
        updated_at = state.updated_at.at[newest].set(0)
        arrays = state.reliability if of is None else of.added(state.reliability, newest, steps)
        first = priority(state.largest, 0.0 if of is None else of.first, written + 1)
        complete = place_of(Index(written - n_step + 1 + jnp.zeros_like(everywhere), everywhere))
        complete = jnp.where(written >= n_step - 1, complete, nowhere)
        changed, numbers = complete, jnp.broadcast_to(first, environments)
        if n_step > 1:  # the newest steps have taken the places of transitions, and are none themselves yet
            td = td.at[complete].set(state.largest, mode="drop")  # it may have grown since the step was stored
            changed = jnp.concatenate([newest, complete])
            numbers = jnp.concatenate([jnp.zeros(environments), numbers])
        return State(block_sums.write(state.sums, changed, numbers), td, updated_at, state.largest, arrays)

    def draw(state: State, written: Any, count: Any, key: jax.Array) -> tuple[Index, jax.Array, dict]:
        # All random numbers come from one call, because each call costs as much as drawing from the sums.
        bits = jax.random.bits(key, (len(state.sums) + 3, setup.batch_size))
        random = (bits[3:] >> 9) * jnp.float32(2**-23)  # in [0, 1)
        environment, row = jnp.divmod(block_sums.draw(state.sums, random), rows)
        time = written - 1 - (written - 1 - row) % rows
        if rule.uniform_share:
            uniformly = bits[0] < jnp.uint32(rule.uniform_share * (2**32 - 1))
            time = jnp.where(uniformly, setup.first(written) + _below(bits[1], setup.count(written)), time)
            environment = jnp.where(uniformly, _below(bits[2], environments), environment)
        index = Index(time, environment)
        place = place_of(index)
        probability = probabilities(state, written, block_sums.read(state.sums, place))
        weights = jnp.power(probability, -rule.beta(written * environments))
        weights = weights / weights.max()
        return index, weights, told(state, written, count, index, place, weights)

    def probabilities(state: State, written: Any, numbers: jax.Array) -> jax.Array:
        """M P of priorities."""
        stored = setup.count(written) * environments
        share = numbers / block_sums.total(state.sums) * stored
        return (1 - rule.uniform_share) * share + rule.uniform_share

    def told(state: State, written: Any, count: Any, index: Index, place: jax.Array, weights: jax.Array) -> dict:
        since = state.updated_at[place]
        late = count - since > setup.count(written) * environments / setup.batch_size
        known = {} if of is None else {"reliability": of.at(state.reliability, place).mean()}
        return known | {
            "last_td_error": state.td[place].mean(),
            "weight": weights.mean(),
            "age": (written - 1 - index.time).mean(dtype=jnp.float32) * environments,
            "first_priority": (since == 0).mean(dtype=jnp.float32),
            "stale": ((since > 0) & late).mean(dtype=jnp.float32),
        }

    def updated(state: State, written: Any, index: Index, td_errors: jax.Array, count: Any) -> State:
        place = jnp.where(index.time >= setup.first(written), place_of(index), nowhere)
        td = jnp.abs(td_errors).mean(axis=0)
        arrays = state.reliability if of is None else of.updated(state.reliability, place, td_errors)
        numbers = priority(td, 0.0 if of is None else of.at(arrays, place), written)
        state = State(
            block_sums.write(state.sums, place, numbers),
            state.td.at[place].set(td, mode="drop"),
            state.updated_at.at[place].set(count, mode="drop"),
            jnp.maximum(state.largest, td.max()),
            arrays,
        )
        if rule.refresh_period is None:
            return state
        return moved_every(count, rule.refresh_period, lambda old: anew(old, written), state)

    def anew(state: State, written: Any) -> State:
        """The state with the priorities of all transitions by the exponents and the reliability of now."""
        arrays, known = state.reliability, 0.0
        if of is not None:
            arrays = arrays if of.anew is None else of.anew(arrays, state.td, written)
            known = of.at(arrays, jnp.arange(places))
        numbers = jnp.where(drawable(written), priority(state.td, known, written), 0)
        return state._replace(sums=block_sums.build(numbers), reliability=arrays)

    def drawable(written: Any) -> jax.Array:
        """Whether the transition at each place [M] can be drawn."""
        row = jnp.arange(places) % rows
        time = written - 1 - (written - 1 - row) % rows
        return (time >= 0) & (time <= written - n_step)

    def summarise(state: State, written: Any) -> Summary:
        can = drawable(written)
        stored = jnp.maximum(can.sum(), 1)
        share = jnp.where(can, probabilities(state, written, block_sums.numbers(state.sums, places)), 0)  # M P
        p = share / stored
        entropy = jax.scipy.special.entr(p).sum() / jnp.maximum(jnp.log(stored), 1e-9)
        numbers = {"entropy": entropy, "effective_size": 1 / jnp.maximum(stored * jnp.sum(p * p), 1e-9)}
        found = {"td_error": (state.td, TD_EDGES), "probability": (share, SHARE_EDGES)}
        if of is not None:
            found["reliability"] = of.at(state.reliability, jnp.arange(places)), RELIABILITY_EDGES
        return Summary(numbers, {name: counts(x, can, edges) for name, (x, edges) in found.items()})

    known = () if of is None else ("reliability",)
    edges = {"td_error": TD_EDGES, "probability": SHARE_EDGES} | dict.fromkeys(known, RELIABILITY_EDGES)
    metrics = (*known, "last_td_error", "weight", "age", "first_priority", "stale")
    return Sampler(
        init,
        added,
        draw,
        updated,
        summarise=summarise,
        metrics=metrics,
        numbers=("entropy", "effective_size"),
        histograms=edges,
    )


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
        for name, most in {"alpha": ALPHA, "omega": OMEGA, "beta": 1.0}.items():
            for one in (name, f"{name}_start", f"{name}_end"):
                value = getattr(self, one, 0.0)
                require(0 <= value <= most, f"sampler.{one} must lie in 0 .. {most:g}, not {value}")
        require(self.td_offset > 0, f"sampler.td_offset must be above 0, not {self.td_offset}")
        require(0 <= self.uniform_share <= 1, f"sampler.uniform_share must lie in 0 .. 1, not {self.uniform_share}")
        check_count("sampler.anneal_steps", 1 if self.anneal_steps is None else self.anneal_steps)
        check_count("sampler.refresh_period", getattr(self, "refresh_period", 1))

    def rule(self, setup: Setup, alpha: Exponent, omega: Exponent | None = None, **others: Any) -> Rule:
        """The rule with these exponents, and with the numbers of these settings."""
        return Rule(alpha, omega, self.annealed(setup, "beta"), self.td_offset, self.uniform_share, **others)

    def annealed(self, setup: Setup, name: str) -> Exponent:
        """The exponent of this name, which moves from its start to its end."""
        start, end = getattr(self, f"{name}_start"), getattr(self, f"{name}_end")
        return partial(linear_schedule, start, end, self.anneal_steps or setup.steps)

    def check(self, experiment: Any, spec: Any) -> None:
        """Refuses a warm-up after which fewer transitions have a priority than a batch takes."""
        replay, training = experiment.replay, experiment.training
        rows = min(training.warm_up // training.environments, replay.rows(training.environments))
        filled = max(rows - replay.n_step + 1, 0) * training.environments
        require(
            filled >= replay.batch_size,
            f"replay.batch_size {replay.batch_size} is larger than the {filled} transitions that have a priority at "
            "the first update: raise training.warm_up, or lower the batch size",
        )
