"""Implicit Q-learning on any source of targets (Kostrikov, Nair & Levine, 2022): to learn from data of others.

    V_h(s)    <- the expectile of  min_c bootstrap_hc(s, a)                        over the data's actions
    pi(a|s)   <- the data's actions, each with the weight min(exp(beta * advantage), 100)
    Q_hc(s,a) <- r + discount * V_h(s')

No value of an action that the data lacks is ever asked for. Where a policy of the values is the maximum over actions,
the expectile takes its place: for tau near 1 it is nearly the largest value among the data's actions.

The public code has one head, and its target network says what V learns from. This is how we place the source in
between, so that every source can serve: the bootstrap of head h is asked at (s, a) itself, and V has a head for every
head of the source. With a chain of heads, V_h learns from Q_h-1 and Q_h from V_h, and V's heads shift with those of Q.
V has a trunk of its own, as in the public code. The advantage is min_c bootstrap_hc(s, a) - V_h(s), of the behaviour
head.

With the policy `reweighted`, no policy network learns from values. A network imitates all actions of the data, and the
agent follows pi_b(a|s) exp(beta Q(s, a)), normalised. This is what the learned policy aims at, if no weight reaches
its bound.

Shape letters: H heads, B batch, C critics, A discrete actions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms.algorithm import Algorithm, LossInfo, refreshed
from sharedq.algorithms.bc import negative_log_density
from sharedq.algorithms.parts import (
    check_actions,
    critics_of_all_actions,
    critics_on,
    network_on,
    policy_on,
)
from sharedq.bellman import backups, losses
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.networks import network as networks
from sharedq.networks.network import Network
from sharedq.networks.policies import Policy
from sharedq.optimizers import adam_with_rate, gradient_step
from sharedq.settings import LAYERS, WIDTH, check_count, check_shares, require
from sharedq.targets.source import RefreshInfo, TargetSource, optimiser_of, renewed
from sharedq.transitions import Batch

LARGEST_WEIGHT = 100.0  # of an action in the policy's loss, as in the public code
CRITICS = 10_000  # ours: the largest number allowed


class State(NamedTuple):
    params: dict[str, Any]  # critic: the source's parameters; value: the network V; actor
    source: Any  # the source's state
    own_batch_stats: dict[str, Any]  # running statistics of value and actor
    optimisers: dict[str, Any]  # Adam's moments for each entry of params


@dataclass(frozen=True)
class IQL:
    """Implicit Q-learning, for discrete and continuous actions."""

    gamma: float = 0.99  # discount of future rewards, per step
    expectile: float = 0.7  # tau: how near V is to the best of the data's actions (0.7 .. 0.9; 0.5 is their mean)
    beta: float = 3.0  # how much the policy prefers actions of large advantage (0.5 .. 10; 0 is behaviour cloning)
    policy: Literal["learned", "reweighted"] = "learned"  # reweighted: a clone of the data's policy, times exp(beta Q)
    critics: int = 2  # number of critics; V and the policy use the minimum of their values
    learning_rate: float = 3e-4  # learning rate of V, critics and policy
    actor_decay_updates: int | None = 1_000_000  # updates in which the policy's rate falls to 0; none keeps it
    adam_epsilon: float = 1e-8  # added to Adam's denominator
    actor_width: int = 256  # continuous actions: width of the policy's layers, which are of the network's type
    actor_depth: int = 2  # continuous actions: number of layers or blocks of the policy

    def __post_init__(self):
        check_shares("algorithm", self, "gamma")
        require(0 < self.expectile < 1, f"algorithm.expectile must lie between 0 and 1, not {self.expectile}")
        require(self.beta >= 0, f"algorithm.beta cannot be negative, and is {self.beta}")
        for name in ("learning_rate", "adam_epsilon"):
            require(getattr(self, name) > 0, f"algorithm.{name} must be above 0, not {getattr(self, name)}")
        if self.actor_decay_updates is not None:
            check_count("algorithm.actor_decay_updates", self.actor_decay_updates)
        check_count("algorithm.critics", self.critics, most=CRITICS)
        check_count("algorithm.actor_width", self.actor_width, most=WIDTH)
        check_count("algorithm.actor_depth", self.actor_depth, least=0, most=LAYERS)

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        decay, updates = self.actor_decay_updates, experiment.training.updates
        if decay is not None and updates > decay:
            yield (
                f"the policy stops learning after {decay:,} of {updates:,} updates, when its rate is 0: raise "
                "--algorithm.actor_decay_updates, or none keeps the rate"
            )

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        check_actions(spec, "IQL")
        discrete = isinstance(spec.actions, Discrete)
        require(
            discrete or self.policy == "learned",
            f"algorithm.policy reweighted needs discrete actions, and those of '{spec.name}' are continuous: "
            "leave the option out",
        )
        if isinstance(spec.actions, Discrete):
            source = critics_of_all_actions(spec, target, network, spec.actions.n, self.critics, moments=True)
        else:
            source = critics_on(spec, target, network, self.critics, moments=True)
        value = network_on(spec, network, spec.observation, lambda: network.build(1))
        policy = policy_on(spec, network, "gaussian", self.actor_width, self.actor_depth)
        return self.on(source, value, policy, discrete)

    def on(self, source: TargetSource, value: Network, policy: Policy, discrete: bool) -> Algorithm:
        """The algorithm on a source of critics, a network V and a policy that are built."""
        optimiser = adam_with_rate(0.9, self.adam_epsilon)
        of_critic = optimiser_of(source, optimiser, self.learning_rate)
        parts = Parts(self, source, value, policy, discrete, optimiser, of_critic)
        return Algorithm(
            init=partial(init, parts),
            act=partial(act, parts),
            values=partial(values, parts),
            decide=partial(decide, parts),
            loss=partial(loss, parts),
            refresh=partial(refresh, parts),
            update=refreshed(partial(learn, parts), partial(refresh, parts)),
            learn=partial(learn, parts),
            source=source,
            source_part="critic",
            on=partial(self.on, value=value, policy=policy, discrete=discrete),
        )


class Parts(NamedTuple):
    """The parts that the functions below work with."""

    settings: IQL
    source: TargetSource
    value: Network  # V
    policy: Policy
    discrete: bool  # whether critics take an observation and give the values of all actions, or take both and give one
    optimiser: optax.GradientTransformationExtraArgs  # of value and actor
    of_critic: optax.GradientTransformationExtraArgs  # the optimiser of the source's parameters

    def optimiser_of(self, name: str) -> optax.GradientTransformationExtraArgs:
        """The optimiser of critic, value or actor."""
        return self.of_critic if name == "critic" else self.optimiser

    def inputs(self, obs: Any, action: jax.Array) -> Any:
        """The critics' inputs."""
        return obs if self.discrete else (obs, action)

    def of_action(self, outputs: jax.Array, action: jax.Array) -> jax.Array:
        """The values [H, B, C] of actions [B, ...], from the critics' outputs [H, B, C, ...]."""
        if not self.discrete:
            return outputs
        return backups.of_action(outputs, jnp.broadcast_to(action[:, None], outputs.shape[:-1]))


def init(parts: Parts, key: jax.Array, example: Batch) -> State:
    critic_key, value_key, actor_key = jax.random.split(key, 3)
    obs = example.transition.obs
    inputs = parts.inputs(obs, example.transition.action)
    critic, source_state = parts.source.init(critic_key, inputs)
    heads = jax.eval_shape(parts.source.values, critic, source_state, inputs).weights.size
    trunk, value_heads, of_value = networks.init(parts.value, value_key, obs, heads)
    actor, of_actor = parts.policy.init(actor_key, obs)
    params = {"critic": critic, "value": {"trunk": trunk, "heads": value_heads}, "actor": actor}
    optimisers = {name: parts.optimiser_of(name).init(part) for name, part in params.items()}
    return State(params, source_state, {"value": of_value, "actor": of_actor}, optimisers)


# Acting


def q_values(parts: Parts, state: State, key: jax.Array | None, obs: Any, action: Any) -> jax.Array:
    """By the smallest critic of the behaviour head: of discrete actions all values [N, A], else of the action [N]."""
    inputs = parts.inputs(obs, action)
    return parts.source.act_values(state.params["critic"], state.source, key, inputs).min(axis=1)


def distribution(parts: Parts, state: State, key: jax.Array | None, obs: Any) -> Any:
    """The distribution over actions that the agent follows."""
    d, _ = parts.policy.distribution(state.params["actor"], state.own_batch_stats["actor"], obs, False)
    if parts.settings.policy == "learned":
        return d
    # V(s) is the same for all actions, so the softmax of beta (Q - V) + log pi is that of beta Q + log pi.
    return jax.nn.log_softmax(d) + parts.settings.beta * q_values(parts, state, key, obs, None)


def act(parts: Parts, state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
    head_key, action_key = jax.random.split(key)
    d = distribution(parts, state, head_key, obs)
    return parts.policy.mode(d) if step is None else parts.policy.sample(action_key, d)[0]


def values(parts: Parts, state: State, key: jax.Array | None, obs: Any) -> jax.Array:
    action = None if parts.discrete else parts.policy.mode(distribution(parts, state, key, obs))
    return q_values(parts, state, key, obs, action)


def decide(parts: Parts, state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
    action = parts.policy.mode(distribution(parts, state, None, obs))
    return action, q_values(parts, state, None, obs, action)


# Learning


def learn(parts: Parts, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, LossInfo, dict]:
    """V, then the policy, then the critics, as in the public code. Each sees the V that has just learned."""
    sample, settings = batch.transition, parts.settings
    inputs = parts.inputs(sample.obs, sample.action)
    found = parts.source.values(state.params["critic"], state.source, inputs, None, key)
    q = parts.of_action(found.bootstrap, sample.action).min(axis=-1)  # [H, B]

    of_value = jax.value_and_grad(partial(value_loss, parts), has_aux=True)
    (total_value, stats), slope = of_value(state.params["value"], state, batch, q, found.weights)
    state = stepped(parts, state, "value", slope, settings.learning_rate, stats)

    advantage = q - value_of(parts, state.params["value"], state, sample.obs)
    weights = jnp.ones(len(sample.reward))
    if settings.policy == "learned":
        weights = action_weights(settings.beta, parts.source.select(state.source, key, advantage))
    actor = state.params["actor"], state.own_batch_stats["actor"], sample.obs, sample.action
    of_policy = jax.value_and_grad(partial(negative_log_density, parts.policy), has_aux=True)
    (total_policy, told), slope = of_policy(*actor, batch.weights * weights)
    state = stepped(parts, state, "actor", slope, actor_rate(settings, step), told.batch_stats)

    def of_critic(critic: Any) -> tuple[jax.Array, LossInfo]:
        return loss(parts, {**state.params, "critic": critic}, state, batch, key)

    (total, info), slope = jax.value_and_grad(of_critic, has_aux=True)(state.params["critic"])
    state = stepped(parts, state, "critic", slope, settings.learning_rate)
    metrics = {
        "loss": total,
        "value_loss": total_value,
        "policy_loss": total_policy,
        "td_error": info.errors.mean(axis=(0, 2)).mean(),
        "q_value": info.predictions.mean(),
        "advantage": advantage.mean(),
        "weight": weights.mean(),
    }
    return state, info, metrics | parts.source.metrics(state.source)


def value_of(parts: Parts, value: Any, state: State, obs: Any) -> jax.Array:
    """V_h(s) of all heads [H, B], with running statistics as they are."""
    features, _ = parts.value.trunk(value["trunk"], state.own_batch_stats["value"], obs, False)
    return parts.value.heads(value["heads"], features)[..., 0]


def value_loss(
    parts: Parts, value: Any, state: State, batch: Batch, q: jax.Array, weights: jax.Array
) -> tuple[jax.Array, Any]:
    """The expectile regression of V_h(s) on q [H, B]; also V's new running statistics. The heads have `weights` [H]."""
    features, stats = parts.value.trunk(value["trunk"], state.own_batch_stats["value"], batch.transition.obs, True)
    error = parts.value.heads(value["heads"], features)[..., 0] - q
    per_head = jnp.mean(batch.weights * losses.expectile(error, parts.settings.expectile), axis=1)
    return weights @ per_head, stats


def action_weights(beta: float, advantage: jax.Array) -> jax.Array:
    """How much each action [B] counts in the policy's loss."""
    return jnp.minimum(jnp.exp(beta * advantage), LARGEST_WEIGHT)


def loss(parts: Parts, params: dict, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
    """The critics' loss. Only params["critic"] has a gradient."""
    sample = batch.transition
    inputs = parts.inputs(sample.obs, sample.action)
    found = parts.source.values(params["critic"], state.source, inputs, None, key)
    next_value = jax.lax.stop_gradient(value_of(parts, params["value"], state, sample.next_obs))
    # A measure may ask for the loss on a source of one head, which is then the first head of V.
    target = backups.bellman(sample.reward, sample.discount, next_value[: found.weights.size])  # [H, B]
    predicted = parts.of_action(found.predicted, sample.action)  # [H, B, C]
    error = predicted - target[..., None]
    per_head = jnp.mean(batch.weights * losses.squared(error).sum(axis=-1), axis=1)
    info = LossInfo(per_head, jnp.abs(error), target, predicted, inputs, found.batch_stats, {}, weights=found.weights)
    return found.weights @ per_head, info


def refresh(parts: Parts, state: State, info: RefreshInfo, step: jax.Array) -> State:
    """The source's refresh. V's heads shift with the critics'."""
    critic, source_state = parts.source.refresh(step, state.params["critic"], state.source, info)
    value = {**state.params["value"], "heads": parts.source.follow(step, state.params["value"]["heads"])}
    moments = renewed(parts.source, parts.of_critic, step, state.optimisers["critic"], source_state, critic)
    params, optimisers = {**state.params, "critic": critic, "value": value}, {**state.optimisers, "critic": moments}
    return state._replace(params=params, source=source_state, optimisers=optimisers)


def actor_rate(settings: IQL, step: jax.Array) -> jax.Array | float:
    """The policy's learning rate at update `step`, which counts from 1: half a cosine, which ends at 0."""
    if settings.actor_decay_updates is None:
        return settings.learning_rate
    return optax.cosine_decay_schedule(settings.learning_rate, settings.actor_decay_updates)(step - 1)


def stepped(parts: Parts, state: State, name: str, slope: Any, rate: Any, batch_stats: Any = None) -> State:
    """The state after a gradient step of critic, value or actor, with new running statistics of value or actor."""
    params, moments = gradient_step(
        parts.optimiser_of(name), slope, state.optimisers[name], state.params[name], rate=rate
    )
    stats = state.own_batch_stats if batch_stats is None else {**state.own_batch_stats, name: batch_stats}
    return state._replace(
        params={**state.params, name: params}, optimisers={**state.optimisers, name: moments}, own_batch_stats=stats
    )
