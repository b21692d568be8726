"""Deep Q-learning on any source of targets (Mnih et al., 2015).

    Q_h(s, a) <- r + discount * backup_a'( bootstrap_h(s', a') )        for every head h that learns

The source decides which heads there are and what each of them bootstraps on. With a penalty on the values this is
conservative Q-learning. With another backup it is double or mellowmax Q-learning. With a table as the network it is the
tabular algorithm.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms.algorithm import Algorithm, LossInfo, refreshed
from sharedq.algorithms.parts import discrete_actions, source_on
from sharedq.bellman import backups, losses
from sharedq.environments.spec import EnvironmentSpec
from sharedq.exploration import epsilon_greedy, greedy, linear_schedule, still_exploring
from sharedq.optimizers import adam, gradient_step
from sharedq.settings import check_count, require
from sharedq.targets.source import RefreshInfo, TargetSource
from sharedq.transitions import Batch

Penalty = Callable[[jax.Array, jax.Array], jax.Array]  # values [H, B, A], actions [H, B] -> [H, B]


class State(NamedTuple):
    """Everything that learning changes."""

    params: Any  # the weights that the optimiser updates
    source: Any  # the source's state, which the optimiser never sees: copies, frozen heads, running statistics
    optimiser: Any


@dataclass(frozen=True)
class DQN:
    """Deep Q-learning with an epsilon-greedy policy."""

    gamma: float = 0.99  # discount of future rewards, per step
    learning_rate: float = 6.25e-5  # Adam's learning rate
    adam_epsilon: float = 1.5e-4  # added to Adam's denominator
    max_gradient_norm: float | None = None  # clip the gradient to this global norm; none does not clip
    backup: Literal["maximum", "double", "mellowmax"] = "maximum"  # how the value of a next state is computed
    mellowmax_omega: float = 10.0  # sharpness of the mellowmax; a large one is nearly the maximum
    loss: Literal["squared", "half_squared", "huber"] = "squared"  # of an error: its square, half of it, or Huber's
    epsilon_start: float = 1.0  # share of random actions (epsilon) at the first environment step
    epsilon_end: float = 0.01  # share of random actions after epsilon_steps
    epsilon_steps: int = 250_000  # environment steps over which epsilon falls, in a straight line
    evaluation_epsilon: float = 0.0  # share of random actions in evaluation

    def __post_init__(self):
        require(0 <= self.gamma <= 1, f"algorithm.gamma must lie in 0 .. 1, not {self.gamma}")
        require(self.learning_rate > 0, f"algorithm.learning_rate must be above 0, not {self.learning_rate}")
        require(self.adam_epsilon > 0, f"algorithm.adam_epsilon must be above 0, not {self.adam_epsilon}")
        require(self.mellowmax_omega > 0, f"algorithm.mellowmax_omega must be above 0, not {self.mellowmax_omega}")
        bound = self.max_gradient_norm
        require(bound is None or bound > 0, f"algorithm.max_gradient_norm must be above 0 or none, not {bound}")
        check_count("algorithm.epsilon_steps", self.epsilon_steps, least=0)
        for name in ("epsilon_start", "epsilon_end", "evaluation_epsilon"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"algorithm.{name} must lie in 0 .. 1, not {share}")

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        return still_exploring(experiment.training, self.epsilon_steps, self.epsilon_end)

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        return self.on(source_on(spec, target, network, discrete_actions(spec, type(self).__name__)))

    def _optimiser(self) -> optax.GradientTransformationExtraArgs:
        return adam(self.learning_rate, self.adam_epsilon, self.max_gradient_norm)

    def _backup(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """The value of a next state, given the bootstrap and the selector."""
        return {
            "maximum": backups.maximum,
            "double": backups.double,
            "mellowmax": lambda values, selector: backups.mellowmax(values, selector, self.mellowmax_omega),
        }[self.backup]

    def on(self, source: TargetSource, penalty: Penalty | None = None) -> Algorithm:
        """The algorithm on a source that is already built, with an optional penalty on the values."""
        optimiser, backup = self._optimiser(), self._backup()
        loss_of = {"squared": losses.squared, "half_squared": losses.half_squared, "huber": losses.huber}[self.loss]

        def init(key: jax.Array, example: Batch) -> State:
            params, source_state = source.init(key, example.transition.obs)
            return State(params, source_state, optimiser.init(params))

        def values(state: State, key: jax.Array | None, obs: Any) -> jax.Array:
            return source.act_values(state.params, state.source, key, obs)

        def act(state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
            head_key, explore_key = jax.random.split(key)
            if step is None:
                epsilon = self.evaluation_epsilon
            else:
                epsilon = linear_schedule(self.epsilon_start, self.epsilon_end, self.epsilon_steps, step)
            return epsilon_greedy(explore_key, lambda: values(state, head_key, obs), epsilon)

        def decide(state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
            return greedy(values(state, None, obs))

        def loss(params: Any, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
            sample, made = batch.transition, batch.targets
            value = source.values(params, state.source, sample.obs, sample.next_obs if made is None else None)
            if made is None:
                next_value = backup(value.bootstrap, value.selector)
                target = backups.bellman(sample.reward, sample.discount, next_value)  # [H, B]
            else:
                target = made.T
            action = jnp.broadcast_to(sample.action, target.shape)
            predicted = backups.of_action(value.predicted, action)
            error = predicted - target
            each, metrics = loss_of(error), {}
            if penalty is not None:
                added = penalty(value.predicted, action)
                each, metrics = each + added, {"penalty": added.mean()}
            per_head = jnp.mean(batch.weights * each, axis=1)
            info = LossInfo(per_head, jnp.abs(error), target, predicted, sample.obs, value.batch_stats, metrics)
            return value.weights @ per_head, info

        def refresh(state: State, info: RefreshInfo, step: jax.Array) -> State:
            params, source_state = source.refresh(step, state.params, state.source, info)
            return state._replace(params=params, source=source_state)

        def learn(state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, LossInfo, dict]:
            (total, info), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, state, batch, key)
            params, moments = gradient_step(optimiser, gradient, state.optimiser, state.params)
            td_error = info.errors.mean(axis=0).mean()
            metrics = {"loss": total, "td_error": td_error, "q_value": info.predictions.mean(), **info.metrics}
            return State(params, state.source, moments), info, metrics

        return Algorithm(
            init,
            act,
            values,
            decide,
            update=refreshed(learn, refresh),
            loss=loss,
            refresh=refresh,
            learn=learn,
            source=source,
            on=partial(self.on, penalty=penalty),
        )
