"""Deep Q-learning on any source of targets (Mnih et al., 2015).

    Q_h(s, a) <- r + discount * backup_a'( bootstrap_h(s', a') )        for every head h that learns

The source decides which heads there are and what each of them bootstraps on. With a penalty on the values this is
conservative Q-learning. With another backup it is double or mellowmax Q-learning, expected SARSA or Munchausen DQN. The
values can be distributions of returns, as in C51, QR-DQN and HL-Gauss. With a table as the network it is the tabular
algorithm.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms import correction
from sharedq.algorithms.algorithm import Algorithm, LossInfo, refreshed
from sharedq.algorithms.parts import discrete_actions, source_on
from sharedq.bellman import backups, losses, readings
from sharedq.bellman.backups import Backup
from sharedq.bellman.readings import Reading
from sharedq.environments.spec import EnvironmentSpec
from sharedq.exploration import epsilon_greedy, greedy, linear_schedule, still_exploring
from sharedq.optimizers import adam, gradient_step
from sharedq.settings import check_count, check_shares, require
from sharedq.targets.source import RefreshInfo, TargetSource, Values, optimiser_of, renewed
from sharedq.transitions import Batch

LEAST_LOG = -1.0  # the bound of the Munchausen term tau log pi, as in its paper
ATOMS = 100_000  # ours: the largest number of returns allowed

BackupName = Literal["maximum", "double", "mellowmax", "expected_sarsa", "munchausen"]
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
    backup: BackupName = "maximum"  # how the value of a next state is computed (expected_sarsa: with epsilon_end)
    mellowmax_omega: float = 10.0  # sharpness of the mellowmax; a large one is nearly the maximum
    munchausen_tau: float = 0.03  # temperature of the Munchausen policy; a small one is nearly greedy
    munchausen_alpha: float = 0.9  # share of the policy's log probability that Munchausen adds to the reward
    values: readings.Kind = "scalar"  # a value, or a distribution: categorical (C51), quantile (QR-DQN), hl_gauss
    atoms: int = 51  # number of returns of a categorical distribution, of quantiles, or of bins of hl_gauss
    value_bound: float = 10.0  # categorical and hl_gauss: returns lie in -value_bound .. value_bound
    loss: Literal["squared", "half_squared", "huber"] = "squared"  # of a scalar value's error; or half of its square
    gradient_correction: bool = False  # add what the gradient of the target is missing (QRC, Gi-DQN), by further heads
    correction_decay: float = 1.0  # decay of the weights of these heads, per unit of the learning rate
    epsilon_start: float = 1.0  # share of random actions (epsilon) at the first environment step
    epsilon_end: float = 0.01  # share of random actions after epsilon_steps
    epsilon_steps: int = 250_000  # environment steps over which epsilon falls, in a straight line
    evaluation_epsilon: float = 0.0  # share of random actions in evaluation

    def __post_init__(self):
        check_shares("algorithm", self, "gamma")
        require(self.learning_rate > 0, f"algorithm.learning_rate must be above 0, not {self.learning_rate}")
        require(self.adam_epsilon > 0, f"algorithm.adam_epsilon must be above 0, not {self.adam_epsilon}")
        for name in ("mellowmax_omega", "munchausen_tau", "value_bound"):
            require(getattr(self, name) > 0, f"algorithm.{name} must be above 0, not {getattr(self, name)}")
        check_count("algorithm.atoms", self.atoms, least=2, most=ATOMS)
        scalar = self.values == "scalar"
        require(
            self.values in ("scalar", "hl_gauss") or self.backup != "mellowmax",
            f"algorithm.backup mellowmax is of expected values, and {self.values} backs up distributions: add "
            "--algorithm.values scalar or hl_gauss, or choose another backup",
        )
        require(
            scalar or self.loss != "huber",
            f"algorithm.loss {self.loss} is of scalar values, and {self.values} has a loss of its own: leave it out",
        )
        require(
            not self.gradient_correction or (scalar and self.loss == "squared" and self.backup != "munchausen"),
            "algorithm.gradient_correction is of the squared error of scalar values, and of targets without a term of "
            "the policy: leave algorithm.values, algorithm.loss and algorithm.backup munchausen out",
        )
        require(self.correction_decay >= 0, f"algorithm.correction_decay cannot be negative: {self.correction_decay}")
        bound = self.max_gradient_norm
        require(bound is None or bound > 0, f"algorithm.max_gradient_norm must be above 0 or none, not {bound}")
        check_count("algorithm.epsilon_steps", self.epsilon_steps, least=0)
        check_shares("algorithm", self, "epsilon_start", "epsilon_end", "evaluation_epsilon", "munchausen_alpha")

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        yield from still_exploring(experiment.training, self.epsilon_steps, self.epsilon_end)
        noisy, acts = getattr(experiment.network, "noisy", False), experiment.training.learns_from != "data"
        if self.epsilon_start == self.epsilon_end == 0 and not noisy and acts:
            yield "nothing explores: epsilon is 0 and no layer is noisy; set --algorithm.epsilon_end 0.01"

    def build(self, spec: EnvironmentSpec, target: Any, network: Any) -> Algorithm:
        actions = discrete_actions(spec, type(self).__name__)
        serves = dict.fromkeys(("noise", "anchor", "moments", "losses"), True)
        return self.on(source_on(spec, target, network, actions, self.reading(), **serves))

    def reading(self) -> Reading:
        """How the network's outputs are read."""
        return readings.of_kind(self.values, self.atoms, self.value_bound, losses.NAMED[self.loss])

    def of_next_states(self) -> Backup:
        """The backup, which gives the value of a next state."""
        return {
            "maximum": lambda: backups.MAXIMUM,
            "double": lambda: backups.DOUBLE,
            "mellowmax": lambda: backups.mellowmax_of(self.mellowmax_omega),
            "expected_sarsa": lambda: backups.expected_sarsa(self.epsilon_end),
            "munchausen": lambda: backups.munchausen(self.munchausen_tau),
        }[self.backup]()

    def _optimiser(self, decayed: Any = None) -> optax.GradientTransformationExtraArgs:
        """The optimiser. Where the tree `decayed` is true, weights decay with the rate of the correction."""
        return adam(self.learning_rate, self.adam_epsilon, self.max_gradient_norm, self.correction_decay, decayed)

    def on(self, source: TargetSource, penalty: Penalty | None = None) -> Algorithm:
        """The algorithm on a source that is already built, with an optional penalty on the values."""
        corrects = self.gradient_correction
        if corrects:
            correction.check(source)
        require(
            not source.losses or (self.values == "scalar" and not corrects),
            "target.losses are losses of scalar values: leave --algorithm.values and gradient_correction out",
        )
        optimiser = self._optimiser({"source": False, "correction": True} if corrects else None)
        optimiser = optimiser_of(source, optimiser, self.learning_rate)
        reading, backup = self.reading(), self.of_next_states()

        def own(params: Any) -> Any:
            """The source's parameters."""
            return params["source"] if corrects else params

        def init(key: jax.Array, example: Batch) -> State:
            obs = example.transition.obs
            params, source_state = source.init(key, obs)
            if corrects:
                shapes = jax.eval_shape(source.values, params, source_state, obs, obs)
                h = correction.init(source, jax.random.fold_in(key, 1), shapes)
                params = {"source": params, "correction": h}
            return State(params, source_state, optimiser.init(params))

        def values(state: State, key: jax.Array | None, obs: Any, noisy: bool = False) -> jax.Array:
            return source.act_values(own(state.params), state.source, key, obs, noisy)

        def act(state: State, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
            head_key, explore_key = jax.random.split(key)
            if step is None:
                epsilon = self.evaluation_epsilon
            else:
                epsilon = linear_schedule(self.epsilon_start, self.epsilon_end, self.epsilon_steps, step)
            return epsilon_greedy(explore_key, lambda: values(state, head_key, obs, step is not None), epsilon)

        def decide(state: State, obs: Any) -> tuple[jax.Array, jax.Array]:
            return greedy(values(state, None, obs))

        def loss(params: Any, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
            sample, made = batch.transition, batch.targets
            then = sample.next_obs if made is None else None
            value = source.values(own(params), state.source, sample.obs, then, key)
            if corrects:
                assert source.live_bootstrap is not None
                value = value._replace(bootstrap=source.live_bootstrap(own(params), state.source, sample.next_obs, key))
            if made is None:
                returns, masses = backed_up(params, state, batch, key, value)
            else:
                returns, masses = made.T[..., None], jnp.ones(1, made.dtype)
            action = jnp.broadcast_to(sample.action, value.predicted.shape[:2])
            outputs = backups.of_action(value.predicted, action, len(reading.shape))
            target, predicted = jnp.sum(returns * masses, axis=-1), reading.value(outputs)  # [H, B]
            error = predicted - target
            metrics = {}
            if corrects:
                estimate = correction.errors(source, params["correction"], value.features, action)
                each = correction.loss(predicted, target, estimate)
                metrics = {"correction": estimate[source.frozen_heads :].mean()}
            elif source.losses:
                each = jnp.stack([losses.NAMED[name](one) for name, one in zip(source.losses, error, strict=True)])
            else:
                each = reading.loss(outputs, reading.target(returns, masses))
            distribution_losses = each if reading.shape else None
            if value.anchor is not None:
                anchor = backups.of_action(value.anchor, action, len(reading.shape))
                each = each + value.anchor_weight * readings.distance(reading, outputs, anchor)
            if penalty is not None:
                added = penalty(reading.value(value.predicted), action)
                each, metrics = each + added, {**metrics, "penalty": added.mean()}
            per_head = jnp.mean(batch.weights * each, axis=1)
            told = sample.obs, value.batch_stats, metrics, distribution_losses, sample.action, value.weights
            info = LossInfo(per_head, jnp.abs(error), target, predicted, *told)
            return value.weights @ per_head, info

        def backed_up(
            params: Any, state: State, batch: Batch, key: jax.Array, value: Values
        ) -> tuple[jax.Array, jax.Array]:
            """The distribution of targets: returns [..., B, m] and their masses."""
            reward, discount = batch.transition.reward, batch.transition.discount
            if self.backup == "munchausen":
                reward = reward + self.munchausen_alpha * log_policy(params, state, batch, key)  # [H, B]
                discount = jnp.broadcast_to(discount, reward.shape)
            returns, masses = bootstrapped(reading, backup, value)
            return backups.bellman(reward[..., None], discount[..., None], returns), masses

        def log_policy(params: Any, state: State, batch: Batch, key: jax.Array) -> jax.Array:
            """tau log pi(a|s) [H, B] of the policy of the values that the targets bootstrap on, bounded from below."""
            sample = batch.transition
            held = reading.value(source.values(own(params), state.source, sample.obs, None, key).bootstrap)
            log = backups.scaled_log_softmax(held, self.munchausen_tau)
            return jnp.clip(backups.of_action(log, jnp.broadcast_to(sample.action, log.shape[:2])), LEAST_LOG, 0)

        def refresh(state: State, info: RefreshInfo, step: jax.Array) -> State:
            params, source_state = source.refresh(step, own(state.params), state.source, info)
            if corrects:
                params = {"source": params, "correction": source.follow(step, state.params["correction"])}
            moments = renewed(source, optimiser, step, state.optimiser, source_state, params)
            return State(params, source_state, moments)

        def learn(state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, LossInfo, dict]:
            (total, info), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, state, batch, key)
            params, moments = gradient_step(optimiser, gradient, state.optimiser, state.params)
            td_error = info.errors.mean(axis=0).mean()
            metrics = {"loss": total, "td_error": td_error, "q_value": info.predictions.mean(), **info.metrics}
            metrics |= source.metrics(state.source)
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
            source_part="source" if corrects else None,
            on=partial(replace(self, gradient_correction=False).on, penalty=penalty),
        )


def bootstrapped(reading: Reading, backup: Backup, value: Values) -> tuple[jax.Array, jax.Array]:
    """The distribution of next states: returns [..., B, m] and their masses. An expected value is one return."""
    held, selector = reading.value(value.bootstrap), reading.value(value.selector)  # [H, B, A]
    if reading.backs_up_means:
        return backup.value(held, selector)[..., None], jnp.ones(1, held.dtype)
    if backup.action is not None:
        chosen = backups.of_action(value.bootstrap, backup.action(held, selector), len(reading.shape))
        return reading.atoms(chosen)
    assert backup.policy is not None
    probabilities, bonus = backup.policy(held, selector)
    returns, masses = reading.atoms(value.bootstrap)  # [..., A, m]
    returns, masses = returns + bonus[..., None], masses * probabilities[..., None]
    return returns.reshape(*held.shape[:2], -1), masses.reshape(*held.shape[:2], -1)
