"""Lookahead-Replicate (Asadi et al., ICML 2024): the target network is trained to give the online network's values.

Lookahead is the ordinary regression of the online network. Replicate happens after every `period` of these updates. It
takes `replicate_steps` gradient steps on the *target* network, which minimise the squared distance between the two
networks' values (of all actions, if these are discrete). So the two networks come to give equal values, while their
parameters can differ.

Each replicate step uses another batch. The source keeps the inputs of the last `replicate_steps` updates, which the
replay drew uniformly. If a refresh comes before there are that many, it takes one step for each batch that there is. We
do not know the paper's number of steps, its optimiser or its learning rate: these are ours.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from sharedq.networks.network import Network
from sharedq.optimizers import gradient_step
from sharedq.settings import require
from sharedq.targets.source import TargetSource, check_period, evaluate, every
from sharedq.targets.target_network import TargetNetwork


@dataclass(frozen=True)
class LookaheadReplicate:
    """A target network that is fitted to the online network's values instead of copied."""

    period: int = 2000  # K_L, gradient steps of the online network between two refreshes
    replicate_steps: int = 20  # K_R, gradient steps of the target network at a refresh
    learning_rate: float = 6.25e-5  # learning rate of the target network's own Adam
    adam_epsilon: float = 1.5e-4  # added to the denominator of the target network's own Adam

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

    def build(self, network: Network) -> TargetSource:
        optimiser = optax.adam(self.learning_rate, eps=self.adam_epsilon)

        copied = TargetNetwork(self.period).build(network)  # the same but for the refresh of the second network

        def init(key, example):
            params, state = copied.init(key, example)
            recent = jax.tree.map(lambda x: jnp.stack([x] * self.replicate_steps), example)
            filled = jnp.zeros(self.replicate_steps, bool)
            moments = optimiser.init(state["target_params"])
            return params, {**state, "optimiser": moments, "recent": recent, "filled": filled}

        def replicate(params, state, batch_stats):
            def fit(target_params, moments, inputs):
                wanted = evaluate(network, params, batch_stats, inputs)

                def distance(target_params):
                    values = evaluate(network, target_params, batch_stats, inputs)
                    return optax.tree.sum(jax.tree.map(lambda v, w: jnp.mean((v - w) ** 2), values, wanted))

                return gradient_step(optimiser, jax.grad(distance)(target_params), moments, target_params)

            def step(carry, recent):
                inputs, filled = recent
                return jax.lax.cond(filled, lambda: fit(carry[0], carry[1], inputs), lambda: carry), None

            recent = (state["recent"], state["filled"])
            (target_params, moments), _ = jax.lax.scan(step, (state["target_params"], state["optimiser"]), recent)
            return {"target_params": target_params, "target_batch_stats": batch_stats, "optimiser": moments}

        def refresh(step, params, state, info):
            place = step % self.replicate_steps
            recent = jax.tree.map(lambda kept, x: kept.at[place].set(x), state["recent"], info.now)
            filled = state["filled"].at[place].set(True)
            state = {**state, "batch_stats": info.batch_stats, "recent": recent, "filled": filled}
            stale = {name: state[name] for name in ("target_params", "target_batch_stats", "optimiser")}
            fitted = every(step, self.period, lambda: replicate(params, state, info.batch_stats), stale)
            return params, {**state, **fitted}

        return TargetSource(init, copied.values, refresh, copied.act_values)
