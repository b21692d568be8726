"""Steps, transitions and batches: the data on the way from the environment to the update.

A `Step` is one environment step, as the replay stores it. An algorithm learns from a `Transition`, which may sum the
rewards of n steps. The transition's `discount` is gamma^n, or 0 if the episode terminated. So no loss asks why an
episode ended, and a time limit is never learned as a termination.
"""

from typing import Any, NamedTuple

import jax


class Step(NamedTuple):
    """One environment step. `next_obs` is the true successor, also at the end of an episode."""

    obs: Any
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array  # the episode ended in the environment: no value follows
    truncated: jax.Array  # a time limit ended the episode: the value of next_obs still counts
    next_obs: Any


class Transition(NamedTuple):
    """One sample to learn from: (s, a, R, discount, s')."""

    obs: Any
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_obs: Any


class Batch(NamedTuple):
    """Transitions drawn from a replay, with the weight of each in the loss and its place in the replay."""

    transition: Transition  # leaves [B, ...]
    weights: jax.Array  # [B], 1 where the draw was uniform
    ids: Any  # with these the replay finds the transitions again
    targets: Any = None  # [B, H] if they are made already, as returns of a rollout are; None: the loss makes them
