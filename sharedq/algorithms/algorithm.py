"""What an algorithm is: a few pure functions over one state.

The settings of an algorithm are a frozen dataclass with `gamma` and `build(spec, target, network) -> Algorithm`, which
takes the environment's description and the settings of a source of targets and of a network. So an algorithm puts
together what it needs, with the help of `parts.py`, and no other file has to know any algorithm.

Settings with the class attribute `uses_target = False` say that the source is ignored, as in behaviour cloning. Their
runs are called by a class attribute `label`, and a comparison of several sources trains them once.

An algorithm that learns from a replay has `update`. One that learns from each step as it happens has no `update`: it
learns in `observe` and keeps no replay. Metrics of `update` are averaged over updates, those of `observe` over vector
steps, and the two use different names. A metric called "loss" must stay finite. The training loop counts the steps,
outside the axis of seeds. So what happens only every so many steps stays a branch when many seeds run at once.

Shape letters: N environments of a seed, B batch, H heads that learn, E estimates: the heads, times their critics.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sharedq.targets.source import RefreshInfo, TargetSource
from sharedq.transitions import Batch, Step


class LossInfo(NamedTuple):
    """What a loss returns besides its total. Several critics are one more axis behind B."""

    per_head: jax.Array  # [H] the mean loss of each head, before the source's weights
    errors: jax.Array  # [H, B] the absolute difference between prediction and target
    targets: jax.Array  # [H, B] the targets, as scalars; all critics share one target
    predictions: jax.Array  # [H, B] the values of the actions taken, as scalars; of each critic, if there are several
    inputs: Any  # the source's input of now
    batch_stats: Any  # the trunk's running statistics after this batch
    metrics: dict[str, jax.Array]  # further metrics for the log
    distribution_losses: Any = None  # [H, B] the losses of distributions, which samplers get in place of TD errors
    action: Any = None  # [B] the discrete actions of the batch, for the source's refresh
    weights: Any = None  # [H] the source's weights of the losses of heads

    @property
    def td_errors(self) -> jax.Array:
        """Predictions minus targets, [E, B]: of every head, and if there are several critics, of each of them.

        A distribution has no error with a sign. Its loss stands for it, as in Rainbow.
        """
        errors = self.distribution_losses
        if errors is None:
            critics = self.predictions.ndim > self.targets.ndim
            errors = self.predictions - (self.targets[..., None] if critics else self.targets)
        return errors if errors.ndim == 2 else jnp.moveaxis(errors, 2, 1).reshape(-1, errors.shape[1])

    @property
    def for_refresh(self) -> RefreshInfo:
        return RefreshInfo(self.inputs, self.batch_stats, self.per_head, self.action, self.errors, self.weights)


class Judgement(NamedTuple):
    """What an agent thinks of texts that could be written, token by token. Where a text is over, all is 0.

    Shape letters: W texts, L tokens of a text.
    """

    log_probability: jax.Array  # [W, L] of each token, by the policy that imitates the data
    score: jax.Array  # [W, L] what tokens are chosen by; heads are averaged where a head is drawn to act
    q: jax.Array  # [H, W, L] the value of writing each token, by the critic with the smallest; without values H is 0
    v: jax.Array  # [H, W, L] the value of the text before each token


class Init(Protocol):
    def __call__(self, key: jax.Array, example: Batch) -> Any:
        """The state before the first step."""


class Act(Protocol):
    def __call__(self, state: Any, key: jax.Array, obs: Any, step: jax.Array | None) -> jax.Array:
        """Actions [N, ...]. `step` counts environment steps; None means evaluation."""


class ValuesOf(Protocol):
    def __call__(self, state: Any, key: jax.Array, obs: Any) -> jax.Array:
        """The values of all actions [N, A]; where actions are continuous, those of the greedy ones [N].

        Where no policy has parameters of its own, these are what the policy follows.
        """


class Decide(Protocol):
    def __call__(self, state: Any, obs: Any) -> tuple[jax.Array, jax.Array]:
        """The greedy actions [N, ...] and the same values. Nothing is drawn at random."""


class Judge(Protocol):
    def __call__(self, state: Any, obs: Any, action: Any) -> Judgement:
        """What the agent thinks of writing each of the actions [W, L] behind the texts [W, T]."""


class Loss(Protocol):
    def __call__(self, params: Any, state: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossInfo]:
        """The loss that an update differentiates by `params`, which are shaped like those of the state."""


class Refresh(Protocol):
    def __call__(self, state: Any, info: RefreshInfo, step: jax.Array) -> Any:
        """The state after the source's refresh that follows update `step`, which counts from 1."""


class Learn(Protocol):
    def __call__(self, state: Any, *arguments: Any) -> tuple[Any, Any, dict]:
        """The state after one gradient step, before the source's refresh; what the refresh needs; and metrics.

        With a replay the arguments are those of `update`, and the second result is a `LossInfo`. In a stream they are
        those of `observe`, and it is a `RefreshInfo`.
        """


class Observe(Protocol):
    def __call__(self, state: Any, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[Any, dict]:
        """State and metrics after one vector step [N, ...], before the updates that are due.

        The agent acts next on `obs`: step.next_obs, or the first observation of the next episode. `count` counts
        vector steps from 1. Rewards are clipped if the training has a `reward_bound`.
        """


class Update(Protocol):
    def __call__(self, state: Any, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[Any, jax.Array, dict]:
        """The state, TD errors [E, B] and metrics after one gradient update. The errors go back to the sampler."""


class MakeTargets(Protocol):
    def __call__(self, state: Any, steps: Step, key: jax.Array) -> jax.Array:
        """The targets [H, T, N] of a rollout. Its steps have the leaves [T, N, ...], and time is the first axis.

        With the key the source draws what it draws at random.
        """


class RolloutTargets(NamedTuple):
    """The targets of an algorithm that learns from rollouts. The replay makes them and holds them."""

    make: MakeTargets
    held: Literal["rollout", "epoch", "minibatch"]  # for how long


def refreshed(learn: Learn, refresh: Refresh) -> Update:
    """The `update` that makes a gradient step and then refreshes the source."""

    def update(state: Any, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[Any, jax.Array, dict]:
        state, info, metrics = learn(state, batch, key, step)
        return refresh(state, info.for_refresh, step), info.td_errors, metrics

    return update


def no_observation(state: Any, key: jax.Array, step: Step, obs: Any, count: jax.Array) -> tuple[Any, dict]:
    """The `observe` of most algorithms, which does nothing. The training loops know it and spend nothing on it."""
    return state, {}


class Algorithm(NamedTuple):
    """The state is a named tuple of the slots that the algorithm needs.

    `params` are the weights that learn. If there is a slot `source`, `cost` looks there for weights that are not
    trained, and it lists the other slots by their names. Zeros in a slot `trace_mask` mean that nothing is credited to
    earlier steps.
    """

    init: Init
    act: Act
    values: ValuesOf
    decide: Decide
    observe: Observe = no_observation
    update: Update | None = None
    loss: Loss | None = None  # None: there is no loss to differentiate, as for a table
    refresh: Refresh | None = None  # None: there is no source to refresh
    learn: Learn | None = None  # None: the gradient step cannot be told from the refresh, so it cannot be measured
    source: TargetSource | None = None
    source_part: str | None = None  # the entry of the state's params that belongs to the source; None: all of it
    on: Callable[[TargetSource], "Algorithm"] | None = None  # the same algorithm on another source of the same network
    judge: Judge | None = None  # None: it does not write text
    rollout_targets: RolloutTargets | None = None  # None: the loss makes the targets of every batch
    states: Callable[[Batch], jax.Array] | None = None  # of samples that are texts: whether a place is a state [B, T]

    @property
    def learns_from(self) -> Literal["replay", "stream"]:
        return "stream" if self.update is None else "replay"


def learning_of(algorithm: Algorithm) -> Callable:
    """`learn(state, data, key, count) -> state, ...`: an update on a batch, or `observe` for algorithms without one."""
    if algorithm.update is not None:
        return algorithm.update
    return lambda state, step, key, count: algorithm.observe(state, key, step, step.next_obs, count)
