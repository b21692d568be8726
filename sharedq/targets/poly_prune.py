"""PolyPruneQN, the fixed schedule that `eau_de` is compared with: any source, whose weights are pruned as time passes.

    sparsity(t) = final_sparsity (1 - (1 - p)^3)        p = (t - begin) / (end - begin), within 0 .. 1

This is the polynomial schedule of Zhu & Gupta (2017), as in jaxpruner. Every `prune_period` updates from `begin` to
`end`, the smallest weights of each layer are set to zero. They stay there, and so do their moments.

Each head or network has a mask of its own, which moves with it where the source shifts heads. An average of two heads
keeps what one of them keeps, until the next pruning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.settings import check_count, check_shares, chosen, make, require
from sharedq.tables import Table
from sharedq.targets.adaptive import taken
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
from sharedq.targets.source import TargetSource, check_period, stay

NOT_PRUNED = ("poly_prune", "eau_de", "adaptive")  # they prune by themselves, or put networks in others' places


@dataclass(frozen=True)
class PolyPrune:
    """Any other source, whose weights are pruned on a fixed schedule to a given sparsity."""

    source: str = "target_network"  # the source whose networks are pruned, such as shared_heads:heads=9
    final_sparsity: float = 0.95  # share of the weights of layers that is pruned in the end
    begin: int = 500_000  # update at which pruning begins
    end: int = 2_000_000  # update from which the sparsity is the final one
    prune_period: int = 1000  # gradient steps between two prunings
    distribution: Distribution = "uniform"  # the same sparsity in each layer, or erk: less in small layers

    def __post_init__(self):
        check_shares("target", self, "final_sparsity")
        check_count("target.begin", self.begin, least=0)
        check_period("prune_period", self.prune_period)
        require(self.end > self.begin, f"target.end {self.end} must come after target.begin {self.begin}")
        check_count("target.end", self.end)
        self.inner  # noqa: B018  raises if there is no such source

    @property
    def inner(self) -> Any:
        """The settings of the source whose networks are pruned."""
        from sharedq.targets import SOURCES  # they are all known only when this file has been imported

        allowed = {name: kind for name, kind in SOURCES.items() if name not in NOT_PRUNED}
        given = chosen(self.source, allowed)
        require(
            given.kind in allowed,
            f"target.source cannot be '{given.kind}': choose one of {', '.join(allowed)}",
        )
        return make(Table("target", allowed), given)

    @property
    def label(self) -> str:
        return f"pruned {self.inner.label}"

    @property
    def second_network(self) -> str | None:
        return getattr(self.inner, "second_network", None)

    def imports(self) -> list[str]:
        return self.inner.imports() if hasattr(self.inner, "imports") else []

    def remarks(self, experiment: Any, spec: Any) -> Iterator[str]:
        updates = experiment.training.updates
        if self.end > updates:
            yield (
                f"the sparsity reaches {float(self.sparsity(updates)):.2f} and not {self.final_sparsity:g}, because "
                f"there are {updates:,} updates: set --target.begin {updates // 5} and --target.end {updates * 4 // 5}"
            )

    def sparsity(self, step: Any) -> jax.Array:
        """The sparsity at an update."""
        passed = jnp.clip((step - self.begin) / (self.end - self.begin), 0, 1)
        return self.final_sparsity * (1 - (1 - passed) ** 3)

    def build(self, network: Network, *second: Network) -> TargetSource:
        check_no_noise("poly_prune", network)
        inner = self.inner.build(network, *second)
        require(
            not inner.meets_the_optimiser and not inner.replaces_heads,
            f"target.source '{self.source}' puts networks in others' places, and masks cannot follow: choose another",
        )
        apart = {"trunk", "heads"} - set(inner.shared)  # each head has a mask of its own in these

        def init(key, example):
            params, state = inner.init(key, example)
            check_prunable("poly_prune", params)
            masks = all_kept(params)
            left = left_of(masks, uses(params, state["batch_stats"], example))
            return params, {**state, "masks": masks, "left": left}

        def uses(params, batch_stats, inputs):
            alone = "trunk" in inner.shared
            one, stats = (params, batch_stats) if alone else taken((params, batch_stats), 0)
            return uses_of_weights(network, one, stats, inputs)

        def values(params, state, now, then=None, key=None):
            return inner.values(pruned(params, state["masks"]), state, now, then, key)

        def refresh(step, params, state, info):
            params, after = inner.refresh(step, params, state, info)
            masks = moved(step, state["masks"])
            # Behind `end` this finds the same masks again, unless the first update comes later than that. What depends
            # on the step alone is a branch also where seeds learn side by side.
            due = (step >= self.begin) & ((step - self.begin) % self.prune_period == 0)

            def fewer():
                rank = ranks(params, masks, apart)
                found = masks_of(rank, self.sparsity(step), self.distribution, apart)
                found = jax.tree.map(jnp.logical_and, found, masks)
                return found, left_of(found, uses(params, info.batch_stats, info.now))

            masks, left = jax.lax.cond(due | (step == self.end), fewer, lambda: (masks, state["left"]))
            return pruned(params, masks), {**after, "masks": masks, "left": left}

        def moved(step: jax.Array, masks: Any) -> Any:
            """The masks, shifted like the heads that they belong to."""
            if inner.follow is stay:
                return masks
            own = {part: mask for part, mask in masks.items() if part not in inner.shared}
            numbers = jax.tree.map(lambda mask: mask.astype(jnp.float32), own)
            return {**masks, **jax.tree.map(lambda mask: mask > 0, inner.follow(step, numbers))}

        def renew(step, moments, state, fresh):
            return pruned_moments(inner.renew(step, moments, state, fresh), state["masks"])

        def metrics(state):
            return {**inner.metrics(state), **state["left"].metrics()}

        return inner._replace(
            init=init, values=values, refresh=refresh, renew=renew, metrics=metrics, live_bootstrap=None
        )
