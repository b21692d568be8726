"""Behaviour cloning: the policy under which the data's actions are most likely.

It asks no source for targets and learns no values, so it is the reference for algorithms that do: what they add to
imitation.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sharedq.algorithms.algorithm import Algorithm, Judgement
from sharedq.algorithms.parts import check_actions, policy_on
from sharedq.algorithms.writing import (
    PARTS,
    check_training,
    imitation,
    in_parts,
    log_probabilities,
    policy_reader,
    tokens_of,
    write,
    written_behind,
)
from sharedq.environments.spec import Discrete, EnvironmentSpec, Tokens
from sharedq.networks.gpt2 import LanguageModel
from sharedq.networks.policies import Policy
from sharedq.optimizers import adam, gradient_step
from sharedq.settings import LAYERS, WIDTH, check_count, check_shares, require
from sharedq.transcripts import decisions
from sharedq.transitions import Batch


class State(NamedTuple):
    params: Any  # the policy's
    actor_batch_stats: Any  # running statistics of the policy's batch normalisation
    optimiser: Any


@dataclass(frozen=True)
class BC:
    """Behaviour cloning, for discrete and continuous actions, and for text. It ignores --target."""

    uses_target: ClassVar = False
    label: ClassVar = "behaviour cloning"

    gamma: float = 0.99  # discount of future rewards, per step; behaviour cloning learns from no reward
    learning_rate: float = 3e-4  # Adam's learning rate
    adam_epsilon: float = 1e-8  # added to Adam's denominator
    accumulate: int = 1  # text: parts of a batch, one after another in memory; their gradients are averaged
    actor_width: int = 256  # continuous actions: width of the policy's layers, which are of the network's type
    actor_depth: int = 2  # continuous actions: number of layers or blocks of the policy

    def __post_init__(self):
        check_shares("algorithm", self, "gamma")
        for name in ("learning_rate", "adam_epsilon"):
            require(getattr(self, name) > 0, f"algorithm.{name} must be above 0, not {getattr(self, name)}")
        check_count("algorithm.accumulate", self.accumulate, most=PARTS)
        check_count("algorithm.actor_width", self.actor_width, most=WIDTH)
        check_count("algorithm.actor_depth", self.actor_depth, least=0, most=LAYERS)

    def check(self, experiment: Any, spec: EnvironmentSpec) -> None:
        check_training(spec, experiment.training)

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        if isinstance(spec.actions, Tokens):
            form, settings = tokens_of(spec, network, "BC")
            return self.on_text(settings.language_model(form.vocabulary), form, settings.dropout > 0)
        check_actions(spec, "BC")
        policy = policy_on(spec, network, "gaussian", self.actor_width, self.actor_depth)
        return self.on(policy, isinstance(spec.actions, Discrete))

    def on(self, policy: Policy, discrete: bool) -> Algorithm:
        """The algorithm on a policy that is built."""
        optimiser = adam(self.learning_rate, self.adam_epsilon, None)

        def init(key: jax.Array, example: Batch) -> State:
            params, batch_stats = policy.init(key, example.transition.obs)
            return State(params, batch_stats, optimiser.init(params))

        def distribution(state: State, obs: Any) -> Any:
            return policy.distribution(state.params, state.actor_batch_stats, obs, False)[0]

        def act(state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
            d = distribution(state, obs)
            return policy.mode(d) if step is None else policy.sample(key, d)[0]

        def decide(state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
            d = distribution(state, obs)
            action = policy.mode(d)
            return action, jax.nn.log_softmax(d) if discrete else policy.log_density(d, action)

        def values(state: State, key: jax.Array | None, obs: Any) -> jax.Array:
            """Log probabilities of the actions [N, A], or the log density of the action taken [N]."""
            return decide(state, obs)[1]

        def update(state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, jax.Array, dict]:
            clone = partial(negative_log_density, policy, weights=batch.weights)
            gradient = jax.value_and_grad(clone, has_aux=True)
            sample = batch.transition
            (total, info), slope = gradient(state.params, state.actor_batch_stats, sample.obs, sample.action)
            params, moments = gradient_step(optimiser, slope, state.optimiser, state.params)
            action = policy.mode(info.d)
            if discrete:
                metrics = {"accuracy": jnp.mean(action == sample.action)}
            else:
                metrics = {"action_error": jnp.abs(action - sample.action).mean()}
            state = State(params, info.batch_stats, moments)
            return state, -info.log_density[None], {"loss": total, **metrics}

        return Algorithm(init, act, values, decide, update=update)

    def on_text(self, model: LanguageModel, form: Tokens, dropout: bool) -> Algorithm:
        """The algorithm on a language model that is built."""
        optimiser = adam(self.learning_rate, self.adam_epsilon, None)

        def init(key: jax.Array, example: Batch) -> State:
            params = model.init(key)
            return State(params, {}, optimiser.init(params))

        def act(state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
            return write(form, policy_reader(model, state.params), obs, None if step is None else key)

        def values(state: State, key: jax.Array | None, obs: Any) -> jax.Array:
            """The log probability [N] of the likeliest first token."""
            scores, _ = policy_reader(model, state.params).start(obs, (obs != form.pad).sum(axis=1))
            return scores.max(axis=-1)

        def decide(state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
            return write(form, policy_reader(model, state.params), obs, None), values(state, None, obs)

        def judge(state: State, obs: Any, action: Any) -> Judgement:
            found = log_probabilities(model, state.params, *written_behind(form, obs, action), action)
            found = jnp.where(action == form.pad, 0, found)
            without = jnp.zeros((0, *action.shape))
            return Judgement(found, found, without, without)

        def update(state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, jax.Array, dict]:
            def of_part(batch: Batch, key: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
                tokens = batch.transition.obs

                def of(params: Any) -> tuple[jax.Array, jax.Array]:
                    written = decisions(form, tokens)
                    return imitation(model, params, tokens, written, batch.weights, key if dropout else None)

                told, slope = jax.value_and_grad(of, has_aux=True)(state.params)
                return slope, told

            slope, told = in_parts(of_part, batch, key, self.accumulate)
            total, accuracy = (x.mean() for x in told)
            params, moments = gradient_step(optimiser, slope, state.optimiser, state.params)
            errors = jnp.broadcast_to(total, (1, len(batch.weights)))
            return State(params, {}, moments), errors, {"loss": total, "accuracy": accuracy}

        return Algorithm(init, act, values, decide, update=update, judge=judge)


class CloneInfo(NamedTuple):
    log_density: jax.Array  # [B] of the data's actions
    d: Any  # the policy's distribution for each observation
    batch_stats: Any


def negative_log_density(
    policy: Policy, params: Any, batch_stats: Any, obs: Any, action: jax.Array, weights: jax.Array
) -> tuple[jax.Array, CloneInfo]:
    """The loss of imitation: minus the log density of the data's actions, times a weight [B] for each."""
    d, batch_stats = policy.distribution(params, batch_stats, obs, True)
    log_density = policy.log_density(d, action)
    return -jnp.mean(weights * log_density), CloneInfo(log_density, d, batch_stats)
