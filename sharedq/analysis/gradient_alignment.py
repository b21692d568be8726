"""Gradient alignment: how well the gradient of a source agrees with the gradient that a target network would give.

Both gradients are computed for the same parameters and the same batch. The target network that they are compared with
is a copy of the first head and its trunk, which moves like the copy of `--target target_network`. Where the source
itself has one, it is the same copy, and the alignment is 1.

As in the public iS-DQN code, the cosine is taken over all parameters but those of normalisation layers, and of the
last layer only over the first head's. The gradient is that of the whole loss, with all heads. Of several networks it is
that of the first network, also in an update in which another one learns.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import (
    Measure,
    UpdateInfo,
    check_serves,
    first_network,
    network_of,
    source_params,
    with_source_params,
)
from sharedq.targets import OnlineNetwork, TargetNetwork
from sharedq.targets.source import RefreshInfo, TargetSource
from sharedq.transitions import Batch

SMALLEST = 1e-9  # added to the product of two norms, as in the public iS-DQN code


@dataclass(frozen=True)
class GradientAlignment:
    """The cosine between the gradient of the loss and the gradient that a target network would give."""

    period: int | None = None  # gradient steps between two refreshes of the target network; none: as the source's own
    tau: float | None = None  # how far the target network moves at a refresh; none: as the source's own

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        check_serves("gradient_alignment", algorithm, "loss", "learn", "source", "on")
        source, network = algorithm.source, network_of("gradient_alignment", algorithm)
        assert source is not None and algorithm.on is not None
        period = getattr(target, "period", TargetNetwork.period) if self.period is None else self.period
        tau = getattr(target, "tau", TargetNetwork.tau) if self.tau is None else self.tau
        target_network = TargetNetwork(period, tau).build(network)
        online = OnlineNetwork().build(network)
        with_target, without = algorithm.on(target_network), algorithm.on(online)
        itself = algorithm if source.shared else algorithm.on(all_weigh_alike(source))

        def init(agent: Any) -> Any:
            params, batch_stats = first_network(algorithm, agent)
            copy, stats = jax.tree.map(jnp.copy, (params, batch_stats))
            return {"target_params": copy, "target_batch_stats": stats}

        def follow(kept: Any, agent: Any, info: RefreshInfo, step: jax.Array) -> Any:
            params, batch_stats = source.first(source_params(algorithm, agent.params), info.batch_stats)
            state = {**kept, "batch_stats": batch_stats}
            _, state = target_network.refresh(step, params, state, RefreshInfo(info.now, batch_stats, info.losses))
            return {name: state[name] for name in kept}

        def at_update(kept: Any, info: UpdateInfo) -> dict[str, jax.Array]:
            agent = info.before
            params, batch_stats = first_network(algorithm, agent)
            of_target = {**kept, "batch_stats": batch_stats}
            reference = gradient(with_target, agent, params, of_target, info.batch, info.key)
            target_free = gradient(without, agent, params, {"batch_stats": batch_stats}, info.batch, info.key)
            whole = gradient(itself, agent, source_params(algorithm, agent.params), agent.source, info.batch, info.key)
            own, _ = source.first(whole, {})
            return {
                "gradient_alignment": cosine(own, reference),
                "gradient_alignment_target_free": cosine(target_free, reference),
            }

        names = ("gradient_alignment", "gradient_alignment_target_free")
        return Measure(names, at_update, init=init, follow=follow)


def all_weigh_alike(source: TargetSource) -> TargetSource:
    """The source with equal weights. That scales the gradient of each network, and turns none of them."""

    def values(params, state, now, then=None, key=None):
        found = source.values(params, state, now, then, key)
        return found._replace(weights=jnp.ones_like(found.weights))

    return source._replace(values=values)


def gradient(algorithm: Algorithm, agent: Any, params: Any, state: Any, batch: Batch, key: jax.Array) -> Any:
    """The gradient of an algorithm's loss by the parameters of its source, which are in this state."""
    loss = algorithm.loss
    assert loss is not None
    agent = agent._replace(source=state)

    def total(own: Any) -> jax.Array:
        return loss(with_source_params(algorithm, agent.params, own), agent, batch, key)[0]

    return jax.grad(total)(params)


def cosine(one: Any, other: Any) -> jax.Array:
    """The cosine of the angle between two gradients, without the parameters of normalisation layers."""
    pairs = [
        (x.ravel(), y.ravel())
        for (path, x), y in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
        if "norm" not in jax.tree_util.keystr(path).lower()
    ]
    product, square, other_square = (sum(jnp.vdot(*pair) for pair in several) for several in _pairings(pairs))
    return product / (jnp.sqrt(square) * jnp.sqrt(other_square) + SMALLEST)


def _pairings(pairs: list[tuple[jax.Array, jax.Array]]) -> tuple[list, list, list]:
    return pairs, [(x, x) for x, _ in pairs], [(y, y) for _, y in pairs]
