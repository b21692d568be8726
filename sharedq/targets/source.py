"""The contract of a source of targets, which says where the bootstrapped value comes from, and shared functions.

A source is a record of pure functions over explicit state, like an optax optimiser. Heads are a leading axis
everywhere, so the same loss serves one head or fifty.

The outputs of a network are values, or they are read as distributions of returns (`bellman/readings.py`). A source
does not need to know which: where it compares or averages outputs it asks `network.reading`.

Shape letters: H heads that learn, B batch, A actions (or other axes of a head). Outputs that are read as distributions
have one axis more, behind A. Every array may also be a tree of arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from sharedq.bellman import backups
from sharedq.bellman.readings import Reading
from sharedq.networks.network import Network
from sharedq.settings import check_count, require

NOISE = 7_919  # folded into the key of acting for the noise of layers, so that drawing a head does not use it
CHAIN = 1_000  # ours: the largest number of heads or networks that learn


class Values(NamedTuple):
    """The values of a batch. Only `features` and `predicted` carry a gradient."""

    features: Any  # the trunk's features of now: a tree of [B, ...], or of [H, B, ...] if there are several networks
    predicted: Any  # outputs of now, from the heads that learn: [H, B, A], or a tree of such arrays
    bootstrap: Any  # outputs of then, from the head that each of them learns from; shaped like `predicted`
    selector: Any  # outputs of then, from the heads that learn, for backups where one selects and another evaluates
    weights: jax.Array  # [H] the weight of each head's loss
    batch_stats: Any  # the trunk's running statistics after this batch
    anchor: Any = None  # outputs of now that the predictions are drawn towards; shaped like `predicted`
    anchor_weight: float = 0.0  # how much the distance to the anchor counts in the loss


class RefreshInfo(NamedTuple):
    """What a source receives after a gradient step."""

    now: Any  # the inputs of this update
    batch_stats: Any  # the running statistics that `values` returned
    losses: jax.Array  # [H] the loss of each head, for sources that choose heads by their losses
    action: Any = (
        None  # [B] the discrete actions of this update; None: the network's inputs have them, or there are none
    )
    errors: Any = None  # [H, B, ...] the absolute difference between prediction and target; None: not told
    weights: Any = None  # [H] the weights that `values` gave to the losses of heads; None: not told


def first_head(state: Any, key: jax.Array | None, values: Any) -> Any:
    """The `select` of a source with one head."""
    return jax.tree.map(lambda x: x[0], values)


def stay(step: jax.Array, tree: Any) -> Any:
    """The `follow` of a source whose learning heads never shift."""
    return tree


class Init(Protocol):
    def __call__(self, key: jax.Array, example: Any) -> tuple[Any, Any]:
        """The parameters and the source's state. Weights that are not trained lie in state["target_params"]."""


class ValuesOf(Protocol):
    def __call__(self, params: Any, state: Any, now: Any, then: Any = None, key: jax.Array | None = None) -> Values:
        """The values of a batch. Without `then` the bootstrap is for the same inputs, and one pass serves both.

        With the key a source draws what it draws at random: the noise of noisy layers, or which members are compared.
        Without a key nothing is drawn.
        """


class Refresh(Protocol):
    def __call__(self, step: jax.Array, params: Any, state: Any, info: RefreshInfo) -> tuple[Any, Any]:
        """Parameters and state after update `step`, counted from 1; the updates that a warm-up leaves out count too."""


class ActValues(Protocol):
    def __call__(self, params: Any, state: Any, key: jax.Array | None, inputs: Any, noisy: bool = False) -> Any:
        """The behaviour head's values [B, A], which the policy follows. Without a key nothing is drawn at random.

        Noisy layers have noise only if `noisy` is true.
        """


class Select(Protocol):
    def __call__(self, state: Any, key: jax.Array | None, values: Any) -> Any:
        """The behaviour head's values [B, A], given the values [H, B, A] of the heads that learn."""


class Follow(Protocol):
    def __call__(self, step: jax.Array, tree: Any) -> Any:
        """Data that belongs to heads, with leaves [H, ...], shifted in the same way as `refresh` shifts the heads."""


class First(Protocol):
    def __call__(self, params: Any, batch_stats: Any) -> tuple[Any, Any]:
        """The first head that learns as a network of its own: {"trunk", "heads"} with one head, and its statistics."""


class LiveBootstrap(Protocol):
    def __call__(self, params: Any, state: Any, then: Any, key: jax.Array | None = None) -> Any:
        """The bootstrap [H, B, A] of `values`, with its gradient by the parameters where it depends on them."""


class Optimiser(Protocol):
    def __call__(self, optimiser: Any, rate: float) -> Any:
        """The optimiser of the source's parameters, made of that of the algorithm, whose first learning rate is `rate`.

        It may have a form of its moments of its own.
        """


class Renew(Protocol):
    def __call__(self, step: jax.Array, moments: Any, state: Any, fresh: Callable[[], Any]) -> Any:
        """The optimiser's moments after the refresh of update `step`, which left the source in this `state`.

        `fresh()` gives new moments for the parameters as they are now.
        """


class Metrics(Protocol):
    def __call__(self, state: Any) -> dict[str, jax.Array]:
        """Numbers about the source for the log, each a scalar."""


def as_the_algorithm(optimiser: Any, rate: float) -> Any:
    """The `optimiser` of a source that leaves its parameters to the algorithm's."""
    return optimiser


def as_they_are(step: jax.Array, moments: Any, state: Any, fresh: Callable[[], Any]) -> Any:
    """The `renew` of a source that leaves the optimiser's moments alone."""
    return moments


def no_metrics(state: Any) -> dict[str, jax.Array]:
    return {}


def first_head_and_trunk(params: Any, batch_stats: Any) -> tuple[Any, Any]:
    """The `first` of a source whose heads share one trunk."""
    return {**params, "heads": part(params["heads"], 0, 1)}, batch_stats


class TargetSource(NamedTuple):
    """The functions work on `params`, which the optimiser updates, and `state`, which it never sees."""

    init: Init
    values: ValuesOf
    refresh: Refresh
    act_values: ActValues
    select: Select = first_head
    shared: tuple[str, ...] = ("trunk",)  # parts of params that all heads share; leaves of the others begin with H
    follow: Follow = stay
    first: First = first_head_and_trunk
    live_bootstrap: LiveBootstrap | None = None  # None: no target depends on weights that learn
    frozen_heads: int = 0  # the number of first heads whose target in `live_bootstrap` does not learn
    network: Network | None = None  # the network that the source was built on
    selects_actions: bool = False  # whether it selects among the actions of one network, which critics do not give
    anchored: bool = False  # whether its values have an anchor, whose term an algorithm has to add to its loss
    optimiser: Optimiser = as_the_algorithm
    renew: Renew = as_they_are
    metrics: Metrics = no_metrics
    losses: tuple[str, ...] = ()  # the name of each head's loss; none: all have the algorithm's
    replaces_heads: bool = False  # whether a refresh puts other heads in the places of some, as `follow` cannot say

    @property
    def meets_the_optimiser(self) -> bool:
        """Whether an algorithm has to ask it for the optimiser and for the moments after a refresh."""
        return self.optimiser is not as_the_algorithm or self.renew is not as_they_are


def optimiser_of(source: TargetSource, optimiser: Any, rate: float, part: str | None = None) -> Any:
    """The optimiser of an algorithm's parameters, of which those named `part`, or all, belong to the source.

    `rate` is the optimiser's first learning rate. A part that belongs to a source with an optimiser or with moments of
    its own has moments apart from the rest.
    """
    if not source.meets_the_optimiser:
        return optimiser
    own = source.optimiser(optimiser, rate)
    if part is None:
        return own

    def apart(tree: Any) -> tuple[Any, Any]:
        return tree[part], {name: leaf for name, leaf in tree.items() if name != part}

    def init(params: Any) -> Any:
        of_source, others = apart(params)
        return {"source": own.init(of_source), "others": optimiser.init(others)}

    def update(gradient: Any, moments: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        (of_source, others), (mine, rest) = apart(gradient), apart(params)
        update, own_moments = own.update(of_source, moments["source"], mine, **extra)
        updates, other_moments = optimiser.update(others, moments["others"], rest, **extra)
        return {**updates, part: update}, {"source": own_moments, "others": other_moments}

    return optax.GradientTransformationExtraArgs(init, update)


def renewed(
    source: TargetSource,
    optimiser: Any,
    step: jax.Array,
    moments: Any,
    state: Any,
    params: Any,
    part: str | None = None,
) -> Any:
    """The moments of `optimiser_of(source, ...)` after the refresh of update `step`.

    `state` is the source's state after it, and `params` are all parameters of that optimiser.
    """
    if not source.meets_the_optimiser:
        return moments
    if part is None:
        return source.renew(step, moments, state, lambda: optimiser.init(params))
    own = source.renew(step, moments["source"], state, lambda: optimiser.init(params)["source"])
    return {**moments, "source": own}


def values_of(
    network: Network, weights: Any, batch_stats: Any, inputs: Any, key: jax.Array | None = None, noisy: bool = False
) -> Any:
    """The values [H, B, A] of a whole network, which have no axis of a distribution."""
    return network.reading.value(evaluate(acting_network(network, key, noisy), weights, batch_stats, inputs))


def acting_network(network: Network, key: jax.Array | None, noisy: bool) -> Network:
    """The network that acts, with noise if it is wanted and there is a key."""
    return network.noisy(jax.random.fold_in(key, NOISE)) if noisy and key is not None else network


def noisy_pair(network: Network, key: jax.Array | None) -> tuple[Network, Network]:
    """The network with the noise for predictions, and with another noise for the bootstrap."""
    if network.with_noise is None or key is None:
        return network, network
    now, then = jax.random.split(key)
    return network.noisy(now), network.noisy(then)


def evaluate(network: Network, weights: Any, batch_stats: Any, inputs: Any) -> Any:
    """The outputs [H, B, A] of a whole network. Batch normalisation uses the network's running statistics."""
    features, _ = network.trunk(weights["trunk"], batch_stats, inputs, False)
    return network.heads(weights["heads"], features)


def predictions(network: Network, params: Any, batch_stats: Any, now: Any, then: Any) -> tuple[Any, Any, Any, Any]:
    """Features and outputs of now, the outputs of then without a gradient, and the trunk's new running statistics.

    Those of then use the running statistics. Without `then` they are those of now.
    """
    features, batch_stats = network.trunk(params["trunk"], batch_stats, now, True)
    batch_stats = jax.lax.stop_gradient(batch_stats)
    predicted = network.heads(params["heads"], features)
    if then is None:
        selector = jax.lax.stop_gradient(predicted)
    else:
        selector = evaluate(network, jax.lax.stop_gradient(params), batch_stats, then)
    return features, predicted, selector, batch_stats


def smallest(reading: Reading, outputs: Any) -> Any:
    """The outputs [...] of the network with the smallest value, from those [N, ...] of N networks.

    It is another network for every input and action. Of distributions it is the one with the smallest mean.
    """

    def of(outputs: jax.Array) -> jax.Array:
        if not reading.shape:
            return outputs.min(axis=0)
        values = reading.value(outputs)
        axis = values.ndim - 1
        return backups.min_over_critics(jnp.moveaxis(outputs, 0, axis), jnp.moveaxis(values, 0, axis))

    return jax.tree.map(of, outputs)


def every(step: jax.Array, period: int, fresh: Callable, stale: Any) -> Any:
    """`fresh()` at every `period`-th step, else `stale`. At the other steps `fresh` is not computed."""
    if period == 1:
        return fresh()
    return jax.lax.cond(step % period == 0, fresh, lambda: stale)


def towards(old: Any, new: Any, fraction: float) -> Any:
    """`old`, moved by a fraction of the way to `new`. The whole way gives an exact copy."""
    if fraction == 1:
        return new
    return jax.tree.map(lambda o, n: o + fraction * (n - o), old, new)


def join(first: Any, rest: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)


def part(tree: Any, start: int | None, stop: int | None) -> Any:
    """Heads `start` to `stop` - 1 of every weight."""
    return jax.tree.map(lambda w: w[start:stop], tree)


def one_down(tree: Any) -> Any:
    """Each head moves to the place below its own. The last head also stays in its old place."""
    return join(part(tree, 1, None), part(tree, -1, None))


def features_of_both(
    network: Network, trunk: Any, batch_stats: Any, now: Any, then: Any, of_then: Network | None = None
) -> tuple[Any, Any, Any]:
    """The trunk's features of now, those of then without a gradient, and the trunk's new running statistics.

    `of_then` is the network with the noise for then, where that has its own. Then there are always two passes.

    Without `then` both are for the same inputs, and there is one pass. A trunk that normalises its batch takes both in
    one pass, so that both are normalised alike. Otherwise two passes compute the same function, and the pass over then
    needs no gradient and keeps no activations.
    """
    if then is None and (of_then is None or of_then is network):
        at_now, batch_stats = network.trunk(trunk, batch_stats, now, True)
        return at_now, jax.lax.stop_gradient(at_now), jax.lax.stop_gradient(batch_stats)
    then = now if then is None else then
    if network.normalises_batch:
        size = jax.tree.leaves(now)[0].shape[0]
        both, batch_stats = network.trunk(trunk, batch_stats, join(now, then), True)
        at_now, at_then = part(both, None, size), part(both, size, None)
    else:
        at_now, batch_stats = network.trunk(trunk, batch_stats, now, True)
        at_then, _ = (of_then or network).trunk(jax.lax.stop_gradient(trunk), batch_stats, then, True)
    return at_now, jax.lax.stop_gradient(at_then), jax.lax.stop_gradient(batch_stats)


def one_per_input(values: jax.Array, head: jax.Array) -> jax.Array:
    """The values [B, ...] of one head for each input, from values [H, B, ...] and head [B]."""
    return jax.vmap(lambda values, head: values[head], in_axes=(1, 0))(values, head)


def select_head(behaviour_head: str, state: Any, key: jax.Array | None, values: Any) -> Any:
    """Values [B, ...] out of [H, B, ...]: "uniform" draws a head for each input; else "mean", or the number of a head.

    Without a key nothing may be drawn, and the mean of all heads takes the place of a drawn head.
    """
    heads, size = jax.tree.leaves(values)[0].shape[:2]
    if heads == 1:
        return first_head(state, key, values)
    if behaviour_head == "uniform" and key is not None:
        head = jax.random.randint(key, (size,), 0, heads)
        return jax.tree.map(lambda x: one_per_input(x, head), values)
    if behaviour_head in ("mean", "uniform"):
        return jax.tree.map(lambda x: x.mean(axis=0), values)
    return jax.tree.map(lambda x: x[int(behaviour_head) - 1], values)


def check_chain(
    length: int, name: str, period: int, behaviour_head: str, loss_weights: tuple[float, ...], loss_discount: float
) -> None:
    """Checks the settings that every chain of heads or networks has."""
    check_count(f"target.{name}", length, most=CHAIN)
    check_period("period", period)
    require(
        behaviour_head in ("uniform", "mean") or behaviour_head in map(str, range(1, length + 1)),
        f"target.behaviour_head is uniform, mean or the number of a head from 1 to {length}, not '{behaviour_head}'",
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


def check_tau(tau: float) -> None:
    require(0 < tau <= 1, f"target.tau must be above 0 and at most 1 (a copy), not {tau}")


def weights_of(loss_weights: tuple[float, ...], loss_discount: float, length: int) -> jax.Array:
    return jnp.array(loss_weights or [loss_discount**k for k in range(length)], jnp.float32)


def without_a_slow_period(tau: float, names: set[str]) -> set[str]:
    """The `handed_on` of a source that can average. Its period of 1 suits no source that only copies or shifts."""
    return names - {"period"} if tau < 1 and "tau" not in names else names
