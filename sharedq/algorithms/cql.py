"""Conservative Q-learning on any source of targets (Kumar et al., 2020): to learn from data that others have collected.

    loss of a head  =  loss of deep Q-learning or SAC  +  alpha * mean( log(sum_b exp(Q_h(s, b))) - Q_h(s, a) )

The penalty lowers the values of actions that the data lacks. Everything else is DQN's, or SAC's for continuous
actions. There the sum is an integral over actions, which is estimated from actions that are drawn uniformly and from
the policy, each divided by the density that it was drawn with. This is the variant that its authors call CQL(H).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from sharedq.algorithms import dqn, sac
from sharedq.algorithms.algorithm import Algorithm
from sharedq.algorithms.dqn import DQN
from sharedq.algorithms.sac import SAC
from sharedq.bellman import backups, losses
from sharedq.bellman.readings import Reading
from sharedq.networks.policies import Policy
from sharedq.settings import check_count, require
from sharedq.targets.source import TargetSource

SAMPLES = 1_000  # ours: the largest number of actions drawn from each distribution


@dataclass(frozen=True)
class CQL(DQN):
    """Conservative Q-learning, for discrete actions: DQN with a penalty on values of actions that the data lacks."""

    alpha: float = 0.1  # weight of the penalty (0.1 .. 4; more for less data); 0 is DQN

    def __post_init__(self):
        super().__post_init__()
        _check_alpha(self.alpha)

    def on(self, source: TargetSource, penalty: dqn.Penalty | None = None) -> Algorithm:
        return super().on(source, penalty or partial(of_all_actions, self.alpha))


@dataclass(frozen=True)
class CQLSAC(SAC):
    """Conservative Q-learning, for continuous actions: SAC with a penalty on values of actions that the data lacks."""

    alpha: float = 5.0  # weight of the penalty of each critic (1 .. 10; more for less data); 0 is SAC
    samples: int = 10  # actions drawn for the penalty: so many uniformly, from the policy at s, and from it at s'

    def __post_init__(self):
        super().__post_init__()
        _check_alpha(self.alpha)
        check_count("algorithm.samples", self.samples, most=SAMPLES)

    def on(
        self, source: TargetSource, reading: Reading, policy: Policy, actions: int, penalty: sac.Penalty | None = None
    ) -> Algorithm:
        return super().on(source, reading, policy, actions, penalty or partial(of_drawn_actions, self))


def _check_alpha(alpha: float) -> None:
    require(alpha >= 0, f"algorithm.alpha cannot be negative, and is {alpha}")


def of_all_actions(alpha: float, values: jax.Array, action: jax.Array) -> jax.Array:
    """The penalty [H, B] on values [H, B, A], where the data has the actions [H, B]."""
    return alpha * losses.conservative(values, backups.of_action(values, action))


def of_drawn_actions(
    settings: CQLSAC,
    parts: sac.Parts,
    critic: Any,
    state: sac.State,
    obs: jax.Array,
    next_obs: jax.Array,
    predicted: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """The penalty [H, B], summed over critics. `predicted` [H, B, C] are the values of the data's actions."""
    uniform_key, *policy_keys = jax.random.split(key, 3)
    size, draws = obs.shape[0], 3 * settings.samples
    shape = (settings.samples, size, parts.actions)
    uniform = jax.random.uniform(uniform_key, shape, predicted.dtype, -1, 1)
    drawn = [(uniform, jnp.full(shape[:2], -jnp.log(2.0) * parts.actions))]
    for policy_key, inputs in zip(policy_keys, (obs, next_obs), strict=True):
        sample = partial(parts.policy.sample, d=sac.distribution(parts, state, inputs))
        drawn.append(jax.vmap(sample)(jax.random.split(policy_key, settings.samples)))
    action, log_density = (jnp.concatenate(x) for x in zip(*drawn, strict=True))  # [draws, B, A] and [draws, B]
    inputs = jnp.broadcast_to(obs, (draws, *obs.shape)).reshape(-1, *obs.shape[1:]), action.reshape(-1, parts.actions)
    outputs = parts.source.values(critic, state.source, inputs).predicted
    values = parts.reading.value(outputs).reshape(len(predicted), draws, size, -1)  # [H, draws, B, C]
    scores = values - log_density[..., None] - jnp.log(draws)
    return settings.alpha * losses.conservative(jnp.moveaxis(scores, 1, -1), predicted).sum(axis=-1)
