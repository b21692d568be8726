"""Normalises the observations and rewards of a stream by the running statistics of the stream.

Each observation first enters the statistics and is then normalised by them; so is the first of each episode, and so are
rewards. After a lost life the last observation of one episode is the first of the next one. It arrives once, so it is
counted once.
"""

from typing import Literal, NamedTuple

import jax

from sharedq.normalisers import (
    Moments,
    Returns,
    no_moments,
    no_returns,
    normalised,
    sample_variance,
    scaled,
    with_more,
    with_rewards,
)
from sharedq.transitions import Step

Normalise = Literal["each", "newest", "none"]


class Inputs(NamedTuple):
    moments: Moments  # statistics of observations
    returns: Returns  # statistics of returns


class Pair(NamedTuple):
    """A step, normalised for learning."""

    now: jax.Array  # [1, ...]
    then: jax.Array  # [1, ...]
    reward: jax.Array  # []


def none_yet(obs: jax.Array, normalise: Normalise) -> Inputs:
    """The statistics before anything has arrived; `obs` [1, ...] is an example."""
    return Inputs(no_moments(_counted(obs, normalise).shape[1:]), no_returns(1))


def as_seen(inputs: Inputs, obs: jax.Array, normalise: Normalise) -> jax.Array:
    """Observations, normalised for the network. The very first is normalised by its own statistics."""
    if normalise == "none":
        return obs
    moments = _begun(inputs.moments, obs, normalise)
    return normalised(obs, moments.mean, sample_variance(moments))


def scaled_reward(inputs: Inputs, reward: jax.Array) -> jax.Array:
    """Rewards, divided by the deviation of the returns so far."""
    return scaled(reward, inputs.returns)


def absorb(
    inputs: Inputs, step: Step, obs: jax.Array, gamma: float, normalise: Normalise, scale_rewards: bool
) -> tuple[Inputs, Pair]:
    """The statistics after a step of one environment, and the normalised step. The agent acts next on `obs`."""
    ended = step.terminated | step.truncated
    now = as_seen(inputs, step.obs, normalise)  # the same expression as in acting, so it is computed once
    begun = _begun(inputs.moments, step.obs, normalise)
    inputs = inputs._replace(moments=_noted(begun, step.next_obs, normalise))
    then = as_seen(inputs, step.next_obs, normalise)
    # Without the barrier, XLA may repeat the comparison for each number that depends on it.
    anew = jax.lax.optimization_barrier(ended[0] & (obs != step.next_obs).any())
    moments = _noted(inputs.moments, obs, normalise, anew)
    returns = with_rewards(inputs.returns, step.reward, ended, gamma)
    reward = scaled(step.reward, returns) if scale_rewards else step.reward
    return Inputs(moments, returns), Pair(now, then, reward[0])


def _counted(obs: jax.Array, normalise: Normalise) -> jax.Array:
    """The part of an observation that is counted: of a stack only the newest frame, so that each frame counts once."""
    return obs[..., -1:] if normalise == "newest" else obs


def _noted(moments: Moments, obs: jax.Array, normalise: Normalise, counted: jax.Array | bool = True) -> Moments:
    return moments if normalise == "none" else with_more(moments, _counted(obs, normalise), counted)


def _begun(moments: Moments, obs: jax.Array, normalise: Normalise) -> Moments:
    return _noted(moments, obs, normalise, moments.count == 0)
