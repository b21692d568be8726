"""Where does the regression target come from? The contract that every answer fulfils, and what answers share.

A source is a record of pure functions over explicit state, as an optax optimiser is. Heads are a leading axis
everywhere, so a loss written once serves one head or fifty.

Shape letters: H heads that learn, B batch, A outputs of one head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.settings import check_count, require

CHAIN = 1_000  # ours: heads or networks that learn


class Values(NamedTuple):
    """What a source says of a batch. Only `predicted` carries a gradient."""

    predicted: jax.Array  # [H, B, A] at now, by the heads that learn
    bootstrap: jax.Array  # [H, B, A] at then, by what each of them learns from
    chooser: jax.Array  # [H, B, A] at then, by the heads that learn: for backups in which one chooses, another judges
    weights: jax.Array  # [H] what the loss of each head counts
    statistics: Any  # the trunk's running statistics after this batch


class Seen(NamedTuple):
    """What a source is told after a gradient step."""

    now: Any  # the inputs just learned from
    statistics: Any  # as `values` gave them
    losses: jax.Array  # [H], for sources that choose by them


def first_head(key: jax.Array, values: jax.Array) -> jax.Array:
    """`policy` of a source with one head."""
    return values[0]


def stay(step: jax.Array, tree: Any) -> Any:
    """`follow` of a source whose learning heads keep their places."""
    return tree


class TargetSource(NamedTuple):
    """The functions' state is `params`, which the optimiser moves, and `state`, which it never sees."""

    init: Callable  # (key, example [B, ...]) -> params, state; untrained weights lie in state["held"]
    values: Callable  # (params, state, now, then) -> Values
    refresh: Callable  # (step, params, state, seen) -> params, state; after every gradient step, counted from 1
    act_values: Callable  # (params, state, key, inputs [B, ...]) -> [B, A], the values the policy follows
    policy: Callable = first_head  # (key, values [H, B, A]) -> [B, A]: those, of what the heads that learn say
    shared: tuple[str, ...] = ("trunk",)  # parts of params that all heads share; the leaves of others begin with H
    follow: Callable = stay  # (step, tree) -> tree: what belongs to heads, leaves [H, ...], moved as refresh moves them


def evaluate(network: Network, weights: Any, statistics: Any, inputs: Any) -> jax.Array:
    """A whole network's values [H, B, A]; batch normalisation by its own running statistics."""
    features, _ = network.trunk(weights["trunk"], statistics, inputs, False)
    return network.heads(weights["heads"], features)


def every(step: jax.Array, period: int, fresh: Callable, stale: Any) -> Any:
    """`fresh()` at each `period`-th step, else `stale`; what is not needed is not computed."""
    if period == 1:
        return fresh()
    return jax.lax.cond(step % period == 0, fresh, lambda: stale)


def moved_every(step: jax.Array, period: int, move: Callable, tree: Any) -> Any:
    """`move(tree)` at each `period`-th step, else the tree: a loop of one turn or none, for a branch would copy."""
    return jax.lax.fori_loop(0, jnp.int32(step % period == 0), lambda _, tree: move(tree), tree)


def towards(old: Any, new: Any, fraction: float) -> Any:
    """Old moved by `fraction` of the way to new; the whole way is an exact copy."""
    if fraction == 1:
        return new
    return jax.tree.map(lambda o, n: o + fraction * (n - o), old, new)


def join(first: Any, rest: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)


def part(tree: Any, start: int | None, stop: int | None) -> Any:
    """Heads start .. stop-1 of every weight."""
    return jax.tree.map(lambda w: w[start:stop], tree)


def one_down(tree: Any) -> Any:
    """Each head takes the place below its own; the last is in its old place too."""
    return join(part(tree, 1, None), part(tree, -1, None))


def features_of_both(network: Network, trunk: Any, statistics: Any, now: Any, then: Any) -> tuple[Any, Any, Any]:
    """The trunk's features at now and, without a gradient, at then; and its new running statistics.

    A trunk that normalises its batch sees both in one pass, so that both are normalised alike. Otherwise two passes
    are the same function, and the one over then needs no gradient and keeps no activations.
    """
    if network.normalises_batch:
        size = jax.tree.leaves(now)[0].shape[0]
        both, statistics = network.trunk(trunk, statistics, join(now, then), True)
        at_now, at_then = both[:size], both[size:]
    else:
        at_now, statistics = network.trunk(trunk, statistics, now, True)
        at_then, _ = network.trunk(jax.lax.stop_gradient(trunk), statistics, then, True)
    return at_now, jax.lax.stop_gradient(at_then), statistics


def one_per_input(values: jax.Array, head: jax.Array) -> jax.Array:
    """values [H, B, ...], head [B] -> [B, ...]: for each input the values of its own head."""
    return jax.vmap(lambda values, head: values[head], in_axes=(1, 0))(values, head)


def head_that_acts(acting: str, key: jax.Array, values: jax.Array) -> jax.Array:
    """[H, B, ...] -> [B, ...] by the rule `acting`: "uniform" draws one per input, "mean", or a head's number."""
    heads, size = values.shape[:2]
    if heads == 1:
        return values[0]
    if acting == "uniform":
        return one_per_input(values, jax.random.randint(key, (size,), 0, heads))
    return values.mean(axis=0) if acting == "mean" else values[int(acting) - 1]


def check_chain(
    length: int, name: str, period: int, acting: str, loss_weights: tuple[float, ...], loss_discount: float
) -> None:
    """The settings that every chain of heads or networks has."""
    check_count(f"target.{name}", length, most=CHAIN)
    check_period("period", period)
    require(
        acting in ("uniform", "mean") or acting in map(str, range(1, length + 1)),
        f"target.acting is uniform, mean or the number of a head from 1 to {length}, not '{acting}'",
    )
    require(
        len(loss_weights) in (0, length),
        f"target.loss_weights needs {length} numbers, one per learning head, not {len(loss_weights)}",
    )
    require(all(weight >= 0 for weight in loss_weights), "target.loss_weights cannot be negative")
    require(0 < loss_discount <= 1, f"target.loss_discount must be above 0 and at most 1, not {loss_discount}")
    require(not loss_weights or loss_discount == 1, "give target.loss_weights or target.loss_discount, not both")


def check_period(name: str, period: int) -> None:
    require(period >= 1, f"target.{name} must be at least 1 gradient step, not {period}")
    check_count(f"target.{name}", period)


def check_polyak(polyak: float) -> None:
    require(0 < polyak <= 1, f"target.polyak must be above 0 and at most 1 (a copy), not {polyak}")


def weights_of(loss_weights: tuple[float, ...], loss_discount: float, length: int) -> jax.Array:
    return jnp.array(loss_weights or [loss_discount**k for k in range(length)], jnp.float32)


def without_a_slow_period(polyak: float, names: set[str]) -> set[str]:
    """`handed_on` of a source that can average: its period of 1 is none for a source that only copies or shifts."""
    return names - {"period"} if polyak < 1 and "polyak" not in names else names
