"""Lookahead-Replicate (Asadi et al., ICML 2024): the target network is trained to give the online network's values.

Lookahead is the ordinary regression of the online network. Replicate happens after every `period` of these updates. It
takes `replicate_steps` gradient steps on the *target* network, which minimise the distance between what the two
networks say. So the two networks come to give equal values, while their parameters can differ. They can even be of
different architectures.

Each replicate step uses another batch. The source keeps the inputs of the last `replicate_steps` updates, which the
replay drew uniformly. If a refresh comes before there are that many, it takes one step for each batch that there is. We
do not know the paper's number of steps, its optimiser or its learning rate: these are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from sharedq.bellman import backups, readings
from sharedq.bellman.readings import Reading
from sharedq.networks import NETWORKS
from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.optimizers import gradient_step
from sharedq.settings import chosen, make, require
from sharedq.tables import Table, needs_import
from sharedq.targets.source import TargetSource, check_period, evaluate, every
from sharedq.targets.target_network import TargetNetwork, values_of_two

Actions = Literal["all", "replay", "greedy"]


@dataclass(frozen=True)
class LookaheadReplicate:
    """A target network that is fitted to the online network's values instead of copied."""

    period: int = 2000  # K_L, gradient steps of the online network between two refreshes
    replicate_steps: int = 20  # K_R, gradient steps of the target network at a refresh
    learning_rate: float = 6.25e-5  # learning rate of the target network's own Adam
    adam_epsilon: float = 1.5e-4  # added to the denominator of the target network's own Adam
    actions: Actions = "all"  # whose values are fitted: all actions, those of the replay, or the greedy ones
    distance: Literal["values", "distributions"] = "values"  # squared difference of values, or cross entropy
    network: str | None = None  # architecture of the target network, such as dense:hidden=32; none: the same

    def __post_init__(self):
        check_period("period", self.period)
        check_period("replicate_steps", self.replicate_steps)
        require(
            self.replicate_steps <= self.period,
            "target.replicate_steps cannot exceed target.period: each step needs a batch of its own",
        )
        require(self.learning_rate > 0, f"target.learning_rate must be above 0, not {self.learning_rate}")
        require(self.adam_epsilon > 0, f"target.adam_epsilon must be above 0, not {self.adam_epsilon}")

    @property
    def label(self) -> str:
        return "lookahead-replicate"

    @property
    def second_network(self) -> str | None:
        """The architecture that `build` is given a second network of."""
        return self.network

    def imports(self) -> list[str]:
        """The import strings of code that building the target network imports and runs."""
        if self.network is None:
            return []
        kind, fields = chosen(self.network, NETWORKS)
        if needs_import(kind):
            return [kind]
        made = make(Table("network", NETWORKS), (kind, fields))
        return made.imports() if hasattr(made, "imports") else []

    def build(self, network: Network, second: Network | None = None) -> TargetSource:
        """The source on a network, whose target network is `second` or of the same architecture."""
        target = second or network
        require(
            network.with_noise is None,
            "target 'lookahead_replicate' fits a network without noise: leave network.noisy out",
        )
        require(
            second is None or not second.normalises_batch,
            "target.network cannot normalise by the batch, because the running statistics of a target network of "
            "another architecture are never learned: choose another norm",
        )
        require(
            self.distance == "values" or bool(network.reading.shape),
            "target.distance distributions needs values that are distributions: add --algorithm.values categorical",
        )
        optimiser = optax.adam(self.learning_rate, eps=self.adam_epsilon)
        copied = TargetNetwork(self.period).build(network)  # the same but for the second network

        def init(key, example):
            params, state = copied.init(key, example)
            if second is not None:
                trunk, heads, stats = networks.init(second, jax.random.fold_in(key, 1), example, 1)
                own = {"trunk": trunk, "heads": heads}
                _check_outputs(network, second, (params, state["batch_stats"]), (own, stats), example)
                state = {**state, "target_params": own, "target_batch_stats": stats}
            recent = jax.tree.map(lambda x: jnp.stack([x] * self.replicate_steps), example)
            filled = jnp.zeros(self.replicate_steps, bool)
            state = {**state, "optimiser": optimiser.init(state["target_params"]), "recent": recent, "filled": filled}
            if self.actions == "replay":
                size = jax.tree.leaves(example)[0].shape[0]
                state["recent_action"] = jnp.zeros((self.replicate_steps, size), jnp.int32)
            return params, state

        def distance(target_params, batch_stats, inputs, action, wanted):
            found = evaluate(target, target_params, batch_stats, inputs)
            each = partial(distance_of, self.distance, network.reading, self.actions)
            return optax.tree.sum(jax.tree.map(lambda v, w: jnp.mean(each(v, w, action)), found, wanted))

        def replicate(params, state, batch_stats):
            # The statistics of the target network are those that the online network has now, or its own.
            own_stats = batch_stats if second is None else state["target_batch_stats"]

            def fit(target_params, moments, inputs, action):
                wanted = evaluate(network, params, batch_stats, inputs)
                slope = jax.grad(distance)(target_params, own_stats, inputs, action, wanted)
                return gradient_step(optimiser, slope, moments, target_params)

            def step(carry, recent):
                inputs, action, filled = recent
                return jax.lax.cond(filled, lambda: fit(carry[0], carry[1], inputs, action), lambda: carry), None

            recent = state["recent"], state.get("recent_action"), state["filled"]
            (target_params, moments), _ = jax.lax.scan(step, (state["target_params"], state["optimiser"]), recent)
            return {"target_params": target_params, "target_batch_stats": own_stats, "optimiser": moments}

        def refresh(step, params, state, info):
            place = step % self.replicate_steps
            recent = jax.tree.map(lambda kept, x: kept.at[place].set(x), state["recent"], info.now)
            filled = state["filled"].at[place].set(True)
            state = {**state, "batch_stats": info.batch_stats, "recent": recent, "filled": filled}
            if self.actions == "replay":
                state["recent_action"] = state["recent_action"].at[place].set(info.action)
            stale = {name: state[name] for name in ("target_params", "target_batch_stats", "optimiser")}
            fitted = every(step, self.period, lambda: replicate(params, state, info.batch_stats), stale)
            return params, {**state, **fitted}

        values, selects = partial(values_of_two, network, target), self.actions != "all"
        return TargetSource(init, values, refresh, copied.act_values, selects_actions=selects)


def distance_of(
    kind: str, reading: Reading, actions: Actions, outputs: jax.Array, wanted: jax.Array, action: jax.Array | None
) -> jax.Array:
    """The distance of outputs from other ones, both [1, B, A, *reading.shape], for all actions or for those chosen.

    `action` [B] are those of the replay.
    """
    between: Callable = readings.distance if kind == "distributions" else _squared
    if actions != "all":
        assert action is not None or actions == "greedy"
        chosen = reading.value(wanted).argmax(axis=-1) if action is None else action[None]
        outputs, wanted = (backups.of_action(x, chosen, len(reading.shape)) for x in (outputs, wanted))
    return between(reading, outputs, wanted)


def _squared(reading: Reading, outputs: jax.Array, wanted: jax.Array) -> jax.Array:
    return jnp.square(reading.value(outputs) - reading.value(wanted))


def _check_outputs(network: Network, second: Network, one: Any, other: Any, example: Any) -> None:
    """Raises if two networks with these weights and running statistics give outputs of different shapes."""
    forms = [
        jax.tree.map(lambda x: x.shape, jax.eval_shape(partial(evaluate, built), *weights, example))
        for built, weights in ((network, one), (second, other))
    ]
    require(
        forms[0] == forms[1],
        f"target.network gives outputs of shape {forms[1]}, and the online network {forms[0]}: they must be equal",
    )
