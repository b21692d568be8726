"""Soft actor-critic on any source of targets (Haarnoja et al., 2018).

    Q_h(s, a) <- r + discount * ( min_c bootstrap_hc(s', a') - alpha log pi(a'|s') )        a' drawn from pi(s')
    pi        <- the policy that raises  min_c Q_c(s, a) - alpha log pi(a|s)                 a drawn from pi(s)

The critics c are an axis of the network, the heads h are the source's. With `online_network` as the source and batch
renormalisation in the network this is CrossQ; with SimbaV2 as the network, distributions for values and both
normalisers it is SimbaV2's agent.

Shape letters: H heads, B batch, C critics, A dimensions of an action, N environments.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq import normalisers
from sharedq.algorithms.algorithm import Algorithm, no_observation
from sharedq.algorithms.parts import AnyEnvironment, continuous_actions, critics_on
from sharedq.bellman import backups, readings
from sharedq.bellman.readings import Reading
from sharedq.exploration import linear_schedule
from sharedq.networks import Dense, policies
from sharedq.networks.policies import Policy
from sharedq.optimizers import moved
from sharedq.settings import LAYERS, WIDTH, check_count, require
from sharedq.targets.source import Seen, TargetSource, every
from sharedq.transitions import Batch, Step

CRITICS, ATOMS = 10_000, 100_000  # ours: how many there can be

FIRST_COUNT = 1e-4  # what the normalisers' start, mean 0 and variance 1, counts


class State(NamedTuple):
    params: dict[str, Any]  # critic, as the source has it; actor; temperature, as a logarithm
    source: Any
    actor_statistics: Any  # of the actor's batch normalisation
    optimisers: dict[str, Any]  # for each of params
    observations: Any  # moments, where observations are normalised
    returns: Any  # what rewards are scaled by, where they are


@dataclass(frozen=True)
class SAC:
    """Soft actor-critic, for continuous actions."""

    gamma: float = 0.99  # discount of the future, per step
    critics: int = 2  # critics side by side, of which the smallest counts
    values: Literal["scalar", "categorical"] = "scalar"  # what a critic predicts: the mean return, or its distribution
    atoms: int = 101  # of the distribution
    value_bound: float = 5.0  # the distribution's ends, and what scaled returns are kept within
    learning_rate: float = 3e-4  # of the three Adams: critics, actor and temperature
    final_learning_rate: float | None = None  # where it has fallen to, in a line, after learning_rate_updates
    learning_rate_updates: int = 1_000_000  # updates from the first rate to the final one
    adam_beta: float = 0.9  # how much of its average of gradients Adam keeps
    adam_epsilon: float = 1e-8  # added to Adam's denominator
    initial_temperature: float = 1.0  # price of certainty at the start; it is learned
    target_entropy: float = -1.0  # entropy that the temperature steers to, per dimension of an action
    actor_period: int = 1  # critic updates per update of actor and temperature
    actor_width: int = 256  # of the actor's layers, which are of the network's kind
    actor_depth: int = 2  # layers of the actor, or blocks
    random_steps: int = 5_000  # environment steps of uniformly random actions, from the first
    normalise_observations: bool = False  # to mean 0 and deviation 1, by running statistics
    scale_rewards: bool = False  # by the running deviation and size of returns, those of the first environment

    def __post_init__(self):
        require(0 <= self.gamma <= 1, f"algorithm.gamma must lie in 0 .. 1, not {self.gamma}")
        for name in ("actor_period", "learning_rate_updates"):
            check_count(f"algorithm.{name}", getattr(self, name))
        check_count("algorithm.critics", self.critics, most=CRITICS)
        check_count("algorithm.actor_width", self.actor_width, most=WIDTH)
        check_count("algorithm.actor_depth", self.actor_depth, least=0, most=LAYERS)
        check_count("algorithm.random_steps", self.random_steps, least=0)
        check_count("algorithm.atoms", self.atoms, least=2, most=ATOMS)
        for name in ("value_bound", "learning_rate", "adam_epsilon", "initial_temperature"):
            require(getattr(self, name) > 0, f"algorithm.{name} must be above 0, not {getattr(self, name)}")
        final = self.final_learning_rate
        require(final is None or final > 0, f"algorithm.final_learning_rate must be above 0 or none, not {final}")
        require(0 <= self.adam_beta < 1, f"algorithm.adam_beta must lie in 0 .. 1, below 1, not {self.adam_beta}")

    def remarks(self, steps: int) -> Iterator[str]:
        if self.random_steps >= steps:
            yield (
                f"all actions will be random: the first {self.random_steps:,} are, and there are {steps:,} steps; "
                "raise --steps or lower --algorithm.random_steps"
            )

    def build(self, environment: AnyEnvironment, target: Any, network: Any) -> Algorithm:
        actions, bound = continuous_actions(environment, "SAC").one, self.value_bound
        reading = readings.scalar() if self.values == "scalar" else readings.distribution(-bound, bound, self.atoms)
        source = critics_on(environment, target, network, reading.outputs, self.critics)
        policy = getattr(network, "policy", Dense().policy)(actions.size, self.actor_width, self.actor_depth)
        return self.on(source, reading, policy, actions.size)

    def on(self, source: TargetSource, reading: Reading, policy: Policy, actions: int) -> Algorithm:
        """The algorithm on a source of critics and a policy that are built, for so many dimensions of an action."""
        adam = optax.scale_by_adam(b1=self.adam_beta, eps=self.adam_epsilon)

        def init(key: jax.Array, example: Batch) -> State:
            critic_key, actor_key = jax.random.split(key)
            obs, action = example.transition.obs, example.transition.action
            critic, source_state = source.init(critic_key, (obs, action))
            actor, statistics = policy.init(actor_key, obs)
            params = {"critic": critic, "actor": actor, "temperature": jnp.log(jnp.float32(self.initial_temperature))}
            optimisers = {name: adam.init(part) for name, part in params.items()}
            observations = normalisers.no_moments(obs.shape[1:], FIRST_COUNT) if self.normalise_observations else ()
            returns = normalisers.no_returns(1, FIRST_COUNT) if self.scale_rewards else ()
            return State(params, source_state, statistics, optimisers, observations, returns)

        def as_seen(state: State, obs: jax.Array) -> jax.Array:
            if not self.normalise_observations:
                return obs
            return normalisers.normalised(obs, state.observations.mean, state.observations.variance)

        def gaussian(state: State, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
            return policy.gaussian(state.params["actor"], state.actor_statistics, obs, False)[0]

        def act(state: State, key: jax.Array, obs: jax.Array, step: jax.Array | None) -> jax.Array:
            mean, log_std = gaussian(state, as_seen(state, obs))
            if step is None:
                return jnp.tanh(mean)
            policy_key, random_key = jax.random.split(key)
            action, _ = policies.sample(policy_key, mean, log_std)
            anything = jax.random.uniform(random_key, action.shape, action.dtype, -1, 1)
            return jnp.where(step < self.random_steps, anything, action)

        def judged(state: State, key: jax.Array, obs: jax.Array, action: jax.Array) -> jax.Array:
            """The most cautious critic's value of each action, by the head that acts."""
            outputs = source.act_values(state.params["critic"], state.source, key, (obs, action))
            return reading.value(outputs).min(axis=-1)

        def policy_values(state: State, key: jax.Array, obs: jax.Array) -> jax.Array:
            obs = as_seen(state, obs)
            return judged(state, key, obs, jnp.tanh(gaussian(state, obs)[0]))

        def observe(state: State, key: jax.Array, step: Step, obs: jax.Array, count: jax.Array):
            if self.normalise_observations:
                state = state._replace(observations=normalisers.with_more(state.observations, obs))
            if self.scale_rewards:  # the first environment speaks for all: they are alike
                reward, ended = step.reward[:1], (step.terminated | step.truncated)[:1]
                state = state._replace(returns=normalisers.with_rewards(state.returns, reward, ended, self.gamma))
            return state, {}

        def prepared(state: State, batch: Batch) -> Batch:
            """As the networks take it."""
            sample = batch.transition
            sample = sample._replace(obs=as_seen(state, sample.obs), next_obs=as_seen(state, sample.next_obs))
            if self.scale_rewards:
                reward = normalisers.scaled_within(sample.reward, state.returns, self.value_bound)
                sample = sample._replace(reward=reward)
            return batch._replace(transition=sample)

        def descended(state: State, name: str, slope: Any, step: jax.Array) -> tuple[Any, Any]:
            """One of the three and Adam's moments of it, a step further."""
            final = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
            rate = linear_schedule(self.learning_rate, final, self.learning_rate_updates, step)
            moves, moments = adam.update(slope, state.optimisers[name])
            return moved(state.params[name], jax.tree.map(lambda move: -rate * move, moves)), moments

        def improved(state: State, key: jax.Array, obs: jax.Array, step: jax.Array) -> State:
            """Actor and temperature, which goes up where the entropy is below the one that is wanted, at their period.

            What is chosen between are those alone: a branch copies what goes through it, and critics are large.
            """
            temperature = jnp.exp(state.params["temperature"])

            def fresh():
                gradient = jax.grad(policy_loss, argnums=1, has_aux=True)
                judge = partial(judged, state)
                slope, (statistics, entropy) = gradient(
                    policy, state.params["actor"], state.actor_statistics, judge, temperature, key, obs
                )
                actor = descended(state, "actor", slope, step)
                slope = temperature * (entropy - self.target_entropy * actions)
                return {"actor": actor, "temperature": descended(state, "temperature", slope, step)}, statistics

            old = {name: (state.params[name], state.optimisers[name]) for name in ("actor", "temperature")}
            new, statistics = every(step, self.actor_period, fresh, (old, state.actor_statistics))
            return _with(state, new)._replace(actor_statistics=statistics)

        def update(state: State, batch: Batch, key: jax.Array, step: jax.Array):
            actor_key, critic_key = jax.random.split(key)
            batch = prepared(state, batch)
            sample = batch.transition
            state = improved(state, actor_key, sample.obs, step)
            next_action, log_density = policies.sample(critic_key, *gaussian(state, sample.next_obs))
            gradient = jax.value_and_grad(regression, argnums=1, has_aux=True)
            temperature = jnp.exp(state.params["temperature"])
            (loss, (seen, errors, q_value)), slope = gradient(
                source, state.params["critic"], state.source, reading, batch, next_action, log_density, temperature
            )
            state = _with(state, {"critic": descended(state, "critic", slope, step)})
            critic, source_state = source.refresh(step, state.params["critic"], state.source, seen)
            state = state._replace(params={**state.params, "critic": critic}, source=source_state)
            told = {"entropy": -log_density.mean(), "temperature": temperature, "q_value": q_value}
            return state, errors, {"loss": loss, "td_error": errors.mean(), **told}

        learns_as_it_goes = self.normalise_observations or self.scale_rewards
        return Algorithm(init, act, policy_values, observe if learns_as_it_goes else no_observation, update)


def _with(state: State, parts: dict[str, tuple[Any, Any]]) -> State:
    """The state with other weights and moments, in pairs, of some of the three."""
    params, optimisers = ({name: pair[place] for name, pair in parts.items()} for place in (0, 1))
    return state._replace(params={**state.params, **params}, optimisers={**state.optimisers, **optimisers})


def policy_loss(
    policy: Policy,
    actor: Any,
    statistics: Any,
    judge: Callable,
    temperature: jax.Array,
    key: jax.Array,
    obs: jax.Array,
):
    """The mean of alpha log pi(a|s) - Q(s, a); also the actor's new running statistics and the policy's entropy.

    `judge(key, obs, action)` values actions.
    """
    draw_key, head_key = jax.random.split(key)
    (mean, log_std), statistics = policy.gaussian(actor, statistics, obs, True)
    action, log_density = policies.sample(draw_key, mean, log_std)
    loss = jnp.mean(temperature * log_density - judge(head_key, obs, action))
    return loss, (statistics, -log_density.mean())


def regression(
    source: TargetSource,
    critic: Any,
    source_state: Any,
    reading: Reading,
    batch: Batch,
    next_action: jax.Array,
    log_density: jax.Array,
    temperature: jax.Array,
):
    """The critics' loss; also what the source is told, the errors [B] and the mean value.

    `log_density` [B] is that of the actions that follow.
    """
    sample = batch.transition
    now, then = (sample.obs, sample.action), (sample.next_obs, next_action)
    value = source.values(critic, source_state, now, then)  # [H, B, C, outputs]

    def backup(returns: jax.Array) -> jax.Array:  # [..., B, n]
        worth = backups.soft(returns, log_density[:, None], temperature)
        return backups.bellman(sample.reward[:, None], sample.discount[:, None], worth)

    bootstrap = backups.cautious(value.bootstrap, reading.value(value.bootstrap))  # [H, B, outputs]
    wanted = reading.target(bootstrap, backup)
    cost = reading.price(value.predicted, wanted[:, :, None]).sum(axis=-1)  # [H, B]
    per_head = jnp.mean(batch.weights * cost, axis=1)
    predicted = reading.value(value.predicted)
    errors = jnp.abs(predicted - backup(reading.value(bootstrap)[..., None])).mean(axis=(0, 2))
    return value.weights @ per_head, (Seen(now, value.statistics, per_head), errors, predicted.mean())
