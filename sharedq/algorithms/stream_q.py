"""Stream Q(lambda) on any source of targets (Elsayed et al., 2024), which learns from each step once, as it happens.

    delta_h = r + discount * max_a' bootstrap_h(s', a') - Q_h(s, a)     for every head h that learns
    z_h <- gamma lambda z_h + w_h grad Q_h(s, a)                  w_h is the source's weight of the head, mostly 1
    theta <- theta + step * sum_h delta_h z_h                           step by an optimiser, see optimizers.py

There is no replay and no batch. Each delta multiplies the past gradients of its own head, so weights that several heads
share have a trace for each head. Traces are cut after the update if an episode ends (also by a time limit), and if the
action was not greedy. When a source shifts its heads, their traces shift with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms.algorithm import Algorithm, LossInfo
from sharedq.algorithms.parts import discrete_actions, source_on
from sharedq.algorithms.stream_inputs import Inputs, Normalise, absorb, as_seen, none_yet, scaled_reward
from sharedq.bellman import backups
from sharedq.bellman.returns import discount
from sharedq.environments.spec import EnvironmentSpec
from sharedq.exploration import epsilon_greedy, greedy, linear_schedule, still_exploring
from sharedq.optimizers import Bound, Total, adaptive, gradient_step, intentional, obgd
from sharedq.settings import check_count, check_shares, require
from sharedq.targets.source import RefreshInfo, TargetSource
from sharedq.transitions import Batch, Step


class State(NamedTuple):
    """Everything that learning changes."""

    params: Any
    source: Any  # the source's state, which a step never changes: copies, frozen heads
    traces: Any  # the optimiser's state, with traces z of the parameters: [H, ...], or [1, ...] for a joint trace
    trace_mask: jax.Array  # [H] 1 if the past of the traces still counts, 0 if it was cut
    policy_key: jax.Array  # with it the source draws the behaviour head, for a whole episode
    inputs: Inputs  # running statistics of observations and rewards


LEARNING_RATES = {"obgd": 1.0, "adaptive": 4.6e-4, "intentional": 0.25}  # of the papers


@dataclass(frozen=True)
class StreamQ:
    """Q(lambda) from a stream: it learns from one step at a time, without a replay."""

    gamma: float = 0.99  # discount of future rewards, per step
    trace_decay: float = 0.8  # lambda, the decay of the eligibility traces
    optimiser: Literal["obgd", "adaptive", "intentional"] = "obgd"  # makes the steps; kappa .. credit are for obgd
    learning_rate: float | None = None  # none: 1 for obgd, 0.00046 for adaptive, 0.25 for intentional
    kappa: float = 2.0  # ObGD moves the parameters by at most 1 / kappa per step, in the 1-norm; 0 means no bound
    bound: Bound = "joint"  # joint: one bound for all heads; each: one per head, so the trunk may move K times as far
    trunk_traces: Literal["per_head", "joint"] = "per_head"  # joint: one for all heads, less memory but a biased update
    credit: Literal["naive", "forward"] = "naive"  # earlier steps' error: target - Q; forward: target - bootstrap V(s)
    cut: Literal["after", "before"] = "after"  # non-greedy action: reset traces after the update or before it (Watkins)
    normalise: Normalise = "each"  # each: by each element's statistics; newest: by the newest frame's; none: off
    scale_rewards: bool = True  # divide rewards by the running deviation of the discounted return
    epsilon_start: float = 1.0  # share of random actions (epsilon) at the first environment step
    epsilon_end: float = 0.01  # share of random actions after epsilon_steps
    epsilon_steps: int = 10_000  # environment steps over which epsilon falls, in a straight line
    evaluation_epsilon: float = 0.0  # share of random actions in evaluation

    def __post_init__(self):
        check_shares("algorithm", self, "gamma", "trace_decay", "epsilon_start", "epsilon_end", "evaluation_epsilon")
        require(self.rate > 0, f"algorithm.learning_rate must be above 0, not {self.rate}")
        require(self.kappa >= 0, f"algorithm.kappa cannot be negative: {self.kappa}")
        check_count("algorithm.epsilon_steps", self.epsilon_steps, least=0)
        require(
            self.trunk_traces == "per_head" or self.bound == "joint",
            "algorithm.trunk_traces joint has one error for all heads, and so takes algorithm.bound joint only",
        )
        for name in ("kappa", "bound", "trunk_traces", "credit"):
            require(
                self.optimiser == "obgd" or getattr(self, name) == getattr(StreamQ, name),
                f"algorithm.{name} belongs to algorithm.optimiser obgd, and {self.optimiser} does without it: leave it "
                "out",
            )

        require(
            self.optimiser == "obgd" or self.gamma * self.trace_decay < 1,
            f"algorithm.optimiser {self.optimiser} has means that forget by gamma lambda: set algorithm.gamma or "
            "algorithm.trace_decay below 1",
        )

    @property
    def rate(self) -> float:
        """The learning rate, which is the optimiser's own if none is given."""
        return LEARNING_RATES[self.optimiser] if self.learning_rate is None else self.learning_rate

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        return still_exploring(experiment.training, self.epsilon_steps, self.epsilon_end)

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        actions = discrete_actions(spec, "Stream Q")
        batches = network.build(actions).normalises_batch
        require(not batches, "Stream Q has no batch to normalise: set --network.norm layer_whole")
        return self.on(source_on(spec, target, network, actions))

    def on(self, source: TargetSource) -> Algorithm:
        """The algorithm on a source that is already built."""
        optimiser = self._optimiser(source)
        joint, forward = self.trunk_traces == "joint", self.credit == "forward"

        def init(key: jax.Array, example: Batch) -> State:
            source_key, policy_key = jax.random.split(key)
            inputs = none_yet(example.transition.obs[:1], self.normalise)
            obs = as_seen(inputs, example.transition.obs[:1], self.normalise)
            params, source_state = source.init(source_key, obs)
            heads = jax.eval_shape(source.values, params, source_state, obs, obs).weights.size
            traces = 1 if joint else heads
            slopes = _of_parts(source, jax.tree.map(lambda w: jnp.zeros((traces, *w.shape)), params), params)
            return State(params, source_state, optimiser.init(slopes), jnp.zeros(heads), policy_key, inputs)

        def values(state: State, key: jax.Array | None, obs: Any) -> jax.Array:
            return source.act_values(state.params, state.source, key, as_seen(state.inputs, obs, self.normalise))

        def act(state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
            head_key, explore_key = jax.random.split(key)
            if step is None:
                return epsilon_greedy(explore_key, lambda: values(state, head_key, obs), self.evaluation_epsilon)
            epsilon = linear_schedule(self.epsilon_start, self.epsilon_end, self.epsilon_steps, step)
            return epsilon_greedy(explore_key, lambda: values(state, state.policy_key, obs), epsilon)

        def decide(state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
            return greedy(values(state, None, obs))

        def loss(params: Any, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
            """Half the squared error. A gradient step on it is a step without traces and without a bound."""
            sample = batch.transition
            now, then = (as_seen(state.inputs, obs, self.normalise) for obs in (sample.obs, sample.next_obs))
            reward = scaled_reward(state.inputs, sample.reward) if self.scale_rewards else sample.reward
            value = source.values(params, state.source, now, then, key)
            best = backups.maximum(value.bootstrap, value.selector)
            target = backups.bellman(reward, sample.discount, best)  # [H, B]
            predicted = backups.of_action(value.predicted, jnp.broadcast_to(sample.action, target.shape))
            error = predicted - target
            per_head = 0.5 * jnp.mean(batch.weights * jnp.square(error), axis=1)
            info = LossInfo(per_head, jnp.abs(error), target, predicted, now, value.batch_stats, {})
            return value.weights @ per_head, info

        def refresh(state: State, info: RefreshInfo, step: jax.Array) -> State:
            params, source_state = source.refresh(step, state.params, state.source, info)
            return state._replace(params=params, source=source_state)

        def step_along(traces: Any, params: Any, slopes: Any, error: Any, credited: Any, past: jax.Array):
            """Parameters and traces after a step. Earlier pairs are credited with the error `credited`."""

            def each(x, of_all):
                """`x` [H], but one number for all heads in parts of the parameters where the trace is joint."""
                return {part: of_all(x)[None] if part in source.shared else x for part in slopes} if joint else x

            decay = each(self.gamma * self.trace_decay * past, jnp.min)
            of_newest = {"newest": each(error - credited, jnp.mean)} if forward else {}
            told = {"delta": each(credited, jnp.mean), "decay": decay, **of_newest}
            return gradient_step(optimiser, slopes, traces, params, **told)

        def learn(
            state: State, key: jax.Array, step: Step, obs: Any, count: jax.Array
        ) -> tuple[State, RefreshInfo, dict]:
            require(len(step.reward) == 1, "Stream Q learns from one stream: set --training.environments 1")
            # Traces move here to where the last refresh moved their heads. Moving them right after that refresh would
            # copy them at every step, because the step along them needs them as they were.
            z, known = source.follow(count - 1, (state.traces.z, state.trace_mask))
            inputs, pair = absorb(state.inputs, step, obs, self.gamma, self.normalise, self.scale_rewards)
            action, ended = step.action[0], (step.terminated | step.truncated)[0]
            then = jnp.concatenate([pair.then, pair.now]) if forward else pair.then
            q, value, slopes = _gradients(source, state, pair.now, then, action, joint, key)
            best = backups.maximum(value.bootstrap, value.selector)  # [H, 1 or 2]
            target = backups.bellman(pair.reward, discount(step.terminated[0], self.gamma), best[:, 0])
            error, credited = target - q, target - (best[:, 1] if forward else q)

            followed = source.select(state.source, state.policy_key, value.predicted)  # [1, A]
            past, trace_mask = self._cut(followed[0], action, ended, known)
            params, traces = step_along(state.traces._replace(z=z), state.params, slopes, error, credited, past)
            policy_key = jnp.where(ended, key, state.policy_key)
            state = State(params, state.source, traces, trace_mask, policy_key, inputs)
            metrics = {
                "loss": jnp.square(error).mean(),
                "td_error": jnp.abs(error).mean(),
                "q_value": q.mean(),
                "cut": 1 - trace_mask.mean(),
            }
            return state, RefreshInfo(pair.now, value.batch_stats, jnp.square(error), step.action), metrics

        def observe(state: State, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[State, dict]:
            state, info, metrics = learn(state, key, step, obs, count)
            return refresh(state, info, count), metrics

        return Algorithm(
            init, act, values, decide, observe, loss=loss, refresh=refresh, learn=learn, source=source, on=self.on
        )

    def _optimiser(self, source: TargetSource) -> optax.GradientTransformationExtraArgs:
        memory = self.gamma * self.trace_decay

        def total(tree: Any) -> Any:
            return _of_parts(source, jax.tree.map(sum, tree), tree)

        if self.optimiser == "adaptive":
            return summed_over_heads(adaptive(self.rate, memory, total), total)
        if self.optimiser == "intentional":
            return summed_over_heads(intentional(self.rate, memory, total), total)
        return summed_over_heads(obgd(self.rate, self.kappa, self.bound), total)

    def _cut(
        self, followed: jax.Array, action: jax.Array, ended: jax.Array, known: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Two masks [H]: whether the past counts at this step, and whether this step and its past count at the next.

        `known` is the second mask of the step before. `followed` [A] are the values that the policy follows.
        """
        not_greedy = followed[action] < followed.max()
        past = known * ~not_greedy if self.cut == "before" else known
        trace_mask = ~ended & (~not_greedy | (self.cut == "before"))
        return past, jnp.broadcast_to(trace_mask, known.shape).astype(known.dtype)


def summed_over_heads(
    optimiser: optax.GradientTransformationExtraArgs, total: Total
) -> optax.GradientTransformationExtraArgs:
    """The same optimiser, but it adds up the heads' updates of the parameters that they share.

    `total` adds one head after another. XLA's CPU compiler takes 16 ms to reduce 3 x 131,072 over the first axis, and
    0.03 ms in this way.
    """

    def update(gradients, traces, params=None, **extra):
        updates, traces = optimiser.update(gradients, traces, params, **extra)
        return total(updates), traces

    return optax.GradientTransformationExtraArgs(optimiser.init, update)


def _of_parts(source: TargetSource, shared: Any, own: Any) -> dict[str, Any]:
    """One tree: `shared` for the parts of the parameters that heads share, `own` for the other parts."""
    return {part: (shared if part in source.shared else own)[part] for part in own}


def _gradients(source: TargetSource, state: State, now: Any, then: Any, action: jax.Array, joint: bool, key: jax.Array):
    """Each head's Q of the action, the source's values, and the gradients of w_h Q_h with heads as the first axis."""

    def chosen(params):
        value = source.values(params, state.source, now, then, key)
        return value.predicted[:, 0, action], value  # a slice, because the gradient of a gather is a scatter

    q, pull, value = jax.vjp(chosen, state.params, has_aux=True)
    (own,) = pull(value.weights)  # right for parameters of one head, on which no other head depends
    if joint or q.size == 1:
        shared = jax.tree.map(lambda slope: slope[None], own)
    else:
        (shared,) = jax.vmap(pull)(jnp.diag(value.weights))
    return q, value, _of_parts(source, shared, own)
