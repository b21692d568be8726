"""Lookahead-Replicate (Asadi et al., ICML 2024): the target network is trained to give the online network's values.

Lookahead is the ordinary regression of the online network. Replicate, every `lookahead_steps` of them, takes
`replicate_steps` gradient steps on the *target* network, down the squared distance between the two networks'
values of all actions. So the two agree as functions while their parameters may differ.

Each replicate step uses another batch: the source keeps the inputs of the last `replicate_steps` updates, which the
replay drew uniformly. The number of steps, the optimiser and its rate are not known from the paper: these are ours.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.settings import require
from sharedq.targets.source import Seen, TargetSource, Values, check_period, every
from sharedq.targets.target_network import evaluate


@dataclass(frozen=True)
class LookaheadReplicate:
    """A target network that is fitted to the online network's values instead of copied."""

    lookahead_steps: int = 2000  # K_L, gradient steps of the online network between two refreshes
    replicate_steps: int = 20  # K_R, gradient steps of the target network at a refresh
    learning_rate: float = 6.25e-5  # of the target network's own Adam
    adam_epsilon: float = 1.5e-4  # of the target network's own Adam

    def __post_init__(self):
        check_period("lookahead_steps", self.lookahead_steps)
        check_period("replicate_steps", self.replicate_steps)
        require(
            self.replicate_steps <= self.lookahead_steps,
            "target.replicate_steps cannot exceed target.lookahead_steps: each step needs a batch of its own",
        )
        require(self.learning_rate > 0, f"target.learning_rate must be above 0, not {self.learning_rate}")

    def build(self, network: Network) -> TargetSource:
        optimiser = optax.adam(self.learning_rate, eps=self.adam_epsilon)

        def init(key, example):
            trunk, heads, statistics = networks.init(network, key, example, 1)
            params = {"trunk": trunk, "heads": heads}
            target = jax.tree.map(jnp.copy, params)
            recent = jax.tree.map(lambda x: jnp.stack([x] * self.replicate_steps), example)
            return params, {
                "statistics": statistics,
                "target": target,
                "target_statistics": jax.tree.map(jnp.copy, statistics),
                "optimiser": optimiser.init(target),
                "recent": recent,
            }

        def values(params, state, now, then):
            at_now, statistics = network.trunk(params["trunk"], state["statistics"], now, True)
            target = {**state["target"], "statistics": state["target_statistics"]}
            return Values(
                network.heads(params["heads"], at_now),
                jax.lax.stop_gradient(evaluate(network, target, then)),
                jax.lax.stop_gradient(evaluate(network, {**params, "statistics": statistics}, then)),
                jnp.ones(1),
                statistics,
            )

        def replicate(params, state, statistics):
            online = {**params, "statistics": statistics}

            def step(carry, inputs):
                target, moments = carry
                wanted = evaluate(network, online, inputs)

                def distance(target):
                    return jnp.mean((evaluate(network, {**target, "statistics": statistics}, inputs) - wanted) ** 2)

                updates, moments = optimiser.update(jax.grad(distance)(target), moments, target)
                return (optax.apply_updates(target, updates), moments), None

            (target, moments), _ = jax.lax.scan(step, (state["target"], state["optimiser"]), state["recent"])
            return {"target": target, "optimiser": moments, "target_statistics": statistics}

        def refresh(step, params, state, seen: Seen):
            place = step % self.replicate_steps
            recent = jax.tree.map(lambda kept, x: kept.at[place].set(x), state["recent"], seen.now)
            state = {**state, "statistics": seen.statistics, "recent": recent}
            stale = {name: state[name] for name in ("target", "optimiser", "target_statistics")}
            fitted = every(step, self.lookahead_steps, lambda: replicate(params, state, seen.statistics), stale)
            return params, {**state, **fitted}

        def act_values(params, state, key, inputs):
            return evaluate(network, {**params, "statistics": state["statistics"]}, inputs)[0]

        return TargetSource(init, values, refresh, act_values)
