"""What travels from the environment to the update.

`Step` is what happened, as it is stored; `Transition` is what is learned from. Between them lies n-step: the
transition's `discount` is gamma^n where the world went on and 0 where it ended, so no loss ever asks why an
episode ended, and a time limit is never learned as a death.
"""

from typing import Any, NamedTuple

import jax


class Step(NamedTuple):
    """One environment step. `next_obs` is the true successor, also at the end of an episode."""

    obs: Any
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array  # the world ended: nothing follows
    truncated: jax.Array  # only the watching ended: the value of next_obs still counts
    next_obs: Any


class Transition(NamedTuple):
    """What an algorithm learns from: (s, a, R, discount, s')."""

    obs: Any
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_obs: Any


class Batch(NamedTuple):
    """Transitions drawn from a replay, with the weight of each in the loss and where it came from."""

    transition: Transition  # leaves [B, ...]
    weights: jax.Array  # [B], 1 where the draw was uniform
    ids: Any  # what the replay needs to find the transitions again
