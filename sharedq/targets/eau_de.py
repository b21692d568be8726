"""Eau De Q-Network (Vincent et al., 2025): networks of different sparsity compete, so that learning sets the sparsity.

As in `adaptive`, K networks learn from one target network, which becomes a copy of the one with the smallest sum of
errors. All networks are then replaced by that one: the first by the network as it is, and each other one by a version
of it that has lost more weights. So where pruning costs accuracy the first network wins, and pruning pauses.

The paper's distribution of how much a network loses is not public. Ours has the names and bounds of its settings:

    s_k = min( 1 - (1 - s) (1 - T / (horizon - t))^u_k,  s + max_speed,  max_sparsity )    u_k drawn from 0 .. max_noise
    s_k = min( s + max_speed u_k,  max_sparsity )                                          u_k drawn from 0 .. 1

The first is `poly`, for update t and the period T. With u = 3 in each period it is the cubic schedule that ends at a
sparsity of 1 at the horizon. The second is `linear`.

Shape letters: K networks.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.settings import check_count, check_shares, require
from sharedq.targets.adaptive import check_contest, contest, one_each, smallest_sum, taken
from sharedq.targets.pruning import (
    Distribution,
    all_kept,
    check_no_noise,
    check_prunable,
    left_of,
    masks_of,
    pruned,
    pruned_moments,
    ranks,
    uses_of_weights,
)
from sharedq.targets.source import TargetSource, every

HEADS = ("heads",)  # the part whose leaves begin with an axis of heads
DRAW = 1  # folded into the key of a refresh


@dataclass(frozen=True)
class EauDe:
    """EauDeQN: networks of growing sparsity compete for the target, so that pruning goes only as fast as it can."""

    networks: int = 5  # K, the number of networks that learn; two at least
    period: int = 2000  # gradient steps between two refreshes of the target, at which networks are pruned
    schedule: Literal["poly", "linear"] = "poly"  # how the sparsity of networks is drawn; linear needs no horizon
    max_noise: float = 3.0  # poly: the largest exponent that is drawn
    max_speed: float = 0.01  # the most that a network's sparsity grows at a refresh
    horizon: int = 2_500_000  # poly: updates of the whole run
    max_sparsity: float = 0.99  # no network is pruned further
    distribution: Distribution = "uniform"  # the same sparsity in each layer, or erk: less in small layers
    reset_optimiser: bool = True  # whether all moments of the optimiser begin anew at a refresh
    behaviour_network: str = "loss"  # network that acts: loss (drawn, often if its loss is small), mean, or a number

    def __post_init__(self):
        check_contest("eau_de", self.networks, self.period, self.behaviour_network)
        check_shares("target", self, "max_speed", "max_sparsity")
        check_count("target.horizon", self.horizon)
        require(self.max_noise >= 0, f"target.max_noise cannot be negative: {self.max_noise}")

    @property
    def label(self) -> str:
        return f"Eau de Q K={self.networks}"

    def remarks(self, experiment: Any, spec: Any):
        updates = experiment.training.updates
        if self.schedule == "poly" and not 0.9 * updates <= self.horizon <= 1.1 * updates:
            yield (
                f"pruning is planned for {self.horizon:,} updates, and there are {updates:,}: set --target.horizon "
                f"{updates}"
            )

    def sparsities(self, key: jax.Array, step: jax.Array, sparsity: jax.Array) -> jax.Array:
        """The sparsities [K] of the networks that follow one of this sparsity, at the refresh of update `step`."""
        draws = jax.random.uniform(key, (self.networks - 1,))
        if self.schedule == "linear":
            drawn = sparsity + self.max_speed * draws
        else:
            left = jnp.maximum(self.horizon - step, self.period).astype(jnp.float32)
            drawn = 1 - (1 - sparsity) * (1 - self.period / left) ** (self.max_noise * draws)
        highest = jnp.minimum(sparsity + self.max_speed, self.max_sparsity)
        return jnp.concatenate([sparsity[None], jnp.maximum(jnp.minimum(drawn, highest), sparsity)])

    def build(self, network: Network) -> TargetSource:
        check_no_noise("eau_de", network)

        def origin(key: jax.Array, losses: jax.Array) -> jax.Array:
            return jnp.full(self.networks, smallest_sum(losses))

        base = contest(network, self.networks, self.period, self.behaviour_network, origin)

        def init(key, example):
            params, state = base.init(key, example)
            check_prunable("eau_de", params)
            first = jnp.zeros(self.networks, jnp.int32)
            params, state["batch_stats"] = taken((params, state["batch_stats"]), first)
            masks = all_kept(params)
            left = left_of(taken(masks, 0), uses(params, state["batch_stats"], example))
            return params, {**state, "masks": masks, "sparsity": jnp.zeros(self.networks), "left": left}

        def uses(params, batch_stats, inputs):
            """The uses of the weights of one network."""
            return uses_of_weights(network, taken(params, 0), taken(batch_stats, 0), inputs)

        def values(params, state, now, then=None, key=None):
            return base.values(pruned(params, state["masks"]), state, now, then, key)

        def refresh(step, params, state, info):
            params, after = base.refresh(step, params, state, info)
            best = after["sums"].chosen

            def children():
                key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), step)
                sparsity = self.sparsities(jax.random.fold_in(key, DRAW), step, state["sparsity"][best])
                whole, kept = taken(params, 0), taken(state["masks"], best)
                rank = ranks(whole, kept, HEADS)
                masks = jax.vmap(lambda s: masks_of(rank, s, self.distribution, HEADS))(sparsity)
                masks = jax.tree.map(lambda mask, kept: (mask & kept).at[0].set(kept), masks, kept)
                return pruned(params, masks), masks, sparsity, left_of(kept, uses(params, info.batch_stats, info.now))

            stale = params, state["masks"], state["sparsity"], state["left"]
            params, masks, sparsity, left = every(step, self.period, children, stale)
            return params, {**after, "masks": masks, "sparsity": sparsity, "left": left}

        def renew(step, moments, state, fresh):
            def again():
                if self.reset_optimiser:
                    return fresh()
                return pruned_moments(taken(moments, state["sums"].origin), state["masks"])

            return every(step, self.period, again, moments)

        def metrics(state):
            return {**base.metrics(state), **state["left"].metrics()}

        return base._replace(
            init=init,
            values=values,
            refresh=refresh,
            optimiser=lambda optimiser, rate: one_each(optimiser, jnp.ones(self.networks)),
            renew=renew,
            metrics=metrics,
            replaces_heads=True,
        )
