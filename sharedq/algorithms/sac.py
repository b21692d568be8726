"""Soft actor-critic on any source of targets (Haarnoja et al., 2018).

    Q_h(s, a) <- r + discount * ( min_c bootstrap_hc(s', a') - alpha log pi(a'|s') )        a' drawn from pi(s')
    pi        <- the policy that raises  min_c Q_c(s, a) - alpha log pi(a|s)                 a drawn from pi(s)

The critics c are an axis of the network, and the heads h are the source's. With `online_network` as the source and
batch renormalisation in the network this is CrossQ. With SimbaV2 as the network, categorical values and both
normalisers it is SimbaV2's agent. XQC and FlashSAC are other networks with categorical values. With a penalty on the
values it is conservative Q-learning for continuous actions.

Shape letters: H heads, B batch, C critics, A dimensions of an action, N environments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from sharedq import normalisers
from sharedq.algorithms.algorithm import Algorithm, LossInfo, no_observation, refreshed
from sharedq.algorithms.parts import continuous_actions, critics_on, policy_on
from sharedq.bellman import backups, readings
from sharedq.bellman.readings import Reading
from sharedq.environments.spec import EnvironmentSpec
from sharedq.exploration import cosine_schedule, linear_schedule
from sharedq.networks.policies import Policy
from sharedq.optimizers import adam_with_rate, gradient_step
from sharedq.settings import LAYERS, WIDTH, check_count, check_shares, require
from sharedq.targets.source import RefreshInfo, TargetSource, every, optimiser_of, renewed
from sharedq.transitions import Batch, Step

CRITICS, ATOMS = 10_000, 100_000  # ours: the largest numbers allowed

SOURCE_KEY = 2  # folded into the key of the loss for what the source draws
FIRST_COUNT = 1e-4  # weight of the normalisers' initial mean 0 and variance 1, in observations


class State(NamedTuple):
    params: dict[str, Any]  # critic: the source's parameters; actor; temperature: its logarithm
    source: Any  # the source's state
    actor_batch_stats: Any  # running statistics of the actor's batch normalisation
    optimisers: dict[str, Any]  # Adam's moments for each entry of params
    observations: Any  # moments of observations, if they are normalised
    returns: Any  # statistics of returns, if rewards are scaled


@dataclass(frozen=True)
class SAC:
    """Soft actor-critic, for continuous actions."""

    gamma: float = 0.99  # discount of future rewards, per step
    critics: int = 2  # number of critics; the target and the actor use the minimum of their values
    values: readings.Kind = "scalar"  # a critic predicts the mean return, or a distribution; see docs/algorithms.md
    atoms: int = 101  # number of returns of a categorical distribution, of quantiles, or of bins of hl_gauss
    value_bound: float = 5.0  # the distribution goes from -value_bound to value_bound; scaled returns stay within
    learning_rate: float = 3e-4  # learning rate of critics, actor and temperature, at the start
    final_learning_rate: float | None = None  # learning rate after learning_rate_updates; none keeps it constant
    learning_rate_updates: int = 1_000_000  # updates over which the learning rate changes
    learning_rate_schedule: Literal["linear", "cosine"] = "linear"  # it changes along a straight line, or half a cosine
    adam_beta: float = 0.9  # decay of Adam's average of gradients (beta 1)
    adam_epsilon: float = 1e-8  # added to Adam's denominator
    initial_temperature: float = 1.0  # weight of the entropy (alpha) at the start; it is learned
    target_entropy: float = -1.0  # entropy that the temperature aims at, per dimension of an action
    actor_period: int = 1  # critic updates per update of actor and temperature
    actor_width: int = 256  # width of the actor's layers, which are of the same type as the network's
    actor_depth: int = 2  # number of layers or blocks of the actor
    random_steps: int = 5_000  # environment steps at the start in which actions are uniformly random
    normalise_observations: bool = False  # bring observations to mean 0 and deviation 1, by running statistics
    scale_rewards: bool = False  # divide rewards by the running deviation of the first environment's discounted return
    bound_returns: bool = True  # scaled rewards: divide them further if the largest return would exceed value_bound

    def __post_init__(self):
        check_shares("algorithm", self, "gamma")
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
        require(
            final is not None or self.learning_rate_schedule == "linear",
            "algorithm.learning_rate_schedule cosine goes to algorithm.final_learning_rate, and there is none: set it, "
            "or leave the schedule out",
        )
        require(
            self.scale_rewards or self.bound_returns,
            "algorithm.bound_returns false is of scaled rewards: add --algorithm.scale_rewards true, or leave it out",
        )
        require(0 <= self.adam_beta < 1, f"algorithm.adam_beta must lie in 0 .. 1, below 1, not {self.adam_beta}")

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        steps = experiment.training.steps
        if self.random_steps >= steps and experiment.training.learns_from != "data":
            yield (
                f"all actions will be random: the first {self.random_steps:,} are, and there are {steps:,} steps; "
                "raise --steps or lower --algorithm.random_steps"
            )

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        actions = continuous_actions(spec, type(self).__name__).one
        reading = readings.of_kind(self.values, self.atoms, self.value_bound)
        source = critics_on(spec, target, network, self.critics, reading, anchor=True, moments=True)
        policy = policy_on(spec, network, "squashed_gaussian", self.actor_width, self.actor_depth)
        return self.on(source, reading, policy, actions.size)

    def on(
        self, source: TargetSource, reading: Reading, policy: Policy, actions: int, penalty: "Penalty | None" = None
    ) -> Algorithm:
        """The algorithm on a source of critics and a policy that are built, for actions of so many dimensions.

        `penalty` is added to the critics' loss of each head.
        """
        optimiser = adam_with_rate(self.adam_beta, self.adam_epsilon)
        of_critic = optimiser_of(source, optimiser, self.learning_rate)
        parts = Parts(self, source, reading, policy, optimiser, of_critic, actions, penalty)
        observes = self.normalise_observations or self.scale_rewards
        return Algorithm(
            init=partial(init, parts),
            act=partial(act, parts),
            values=partial(values, parts),
            decide=partial(decide, parts),
            loss=partial(loss, parts),
            refresh=partial(refresh, parts),
            observe=partial(observe, parts) if observes else no_observation,
            update=refreshed(partial(learn, parts), partial(refresh, parts)),
            learn=partial(learn, parts),
            source=source,
            source_part="critic",
            on=partial(self.on, reading=reading, policy=policy, actions=actions, penalty=penalty),
        )


class Penalty(Protocol):
    def __call__(
        self, parts: "Parts", critic: Any, state: State, obs: Any, next_obs: Any, predicted: jax.Array, key: jax.Array
    ) -> jax.Array:
        """A penalty [H, B] on `critic`, for normalised observations and the values [H, B, C] of the data's actions."""


class Parts(NamedTuple):
    """The parts that the functions below work with."""

    settings: SAC
    source: TargetSource
    reading: Reading
    policy: Policy
    optimiser: optax.GradientTransformationExtraArgs  # of actor and temperature
    of_critic: optax.GradientTransformationExtraArgs  # the optimiser of the source's parameters
    actions: int  # dimensions of an action
    penalty: Penalty | None

    def optimiser_of(self, name: str) -> optax.GradientTransformationExtraArgs:
        """The optimiser of critic, actor or temperature."""
        return self.of_critic if name == "critic" else self.optimiser


def init(parts: Parts, key: jax.Array, example: Batch) -> State:
    critic_key, actor_key = jax.random.split(key)
    obs, action = example.transition.obs, example.transition.action
    critic, source_state = parts.source.init(critic_key, (obs, action))
    actor, batch_stats = parts.policy.init(actor_key, obs)
    temperature = jnp.log(jnp.float32(parts.settings.initial_temperature))
    params = {"critic": critic, "actor": actor, "temperature": temperature}
    optimisers = {name: parts.optimiser_of(name).init(part) for name, part in params.items()}
    normalises, scales = parts.settings.normalise_observations, parts.settings.scale_rewards
    observations = normalisers.no_moments(obs.shape[1:], FIRST_COUNT) if normalises else ()
    returns = normalisers.no_returns(1, FIRST_COUNT) if scales else ()
    return State(params, source_state, batch_stats, optimisers, observations, returns)


def observe(parts: Parts, state: State, key: jax.Array, step: Step, obs: jax.Array, count: jax.Array):
    """Updates the statistics of the normalisers after every step."""
    if parts.settings.normalise_observations:
        state = state._replace(observations=normalisers.with_more(state.observations, obs))
    if parts.settings.scale_rewards:  # one environment is enough, because all are alike
        reward, ended = step.reward[:1], (step.terminated | step.truncated)[:1]
        returns = normalisers.with_rewards(state.returns, reward, ended, parts.settings.gamma)
        state = state._replace(returns=returns)
    return state, {}


def normalised(parts: Parts, state: State, obs: jax.Array) -> jax.Array:
    """Observations, normalised for the networks if the settings say so."""
    if not parts.settings.normalise_observations:
        return obs
    return normalisers.normalised(obs, state.observations.mean, state.observations.variance)


def distribution(parts: Parts, state: State, obs: jax.Array) -> Any:
    """The policy's distribution over actions, for normalised observations."""
    return parts.policy.distribution(state.params["actor"], state.actor_batch_stats, obs, False)[0]


def critic_values(parts: Parts, state: State, key: jax.Array | None, obs: jax.Array, action: jax.Array) -> jax.Array:
    """The value of each action by the smallest critic of the behaviour head, for normalised observations."""
    return parts.source.act_values(state.params["critic"], state.source, key, (obs, action)).min(axis=-1)


def act(parts: Parts, state: State, key: jax.Array, obs: jax.Array, step: jax.Array | None) -> jax.Array:
    d = distribution(parts, state, normalised(parts, state, obs))
    if step is None:
        return parts.policy.mode(d)
    policy_key, random_key = jax.random.split(key)
    action, _ = parts.policy.sample(policy_key, d)
    random_action = jax.random.uniform(random_key, action.shape, action.dtype, -1, 1)
    return jnp.where(step < parts.settings.random_steps, random_action, action)


def values(parts: Parts, state: State, key: jax.Array | None, obs: jax.Array) -> jax.Array:
    obs = normalised(parts, state, obs)
    return critic_values(parts, state, key, obs, parts.policy.mode(distribution(parts, state, obs)))


def decide(parts: Parts, state: State, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    obs = normalised(parts, state, obs)
    action = parts.policy.mode(distribution(parts, state, obs))
    return action, critic_values(parts, state, None, obs, action)


def learn(parts: Parts, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, LossInfo, dict]:
    """Updates actor and temperature first, every `actor_period` updates, and then the critics."""
    actor_key, critic_key = jax.random.split(key)
    state = improve_policy(parts, state, actor_key, batch.transition.obs, step)

    def loss_of_critics(critic):
        return loss(parts, {**state.params, "critic": critic}, state, batch, critic_key)

    (total, info), gradient = jax.value_and_grad(loss_of_critics, has_aux=True)(state.params["critic"])
    state = with_steps(state, {"critic": stepped(parts, state, "critic", gradient, step)})
    td_error = info.errors.mean(axis=(0, 2)).mean()
    metrics = {"loss": total, "td_error": td_error, "q_value": info.predictions.mean(), **info.metrics}
    return state, info, metrics | parts.source.metrics(state.source)


def loss(parts: Parts, params: dict, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
    """The critics' loss. Only params["critic"] has a gradient."""
    settings, reading, sample = parts.settings, parts.reading, batch.transition
    obs, next_obs, reward = (
        normalised(parts, state, sample.obs),
        normalised(parts, state, sample.next_obs),
        sample.reward,
    )
    if settings.scale_rewards:
        bound = settings.value_bound if settings.bound_returns else jnp.inf
        reward = normalisers.scaled_within(reward, state.returns, bound)
    next_action, log_density = parts.policy.sample(key, distribution(parts, state, next_obs))
    temperature = jnp.exp(state.params["temperature"])
    now, then = (obs, sample.action), (next_obs, next_action)
    source_key = jax.random.fold_in(key, SOURCE_KEY)
    value = parts.source.values(params["critic"], state.source, now, then, source_key)  # [H, B, C, *reading.shape]

    def backup(returns: jax.Array) -> jax.Array:  # [..., B, m]
        next_value = backups.soft(returns, log_density[:, None], temperature)
        return backups.bellman(reward[:, None], sample.discount[:, None], next_value)

    bootstrap = backups.min_over_critics(value.bootstrap, reading.value(value.bootstrap))  # [H, B, *reading.shape]
    returns, masses = reading.atoms(bootstrap)
    target = jax.tree.map(lambda x: x[:, :, None], reading.target(backup(returns), masses))  # the same for all critics
    of_critics = reading.loss(value.predicted, target)
    per_sample = of_critics.sum(axis=-1)  # [H, B]
    if value.anchor is not None:
        per_sample += value.anchor_weight * readings.distance(reading, value.predicted, value.anchor).sum(axis=-1)
    predictions, targets = reading.value(value.predicted), backup(reading.value(bootstrap)[..., None])  # [H, B, C or 1]
    errors, metrics = jnp.abs(predictions - targets), {"entropy": -log_density.mean(), "temperature": temperature}
    if parts.penalty is not None:
        penalty_key = jax.random.fold_in(key, 1)
        penalty = parts.penalty(parts, params["critic"], state, obs, next_obs, predictions, penalty_key)
        per_sample, metrics = per_sample + penalty, {**metrics, "penalty": penalty.mean()}
    per_head = jnp.mean(batch.weights * per_sample, axis=1)
    told = of_critics if reading.shape else None
    info = LossInfo(per_head, errors, targets[..., 0], predictions, now, value.batch_stats, metrics, told)
    info = info._replace(weights=value.weights)
    return value.weights @ per_head, info


def refresh(parts: Parts, state: State, info: RefreshInfo, step: jax.Array) -> State:
    critic, source_state = parts.source.refresh(step, state.params["critic"], state.source, info)
    moments = renewed(parts.source, parts.of_critic, step, state.optimisers["critic"], source_state, critic)
    return with_steps(state._replace(source=source_state), {"critic": (critic, moments)})


def improve_policy(parts: Parts, state: State, key: jax.Array, obs: jax.Array, step: jax.Array) -> State:
    """Updates actor and temperature every `actor_period` updates.

    The temperature goes up if the entropy is below the target entropy. Only the two go through the branch, because a
    branch copies what goes through it and the critics are large.
    """
    temperature, obs = jnp.exp(state.params["temperature"]), normalised(parts, state, obs)

    def fresh():
        gradient = jax.grad(partial(policy_loss, parts), has_aux=True)
        slope, (batch_stats, entropy) = gradient(state.params["actor"], state, temperature, key, obs)
        actor = stepped(parts, state, "actor", slope, step)
        slope = temperature * (entropy - parts.settings.target_entropy * parts.actions)
        return {"actor": actor, "temperature": stepped(parts, state, "temperature", slope, step)}, batch_stats

    old = {name: (state.params[name], state.optimisers[name]) for name in ("actor", "temperature")}
    new, batch_stats = every(step, parts.settings.actor_period, fresh, (old, state.actor_batch_stats))
    return with_steps(state, new)._replace(actor_batch_stats=batch_stats)


def policy_loss(parts: Parts, actor: Any, state: State, temperature: jax.Array, key: jax.Array, obs: jax.Array):
    """The mean of alpha log pi(a|s) - Q(s, a); also the actor's new running statistics and the policy's entropy."""
    draw_key, head_key = jax.random.split(key)
    d, batch_stats = parts.policy.distribution(actor, state.actor_batch_stats, obs, True)
    action, log_density = parts.policy.sample(draw_key, d)
    total = jnp.mean(temperature * log_density - critic_values(parts, state, head_key, obs, action))
    return total, (batch_stats, -log_density.mean())


def stepped(parts: Parts, state: State, name: str, gradient: Any, step: jax.Array) -> tuple[Any, Any]:
    """Critic, actor or temperature, and its Adam moments, after a gradient step."""
    settings = parts.settings
    final = settings.learning_rate if settings.final_learning_rate is None else settings.final_learning_rate
    schedule = linear_schedule if settings.learning_rate_schedule == "linear" else cosine_schedule
    rate = schedule(settings.learning_rate, final, settings.learning_rate_updates, step)
    return gradient_step(parts.optimiser_of(name), gradient, state.optimisers[name], state.params[name], rate=rate)


def with_steps(state: State, steps: dict[str, tuple[Any, Any]]) -> State:
    """The state with new weights and moments for the named parts, which come as pairs."""
    params, optimisers = ({name: pair[place] for name, pair in steps.items()} for place in (0, 1))
    return state._replace(params={**state.params, **params}, optimisers={**state.optimisers, **optimisers})
