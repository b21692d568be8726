"""AdaQN (Vincent et al., 2024): several networks learn from one target, and the best of them becomes the target.

Every update all K networks learn from the same batch and from the same target network. Their squared errors are summed
up. Every `period` updates the network with the smallest sum is copied into the target network, and the sums begin anew.
So the networks can differ in what nobody knows how to set, here in their learning rates.

`contest` has what this source shares with `eau_de`.

Shape letters: K networks, B batch, A actions (or other axes of a head). Outputs can be trees of arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.bellman.losses import NAMED
from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.settings import check_count, require
from sharedq.targets.several_networks import first_network, outputs_of_each, predictions_of_each
from sharedq.targets.source import (
    CHAIN,
    TargetSource,
    Values,
    acting_network,
    check_period,
    evaluate,
    every,
    first_head,
    noisy_pair,
)

LARGEST = 1e15  # ours: a network with a larger output has diverged; the square of this is still finite
SMALLEST_SUM = 1e-6  # added to a sum of errors that is divided by, as in the public code
TOURNAMENT = 3  # networks in a tournament of `elitism`
WORST = 5  # of so many networks, `truncation` replaces one

Selection = Literal["none", "elitism", "truncation"]


@dataclass(frozen=True)
class Adaptive:
    """AdaQN: several networks learn from one target, which becomes a copy of the one with the smallest loss."""

    networks: int = 5  # K, the number of networks that learn; two at least
    learning_rates: tuple[float, ...] = ()  # learning rate of each network; by default all have the algorithm's
    adam_betas: tuple[float, ...] = ()  # Adam's decay of first moments of each network; by default the algorithm's
    losses: tuple[str, ...] = ()  # loss of each network: squared, half_squared or huber; by default the algorithm's
    period: int = 2000  # gradient steps between two refreshes of the target
    behaviour_network: str = "loss"  # network that acts: loss (drawn, often if its loss is small), mean, or a number
    selection: Selection = "none"  # which networks are replaced by better ones at a refresh, besides diverged ones

    def __post_init__(self):
        check_contest("adaptive", self.networks, self.period, self.behaviour_network)
        for name in ("learning_rates", "adam_betas", "losses"):
            given = len(getattr(self, name))
            wanted = f"target.{name} needs {self.networks} values, one per network"
            require(given in (0, self.networks), f"{wanted}, not {given}")
        require(all(0 <= beta < 1 for beta in self.adam_betas), "target.adam_betas must be from 0 to below 1")
        unknown = next((name for name in self.losses if name not in NAMED), None)
        require(unknown is None, f"target.losses are {', '.join(NAMED)}, and not '{unknown}'")
        require(all(rate > 0 for rate in self.learning_rates), "target.learning_rates must all be above 0")

    @property
    def label(self) -> str:
        return f"adaptive K={self.networks}"

    def build(self, network: Network) -> TargetSource:
        def origin(key: jax.Array, losses: jax.Array) -> jax.Array:
            return origin_of(self.selection, key, losses)

        source = contest(network, self.networks, self.period, self.behaviour_network, origin)

        def optimiser(optimiser, rate):
            factors = jnp.array([one / rate for one in self.learning_rates or [rate] * self.networks], jnp.float32)
            return one_each(optimiser, factors, jnp.array(self.adam_betas) if self.adam_betas else None)

        def renew(step, moments, state, fresh):
            return every(step, self.period, lambda: taken(moments, state["sums"].origin), moments)

        replaces = self.selection != "none"
        return source._replace(optimiser=optimiser, renew=renew, losses=self.losses, replaces_heads=replaces)


class Sums(NamedTuple):
    """What a contest keeps of its networks."""

    losses: jax.Array  # [K] the sums of squared errors since the last refresh; those of diverged networks are infinite
    chosen: jax.Array  # the network that is the target
    origin: jax.Array  # [K] whose weights each network took over at the last refresh


Origin = Callable[[jax.Array, jax.Array], jax.Array]  # a key and the sums of errors [K] -> whose weights each takes [K]


def contest(network: Network, count: int, period: int, behaviour: str, origin: Origin) -> TargetSource:
    """Networks that begin independently and learn from one target, which becomes a copy of the best of them.

    `origin` says whose weights each network takes over at a refresh.
    """

    def init(key, example):
        draw = jax.vmap(lambda key: networks.init(network, key, example, 1))
        trunk, heads, batch_stats = draw(jax.random.split(key, count))
        params = {"trunk": trunk, "heads": heads}
        target_params, target_stats = taken((params, batch_stats), 0)
        places = jnp.arange(count, dtype=jnp.int32)
        state = {
            "target_params": target_params,
            "target_batch_stats": target_stats,
            "batch_stats": batch_stats,
            "sums": Sums(jnp.zeros(count), jnp.int32(0), places),
            "key": jax.random.key_data(jax.random.fold_in(key, count)),
        }
        return params, state

    def values(params, state, now, then=None, key=None):
        one, other = noisy_pair(network, key)
        found = predictions_of_each(one, params, state["batch_stats"], now, then)
        *outputs, batch_stats = found
        sound = sound_networks(outputs[1])
        features, predicted, selector = replaced(outputs, sound)
        inputs = now if then is None else then
        target = first_head(None, None, evaluate(other, state["target_params"], state["target_batch_stats"], inputs))
        bootstrap = jax.tree.map(lambda x: jnp.stack([x] * count), target)
        # Where no network is sound, all keep their weights, so that the loss says it.
        weights = jnp.where(sound | ~sound.any(), 1.0, 0.0)
        return Values(features, predicted, bootstrap, selector, weights, batch_stats)

    def refresh(step, params, state, info):
        losses = state["sums"].losses + errors_of(info)
        online = params, info.batch_stats
        target = state["target_params"], state["target_batch_stats"]

        def chosen():
            best = smallest_sum(losses)
            draws = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), step)
            whose = origin(draws, losses)
            whose = jnp.where(jnp.isfinite(losses[whose]), whose, best)
            return taken(online, whose), taken(online, best), Sums(jnp.zeros(count), best, whose)

        stale = online, target, state["sums"]._replace(losses=losses)
        (params, stats), (target_params, target_stats), sums = every(step, period, chosen, stale)
        state = {"target_params": target_params, "target_batch_stats": target_stats, "key": state["key"]}
        return params, {**state, "batch_stats": stats, "sums": sums}

    def draw(sums: Sums, key, sound):
        """The network that acts, of those that are sound."""
        if behaviour == "loss" and key is not None:
            chance = jnp.where(sound & jnp.isfinite(sums.losses), 1 / (sums.losses + SMALLEST_SUM), 0)
            return jax.random.categorical(key, jnp.log(chance))
        # The network that was chosen may have moved to another place, and stands there unless it was replaced since.
        chosen = jnp.argmax(sums.origin == sums.chosen)
        wanted = chosen if behaviour == "loss" else int(behaviour) - 1
        return jnp.where(sound[wanted], wanted, jnp.argmax(sound))

    def select(state, key, values):
        """All inputs get the same network's values, so that only that one has to be computed."""
        sound = jnp.isfinite(state["sums"].losses)
        if behaviour == "mean":
            return jax.tree.map(lambda x: mean_over(x, sound), values)
        return taken(values, draw(state["sums"], key, sound))

    def act_values(params, state, key, inputs, noisy=False):
        acting = acting_network(network, key, noisy)
        if behaviour == "mean":
            outputs = outputs_of_each(acting, params, state["batch_stats"], inputs)
            return select(state, key, network.reading.value(outputs))
        one = draw(state["sums"], key, jnp.isfinite(state["sums"].losses))
        weights, stats = taken((params, state["batch_stats"]), one)
        return first_head(None, None, network.reading.value(evaluate(acting, weights, stats, inputs)))

    def metrics(state):
        sums = state["sums"]
        diverged = jnp.sum(~jnp.isfinite(sums.losses)).astype(jnp.float32)
        is_chosen = (sums.chosen == jnp.arange(count)).astype(jnp.float32)
        return {f"chosen/{k + 1}": is_chosen[k] for k in range(count)} | {"diverged_networks": diverged}

    return TargetSource(init, values, refresh, act_values, select, shared=(), first=first_network, metrics=metrics)


def check_contest(name: str, count: int, period: int, behaviour: str) -> None:
    """Checks the settings that every contest has."""
    require(count >= 2, f"target '{name}' compares networks: set --target.networks to 2 or more, not {count}")
    check_count("target.networks", count, most=CHAIN)
    check_period("period", period)
    require(
        behaviour in ("loss", "mean") or behaviour in map(str, range(1, count + 1)),
        f"target.behaviour_network is loss, mean or the number of a network from 1 to {count}, not '{behaviour}'",
    )


def taken(tree: Any, place: Any) -> Any:
    """The networks at a place or at several places, of leaves [K, ...]."""
    return jax.tree.map(lambda x: x[place], tree)


def errors_of(info: Any) -> jax.Array:
    """The mean squared error [K] of each network in an update. A network that did not count has an infinite one."""
    errors = info.losses
    if info.errors is not None:
        errors = jnp.square(info.errors).reshape(len(info.errors), -1).mean(axis=1)
    return errors if info.weights is None else jnp.where(info.weights > 0, errors, jnp.inf)


def smallest_sum(losses: jax.Array) -> jax.Array:
    """The first network with the smallest sum of errors [K]. If none is finite it is the last, as in public code."""
    finite = jnp.isfinite(losses)
    best = jnp.argmin(jnp.where(finite, losses, jnp.inf))
    return jnp.where(finite.any(), best, len(losses) - 1).astype(jnp.int32)


def origin_of(selection: Selection, key: jax.Array, losses: jax.Array) -> jax.Array:
    """Whose weights [K] each network takes over, given the sums of errors [K]."""
    count, losses = len(losses), jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    places = jnp.arange(count, dtype=jnp.int32)
    if selection == "elitism":
        drawn = jax.random.randint(key, (count, TOURNAMENT), 0, count, jnp.int32)
        winners = jnp.take_along_axis(drawn, losses[drawn].argmin(axis=1)[:, None], axis=1)[:, 0]
        return jnp.where(places == smallest_sum(losses), places, winners)
    if selection == "truncation":
        number, order = max(1, count // WORST), jnp.argsort(losses).astype(jnp.int32)
        return places.at[order[count - number :]].set(order[:number])
    return places


def sound_networks(outputs: Any) -> jax.Array:
    """Which networks [K] have finite outputs [K, ...] of a size whose square is finite."""
    leaves = [(jnp.abs(x) < LARGEST).reshape(x.shape[0], -1).all(axis=1) for x in jax.tree.leaves(outputs)]
    return jnp.stack(leaves).all(axis=0)


def replaced(tree: Any, sound: jax.Array) -> Any:
    """The tree [K, ...], with what the first sound network says in the places of those that are not.

    So errors and losses stay finite, and samplers and metrics do not see the networks that have diverged.
    """
    other = jnp.argmax(sound)

    def one(x: jax.Array) -> jax.Array:
        return jnp.where(along(sound, x), x, jax.lax.stop_gradient(x[other]))

    return jax.tree.map(one, tree)


def mean_over(x: jax.Array, sound: jax.Array) -> jax.Array:
    """The mean over those networks [K] of x [K, ...] that are sound."""
    return jnp.where(along(sound, x), x, 0).sum(axis=0) / jnp.maximum(sound.sum(), 1)


def along(each: jax.Array, x: jax.Array) -> jax.Array:
    """The numbers [K], with axes of size 1 added so that they broadcast with x [K, ...]."""
    return each.reshape(each.shape + (1,) * (x.ndim - 1))


def one_each(
    optimiser: Any, factors: jax.Array, betas: jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """An optimiser of its own for each network, whose steps are multiplied by a factor [K].

    `betas` [K] are their decays of first moments, if they are not those of the optimiser.

    A network with a gradient that is not finite gets a gradient of zero.
    """

    def update(gradients, moments, params=None, **extra):
        leaves = [jnp.isfinite(x).reshape(x.shape[0], -1).all(axis=1) for x in jax.tree.leaves(gradients)]
        sound = jnp.stack(leaves).all(axis=0)
        gradients = jax.tree.map(lambda x: jnp.where(along(sound, x), x, 0), gradients)

        def step(gradient, moments, params, own):
            return optimiser.update(gradient, moments, params, **own, **extra)

        own = {} if betas is None else {"beta": betas}
        updates, moments = jax.vmap(step)(gradients, moments, params, own)
        return jax.tree.map(lambda x: along(factors, x) * x, updates), moments

    return optax.GradientTransformationExtraArgs(jax.vmap(optimiser.init), update)
