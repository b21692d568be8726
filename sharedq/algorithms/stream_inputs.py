"""Observations and rewards of a stream as they are learned from: normalised by what the stream was like so far.

An observation is counted when it arrives and then normalised, the first of each episode too, and so is a reward. After
a lost life the last observation of one episode is the first of the next: what arrived once is counted once.
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
    moments: Moments  # of observations
    returns: Returns


class Pair(NamedTuple):
    """A step as it is learned from."""

    now: jax.Array  # [1, ...]
    then: jax.Array  # [1, ...]
    reward: jax.Array  # []


def none_yet(obs: jax.Array, normalise: Normalise) -> Inputs:
    """Nothing has arrived; `obs` [1, ...] is an example."""
    return Inputs(no_moments(_counted(obs, normalise).shape[1:]), no_returns(1))


def as_seen(inputs: Inputs, obs: jax.Array, normalise: Normalise) -> jax.Array:
    """Observations as the network takes them. The very first, which nothing came before, counts for itself."""
    if normalise == "none":
        return obs
    moments = _begun(inputs.moments, obs, normalise)
    return normalised(obs, moments.mean, sample_variance(moments))


def scaled_reward(inputs: Inputs, reward: jax.Array) -> jax.Array:
    """Rewards as they are learned from, by what returns were like so far."""
    return scaled(reward, inputs.returns)


def absorb(
    inputs: Inputs, step: Step, obs: jax.Array, gamma: float, normalise: Normalise, scale_rewards: bool
) -> tuple[Inputs, Pair]:
    """The inputs after a step of one environment, and the step as it is learned from; `obs` is acted on next."""
    ended = step.terminated | step.truncated
    now = as_seen(inputs, step.obs, normalise)  # the very expression that was acted on, so that it is computed once
    begun = _begun(inputs.moments, step.obs, normalise)
    inputs = inputs._replace(moments=_noted(begun, step.next_obs, normalise))
    then = as_seen(inputs, step.next_obs, normalise)
    # Behind a barrier, or the comparison might be made anew for each number that hangs on it.
    anew = jax.lax.optimization_barrier(ended[0] & (obs != step.next_obs).any())
    moments = _noted(inputs.moments, obs, normalise, anew)
    returns = with_rewards(inputs.returns, step.reward, ended, gamma)
    reward = scaled(step.reward, returns) if scale_rewards else step.reward
    return Inputs(moments, returns), Pair(now, then, reward[0])


def _counted(obs: jax.Array, normalise: Normalise) -> jax.Array:
    """What of an observation has statistics: of a stack of frames the newest only, so that a frame counts once."""
    return obs[..., -1:] if normalise == "newest" else obs


def _noted(moments: Moments, obs: jax.Array, normalise: Normalise, counted: jax.Array | bool = True) -> Moments:
    return moments if normalise == "none" else with_more(moments, _counted(obs, normalise), counted)


def _begun(moments: Moments, obs: jax.Array, normalise: Normalise) -> Moments:
    return _noted(moments, obs, normalise, moments.count == 0)
