"""PQN on any source of targets (Gallici et al., 2025): Q-learning on fresh rollouts of many environments, no replay.

    G_t = r_t + discount_t ( (1 - lambda) V_(t+1) + lambda G_(t+1) )      V = backup_a( bootstrap_h(s, a) ), for head h
    Q_h(s_t, a_t) <- G_t

Everything else is DQN's: its backups, its losses and its update. Of a distribution only the mean is backed up. What
makes a rollout, an epoch and a minibatch is set where it belongs, in the training and in `replay/rollout.py`, which
makes the returns and holds them.

Shape letters: H heads that learn, T steps of a rollout, N environments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from sharedq.algorithms.algorithm import Algorithm, RolloutTargets
from sharedq.algorithms.dqn import DQN, Penalty, State
from sharedq.bellman.returns import lambda_returns
from sharedq.environments.spec import EnvironmentSpec
from sharedq.optimizers import radam
from sharedq.settings import check_count, check_shares, require
from sharedq.targets.source import TargetSource
from sharedq.transitions import Step

SPENT = 0.01  # ours: below this share of its first value, a learning rate hardly moves anything


@dataclass(frozen=True)
class PQN(DQN):
    """Q-learning from the lambda-returns of fresh rollouts, without a replay."""

    learning_rate: float = 5e-4  # RAdam's learning rate, at the start
    final_learning_rate: float | None = None  # learning rate after learning_rate_updates; none keeps it constant
    learning_rate_updates: int = 156_250  # updates over which the learning rate changes, in a straight line
    adam_epsilon: float = 1e-8  # added to RAdam's denominator
    max_gradient_norm: float | None = 10.0  # clip the gradient to this global norm; none does not clip
    loss: Literal["squared", "half_squared", "huber"] = "half_squared"  # of a scalar value's error: as in DQN
    epsilon_end: float = 0.05  # share of random actions after epsilon_steps
    epsilon_steps: int = 1_000_000  # environment steps over which epsilon falls, in a straight line
    trace_decay: float = 0.65  # lambda: 0 bootstraps after one step, 1 only at the ends of rollout and episode
    targets: Literal["rollout", "epoch", "minibatch"] = "rollout"  # returns are made anew for each of these

    def __post_init__(self):
        super().__post_init__()
        check_shares("algorithm", self, "trace_decay")
        check_count("algorithm.learning_rate_updates", self.learning_rate_updates)
        require(
            self.backup != "munchausen" and not self.gradient_correction,
            "PQN makes its targets of whole rollouts, which is written for neither algorithm.backup munchausen nor "
            "algorithm.gradient_correction: leave them out, or add --algorithm dqn",
        )
        final = self.final_learning_rate
        require(final is None or final > 0, f"algorithm.final_learning_rate must be above 0 or none, not {final}")

    def check(self, experiment: Any, spec: EnvironmentSpec) -> None:
        """Refuses a replay that keeps earlier steps."""
        require(
            getattr(experiment.replay, "makes_targets", False),
            f"algorithm '{experiment.kind('algorithm')}' learns from fresh rollouts, and replay "
            f"'{experiment.kind('replay')}' does not provide them: add --replay rollout, or begin with a recipe named "
            "pqn-*",
        )

    def remarks(self, experiment: Any, spec: EnvironmentSpec) -> Iterator[str]:
        yield from super().remarks(experiment, spec)
        final, ends, updates = self.final_learning_rate, self.learning_rate_updates, experiment.training.updates
        if final is not None and final < SPENT * self.learning_rate and updates > 1.1 * ends:
            yield (
                f"the learning rate is {final:g} from update {ends:,} on, and there are {updates:,}: set "
                f"--algorithm.learning_rate_updates {updates}"
            )

    def _optimiser(self, decayed: Any = None) -> optax.GradientTransformationExtraArgs:
        final = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
        decay = self.learning_rate, final, self.learning_rate_updates
        return radam(*decay, self.adam_epsilon, self.max_gradient_norm)

    def on(self, source: TargetSource, penalty: Penalty | None = None) -> Algorithm:
        reading, backup = self.reading(), self.of_next_states()

        def next_values(state: State, next_obs: Any, key: jax.Array) -> jax.Array:
            value = source.values(state.params, state.source, next_obs, None, key)
            return backup.value(reading.value(value.bootstrap), reading.value(value.selector))  # [H, N]

        def make(state: State, steps: Step, key: jax.Array) -> jax.Array:
            by_time = jax.lax.map(lambda obs: next_values(state, obs, key), steps.next_obs)
            ends, values = (steps.terminated, steps.truncated), jnp.moveaxis(by_time, 0, 1)
            return lambda_returns(steps.reward, *ends, values, self.gamma, self.trace_decay)

        # A measure cannot put another source in place of this one: the replay has made the targets with this one.
        return super().on(source, penalty)._replace(rollout_targets=RolloutTargets(make, self.targets), on=None)
