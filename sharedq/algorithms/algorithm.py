"""What an algorithm is: a few pure functions over one state.

Its settings are a frozen dataclass with `gamma` and `build(spec, target, network) -> Algorithm`, which takes the
environment's description and the settings of a source of targets and of a network. So an algorithm composes what it
needs (`parts.py` helps, with errors that a user can act on), and no other file knows any one algorithm.

One that learns from a replay has `update`. One that learns from each step as it happens has none, learns in `observe`,
and keeps no replay. Metrics are averaged over updates or over vector steps, two sets of names; one called "loss" must
stay finite. Steps are counted by the training loop, outside the axis of seeds, so that what happens every so many
steps stays a branch when many seeds run at once.

Shape letters: N environments of a seed, B batch, H heads that learn.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax

from sharedq.targets.source import RefreshInfo
from sharedq.transitions import Batch, Step


class LossInfo(NamedTuple):
    """What a loss says besides its total. Several critics are one more axis behind B."""

    per_head: jax.Array  # [H] the mean loss of each head, before the source's weights
    errors: jax.Array  # [H, B] the distance between prediction and target, without its sign
    targets: jax.Array  # [H, B] what was regressed on, as a number; critics have one in common
    predictions: jax.Array  # [H, B] of the actions taken, as a number
    inputs: Any  # what the source was given at now
    batch_stats: Any  # the trunk's running statistics after this batch
    metrics: dict[str, jax.Array]  # what else the log shows

    @property
    def for_refresh(self) -> RefreshInfo:
        return RefreshInfo(self.inputs, self.batch_stats, self.per_head)


class Init(Protocol):
    def __call__(self, key: jax.Array, example: Batch) -> Any:
        """The state before the first step."""


class Act(Protocol):
    def __call__(self, state: Any, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
        """Actions [N, ...]. `step` counts environment steps; None means evaluation."""


class ValuesOf(Protocol):
    def __call__(self, state: Any, key: jax.Array, obs: Any) -> jax.Array:
        """The values that the policy follows: [N, A], or [N] where actions are continuous."""


class Decide(Protocol):
    def __call__(self, state: Any, obs: Any) -> tuple[jax.Array, jax.Array]:
        """The greedy actions [N, ...] and the values that they follow. Nothing is drawn."""


class Loss(Protocol):
    def __call__(self, params: Any, state: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
        """What the source's update differentiates by `params`, which are like those of the state."""


class Refresh(Protocol):
    def __call__(self, state: Any, info: RefreshInfo, step: jax.Array) -> Any:
        """The state after the source has followed the gradient step number `step`, which counts from 1."""


class Observe(Protocol):
    def __call__(self, state: Any, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[Any, dict]:
        """State and metrics after one vector step [N, ...] as it happened, before updates that are due.

        `obs` is acted on next: step.next_obs, or the first observation of the next episode. `count` counts vector
        steps from 1. Rewards are bounded if the training says so.
        """


class Update(Protocol):
    def __call__(self, state: Any, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[Any, jax.Array, dict]:
        """State, errors [B] and metrics after one gradient update; the errors go back to the replay."""


def no_observation(state: Any, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[Any, dict]:
    """What most algorithms do with a step as it happens: nothing, which the loops know and spend nothing on."""
    return state, {}


class Algorithm(NamedTuple):
    """The state is a named tuple of the slots that the algorithm needs.

    `params` are the weights that learn. In a slot `source`, if there is one, `cost` looks for weights that are not
    trained; other slots it tells by their names. A slot `trace_mask` of zeros credits nothing to what happened before.
    """

    init: Init
    act: Act
    values: ValuesOf
    decide: Decide
    observe: Observe = no_observation
    update: Update | None = None
    loss: Loss | None = None  # None: there is no loss to differentiate, as with a table
    refresh: Refresh | None = None  # None: there is no source that follows a gradient step

    @property
    def learns_from(self) -> Literal["replay", "stream"]:
        return "stream" if self.update is None else "replay"


def learning_of(algorithm: Algorithm) -> Callable:
    """`learn(state, data, key, count) -> state, ...`: an update on a batch, or on a vector step where it streams."""
    if algorithm.update is not None:
        return algorithm.update
    return lambda state, step, key, count: algorithm.observe(state, key, step, step.next_obs, count)
