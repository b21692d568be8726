"""Implicit language Q-learning on any source of targets (Snell et al., 2023): to write better than the data.

Every token that was written is an action. At the positions p where the data wrote token x, and the next position p' is
where the next token was or would be written,

    V_h(p)     <- the expectile of  min_c bootstrap_hc(p, x)
    Q_hc(p, x) <- r + discount * V_h(p')
    a conservative penalty: the cross entropy of softmax(Q_hc(p, .)) with x
    pi(x | p)  <- the data's tokens, by a language model of its own that learns nothing from values

and words are written by  log pi(x | p) + min(beta * (min_c Q_c(p, x) - V(p)), 0).  All losses are summed, and one
gradient step is made on all parameters. Losses of values are averaged over the written tokens of a batch.

Where the source is a target network, this is the paper's method: a copy of the language model with its heads. With
shared heads, one pass over a text gives the values of now and the bootstrap. How heads are placed is ours: V has a head
for every head of the source, V_h learns from Q_h-1 and Q_h from V_h, and V's heads shift with those of Q. The agent
writes with the online values of the behaviour head; the public code writes with the target network's.

Shape letters: H heads, B texts, T tokens, C critics, V tokens of the vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms.algorithm import Algorithm, Judgement, LossInfo, refreshed
from sharedq.algorithms.parts import source_of
from sharedq.algorithms.writing import (
    PARTS,
    Reader,
    check_training,
    imitation,
    in_parts,
    log_probabilities,
    policy_reader,
    tokens_of,
    write,
    written_behind,
)
from sharedq.bellman import backups, losses
from sharedq.environments.spec import EnvironmentSpec, Tokens
from sharedq.networks import language_critics
from sharedq.networks.gpt2 import LanguageModel
from sharedq.networks.language_critics import Features, Text, Value
from sharedq.optimizers import adam, gradient_step
from sharedq.settings import check_count, check_shares, require
from sharedq.targets.source import RefreshInfo, TargetSource, optimiser_of, renewed
from sharedq.transcripts import at, decisions
from sharedq.transitions import Batch

CRITICS = 100  # ours: the largest number allowed


class State(NamedTuple):
    params: dict[str, Any]  # critic: the source's parameters; value: V on the critics' body; policy
    source: Any  # the source's state
    optimiser: Any


@dataclass(frozen=True)
class ILQL:
    """Implicit language Q-learning: values of every token that is written, on a language model."""

    gamma: float = 0.99  # discount of future rewards, per token that is written
    expectile: float = 0.7  # tau: how near V is to the best of the data's tokens (0.7 .. 0.9; 0.5 is their mean)
    conservative: float = 1e-4  # weight of the cross entropy that keeps values of other tokens low
    critics: int = 2  # number of critics; V and the words that are written use the minimum of their values
    beta: float = 16.0  # how much the values change the words that are written (1 .. 32; 0 is behaviour cloning)
    writing: Literal["greedy", "sampled"] = "greedy"  # how words are written in an evaluation
    learning_rate: float = 1e-5  # Adam's learning rate
    adam_epsilon: float = 1e-8  # added to Adam's denominator
    accumulate: int = 1  # parts of a batch, one after another in memory; their gradients are averaged

    def __post_init__(self):
        check_shares("algorithm", self, "gamma")
        require(0 < self.expectile < 1, f"algorithm.expectile must lie between 0 and 1, not {self.expectile}")
        for name in ("conservative", "beta"):
            require(getattr(self, name) >= 0, f"algorithm.{name} cannot be negative, and is {getattr(self, name)}")
        for name in ("learning_rate", "adam_epsilon"):
            require(getattr(self, name) > 0, f"algorithm.{name} must be above 0, not {getattr(self, name)}")
        check_count("algorithm.critics", self.critics, most=CRITICS)
        check_count("algorithm.accumulate", self.accumulate, most=PARTS)

    def check(self, experiment: Any, spec: EnvironmentSpec) -> None:
        check_training(spec, experiment.training)

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        form, settings = tokens_of(spec, network, "ILQL")
        model = settings.language_model(form.vocabulary)
        critics = language_critics.critics(model, settings.width, form.vocabulary, self.critics)
        source = source_of(target, critics, Text(spec.observation), moments=True)
        return self.on(source, model, language_critics.value(settings.width), form, settings.dropout > 0)

    def on(self, source: TargetSource, model: LanguageModel, value: Value, form: Tokens, dropout: bool) -> Algorithm:
        """The algorithm on a source of critics, a language model and a value V that are built."""
        optimiser = optimiser_of(
            source, adam(self.learning_rate, self.adam_epsilon, None), self.learning_rate, "critic"
        )
        parts = Parts(self, source, model, value, form, dropout, optimiser)
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
            on=partial(self.on, model=model, value=value, form=form, dropout=dropout),
            judge=partial(judge, parts),
            states=lambda batch: decisions(form, batch.transition.obs).decides,
        )


class Parts(NamedTuple):
    """The parts that the functions below work with."""

    settings: ILQL
    source: TargetSource
    model: LanguageModel  # of the policy, and of the critics' body
    value: Value
    form: Tokens
    dropout: bool  # whether there is any while learning
    optimiser: optax.GradientTransformation

    @property
    def several(self) -> bool:
        """Whether every head has a network of its own, so that parameters and features begin with an axis of heads."""
        return "trunk" not in self.source.shared


def init(parts: Parts, key: jax.Array, example: Batch) -> State:
    critic_key, value_key, policy_key = jax.random.split(key, 3)
    inputs = Text(example.transition.obs)
    critic, source_state = parts.source.init(critic_key, inputs)
    heads = jax.eval_shape(parts.source.values, critic, source_state, inputs).weights.size
    params = {"critic": critic, "value": parts.value.init(value_key, heads), "policy": parts.model.init(policy_key)}
    return State(params, source_state, parts.optimiser.init(params))


# Writing


def values_reader(parts: Parts, state: State, key: jax.Array | None) -> Reader:
    """Reads with the critics; the scores are the advantages [N, V] of the behaviour head."""

    def advantage(found: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        features, cache = found
        return parts.source.select(state.source, key, head_values(parts, state, features)[1]), cache

    def start(tokens: jax.Array, lengths: jax.Array):
        return advantage(on_bodies(parts, state, lambda body: parts.model.start(body, tokens, lengths)))

    def extend(cache: Any, token: jax.Array):
        return advantage(on_bodies(parts, state, lambda body, own: parts.model.extend(body, own, token), cache))

    return Reader(start, extend)


def on_bodies(parts: Parts, state: State, function: Any, *more: Any) -> Any:
    """A function of the critics' body, or of each body with its part of `more` if every head has its own network."""
    return (jax.vmap(function) if parts.several else function)(state.params["critic"]["trunk"]["body"], *more)


def head_values(parts: Parts, state: State, body: jax.Array) -> tuple[jax.Array, jax.Array]:
    """V [H, ...] and the advantages [H, ..., V] of all tokens, of every head, from the features of the body."""
    critic = state.params["critic"]

    def one(trunk: Any, heads: Any, body: jax.Array) -> jax.Array:
        return language_critics.token_values(heads, language_critics.hidden_features(trunk, body)).min(axis=-2)

    if parts.several:
        q = jax.vmap(one)(critic["trunk"], critic["heads"], body)[:, 0]
    else:
        q = one(critic["trunk"], critic["heads"], body)
    v = parts.value.of(state.params["value"], body, parts.several)
    return v, q - v[..., None]


def reader(parts: Parts, state: State, key: jax.Array | None) -> Reader:
    """Reads with the policy and the critics; the scores are what words are written by."""
    policy, critics = policy_reader(parts.model, state.params["policy"]), values_reader(parts, state, key)

    def joined(policy: tuple[jax.Array, Any], critics: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        return written_by(parts, policy[0], critics[0]), (policy[1], critics[1])

    def start(tokens: jax.Array, lengths: jax.Array):
        return joined(policy.start(tokens, lengths), critics.start(tokens, lengths))

    def extend(memory: Any, token: jax.Array):
        return joined(policy.extend(memory[0], token), critics.extend(memory[1], token))

    return Reader(start, extend)


def written_by(parts: Parts, log_probability: jax.Array, advantage: jax.Array) -> jax.Array:
    """The scores by which tokens are chosen."""
    return log_probability + jnp.minimum(parts.settings.beta * advantage, 0)


def act(parts: Parts, state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
    head_key, draw_key = jax.random.split(key)
    greedy = step is None and parts.settings.writing == "greedy"
    return write(parts.form, reader(parts, state, head_key), obs, None if greedy else draw_key)


def values(parts: Parts, state: State, key: jax.Array | None, obs: Any) -> jax.Array:
    """V of the texts [N]: the value of the best that could be written, as the data show it."""
    lengths = (obs != parts.form.pad).sum(axis=1)
    features = on_bodies(parts, state, lambda body: parts.model.start(body, obs, lengths)[0])
    return parts.source.select(state.source, key, head_values(parts, state, features)[0])


def decide(parts: Parts, state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
    return write(parts.form, reader(parts, state, None), obs, None), values(parts, state, None, obs)


def judge(parts: Parts, state: State, obs: Any, action: Any) -> Judgement:
    """What the agent thinks of actions [W, L] behind texts [W, T], in one pass over the texts with the actions."""
    texts, places = written_behind(parts.form, obs, action)

    def read(body: Any) -> jax.Array:
        return jnp.take_along_axis(parts.model.features(body, texts), places[..., None], axis=1)

    v, advantages = head_values(parts, state, on_bodies(parts, state, read))
    advantage = backups.of_action(advantages, jnp.broadcast_to(action, advantages.shape[:-1]))  # [H, W, L]
    policy = log_probabilities(parts.model, state.params["policy"], texts, places, action)
    score = written_by(parts, policy, parts.source.select(state.source, None, advantage))
    return Judgement(*(jnp.where(action == parts.form.pad, 0, x) for x in (policy, score, v + advantage, v)))


# Learning


def loss(parts: Parts, params: dict, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
    """The sum of all losses. `LossInfo` describes the critics only."""
    sample, settings = batch.transition, parts.settings
    tokens, written = sample.obs, decisions(parts.form, sample.obs)
    critic_key, policy_key = jax.random.split(key) if parts.dropout else (None, None)

    found = parts.source.values(params["critic"], state.source, Text(tokens, critic_key), None, key)
    features: Features = found.features
    # A measure may ask for the loss on a source of one head, which is then the first head of V.
    v = parts.value.of(params["value"], features.body, parts.several)[: found.weights.size]  # [H, B, T]
    predicted, bootstrap = (of_tokens(x, written.action) for x in (found.predicted, found.bootstrap))  # [H, B, T, C]

    # The reward lies where the token that closes an action stands.
    reward = jnp.where(written.closes, jnp.roll(sample.reward, -1, axis=1), 0)
    discount = jnp.where(written.last, sample.discount[:, None], settings.gamma)
    target = backups.bellman(reward, discount, at(written.next, jax.lax.stop_gradient(v)))

    counted = written.decides * batch.weights[:, None]
    mean = partial(averaged, counted)
    of_value = mean(losses.expectile(v - bootstrap.min(axis=-1), settings.expectile))
    error = predicted - target[..., None]
    of_q = mean(losses.squared(error).sum(axis=-1))
    penalty = mean(losses.conservative(found.predicted, predicted).sum(axis=-1))
    of_policy, accuracy = imitation(parts.model, params["policy"], tokens, written, batch.weights, policy_key)
    total = of_policy + jnp.sum(found.weights * (of_value + of_q + settings.conservative * penalty))

    each = partial(per_text, written.decides)
    metrics = {
        "value_loss": of_value.mean(),
        "policy_loss": of_policy,
        "conservative_loss": penalty.mean(),
        "accuracy": accuracy,
        "advantage": mean(predicted.min(axis=-1) - v).mean(),
    }
    info = LossInfo(of_q, each(jnp.abs(error)), each(target), each(predicted), Text(tokens), found.batch_stats, metrics)
    info = info._replace(weights=found.weights)
    return total, info


def of_tokens(outputs: jax.Array, action: jax.Array) -> jax.Array:
    """The values [H, B, T, C] of tokens [B, T], from those [H, B, T, C, V] of all tokens."""
    return backups.of_action(outputs, jnp.broadcast_to(action[..., None], outputs.shape[:-1]))


def averaged(counted: jax.Array, x: jax.Array) -> jax.Array:
    """The mean [H] of x [H, B, T] over the positions that are counted."""
    return jnp.sum(counted * x, axis=(1, 2)) / jnp.maximum(counted.sum(), 1)


def per_text(decides: jax.Array, x: jax.Array) -> jax.Array:
    """The mean of x [H, B, T, ...] over the positions of each text where something is written."""
    share = decides / jnp.maximum(decides.sum(axis=1, keepdims=True), 1)
    return jnp.einsum("bt,hbt...->hb...", share, x)


def learn(parts: Parts, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, LossInfo, dict]:
    def of_part(batch: Batch, key: jax.Array) -> tuple[Any, tuple[jax.Array, LossInfo]]:
        of = jax.value_and_grad(partial(loss, parts), has_aux=True)
        told, slope = of(state.params, state, batch, key)
        return slope, told

    slope, (totals, infos) = in_parts(of_part, batch, key, parts.settings.accumulate)
    total, info = totals.mean(), of_whole_batch(infos)
    params, moments = gradient_step(parts.optimiser, slope, state.optimiser, state.params)
    metrics = {
        "loss": total,
        "td_error": info.errors.mean(axis=(0, 2)).mean(),
        "q_value": info.predictions.mean(),
        **info.metrics,
    }
    return state._replace(params=params, optimiser=moments), info, metrics | parts.source.metrics(state.source)


def of_whole_batch(infos: LossInfo) -> LossInfo:
    """What a loss tells of a batch, from what it told of its parts. Every leaf of `infos` begins with the parts."""

    def rows(x: jax.Array) -> jax.Array:  # [parts, H, rows of a part, ...] -> [H, B, ...]
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    return LossInfo(
        infos.per_head.mean(axis=0),
        rows(infos.errors),
        rows(infos.targets),
        rows(infos.predictions),
        Text(infos.inputs.tokens.reshape(-1, infos.inputs.tokens.shape[-1])),
        jax.tree.map(lambda x: x[-1], infos.batch_stats),
        jax.tree.map(lambda x: x.mean(axis=0), infos.metrics),
        weights=infos.weights[0],
    )


def refresh(parts: Parts, state: State, info: RefreshInfo, step: jax.Array) -> State:
    """The source's refresh. V's heads shift with the critics'."""
    critic, source_state = parts.source.refresh(step, state.params["critic"], state.source, info)
    value = {**state.params["value"], "heads": parts.source.follow(step, state.params["value"]["heads"])}
    params = {**state.params, "critic": critic, "value": value}
    moments = renewed(parts.source, parts.optimiser, step, state.optimiser, source_state, params, "critic")
    return State(params, source_state, moments)
