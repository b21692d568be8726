"""What an algorithm is: a few pure functions over one state.

Its settings are a frozen dataclass with `gamma` and `build(environment, target, network) -> Algorithm`, which takes the
environment's description and the settings of a source of targets and of a network. So an algorithm composes what it
needs (`parts.py` helps, with errors that a user can act on), and no other file knows any one algorithm.

One that learns from a replay has `update`. One that learns from each step as it happens has none, learns in `observe`,
and keeps no replay. Metrics are averaged over updates or over vector steps, two sets of names; one called "loss" must
stay finite. Steps are counted by the training loop, outside the axis of seeds, so that what happens every so many
steps stays a branch when many seeds run at once.

Shape letters: N environments of a seed, B batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sharedq.transitions import Step


def no_observation(state: Any, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[Any, dict]:
    """What most algorithms do with a step as it happens: nothing, which the loops know and spend nothing on."""
    return state, {}


class Algorithm(NamedTuple):
    """The state is a named tuple of the slots that the algorithm needs.

    `params` are the weights that learn. In a slot `source`, if there is one, `cost` looks for weights that are held and
    not trained; other slots it tells by their names. A slot `kept` of zeros credits nothing to what happened before.
    """

    init: Callable  # (key, example: Batch) -> state

    # (state, key, obs [N, ...], step) -> actions [N, ...]. `step` counts environment steps; None means evaluation.
    act: Callable

    # (state, key, obs [N, ...]) -> what the policy follows: [N, A], or [N] where actions are continuous.
    values: Callable

    # (state, key, step: Step [N, ...], obs [N, ...], count) -> state, metrics. One vector step as it happens, before
    # updates that are due. `obs` is acted on next: step.next_obs, or the first of the next episode. `count` counts
    # vector steps from 1. Rewards are bounded if the training says so.
    observe: Callable = no_observation

    # (state, batch, key, step) -> state, errors [B], metrics. One gradient update; `step` counts updates from 1. The
    # errors go back to the replay.
    update: Callable | None = None


def learning_of(algorithm: Algorithm) -> Callable:
    """`learn(state, data, key, count) -> state, ...`: an update on a batch, or on a vector step where it streams."""
    if algorithm.update is not None:
        return algorithm.update
    return lambda state, step, key, count: algorithm.observe(state, key, step, step.next_obs, count)
