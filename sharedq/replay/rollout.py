"""The newest rollout in place of a replay: what all environments did since the last updates, and nothing before it.

A rollout is what is collected between two times of learning. Each epoch takes all its transitions once, in a random
order. Minibatches follow each other in this order. Where the algorithm makes targets of whole rollouts, such as
lambda-returns, they are made here and held: for all updates on the rollout, for an epoch, or for one minibatch.

Shape letters: T steps of a rollout, N environments, B minibatch, H heads that learn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sharedq import random_keys
from sharedq.bellman import returns
from sharedq.samplers import uniform
from sharedq.samplers.sampler import Index, SamplerSpec, Summary
from sharedq.settings import check_count, require
from sharedq.transitions import Batch, Step, Transition

MAKE = 1  # folded into the key of a minibatch for what making the targets draws


class Data(NamedTuple):
    steps: Any  # [T * N, ...] ordered by time, then by environment
    order: jax.Array  # [T * N] the order in which this epoch takes them
    targets: Any  # [H, T * N] as they were made last; nothing if the loss makes them


@dataclass(frozen=True)
class Rollout:
    """The newest rollout only: each epoch takes all its transitions once, in minibatches."""

    learns_from: ClassVar = "replay"
    room: ClassVar = 0
    makes_targets: ClassVar = True  # of whole rollouts
    needs: ClassVar = ("training", "algorithm")

    batch_size: int = 128  # transitions per minibatch, on which one update is made

    def __post_init__(self):
        check_count("replay.batch_size", self.batch_size)

    def check(self, experiment: Any, spec: Any) -> None:
        """Refuses a training whose rollouts cannot be cut into whole steps, minibatches and epochs."""
        training, sampler = experiment.training, experiment.kind("sampler")
        size, told = training.update_period, "replay 'rollout' learns from all steps since the last updates, and"
        require(
            size % training.environments == 0,
            f"{told} training.update_period {size} is not a multiple of training.environments {training.environments}: "
            "choose one that is, or begin with a recipe named pqn-*",
        )
        require(
            size % self.batch_size == 0,
            f"{told} replay.batch_size {self.batch_size} does not divide training.update_period {size}: choose a "
            "divisor",
        )
        minibatches = size // self.batch_size
        require(
            training.gradient_steps % minibatches == 0,
            f"{told} training.gradient_steps {training.gradient_steps} is not a multiple of the {minibatches} "
            f"minibatches of a rollout: {minibatches} is one epoch",
        )
        require(
            sampler == "uniform",
            f"{told} sampler '{sampler}' chooses among stored transitions: add --sampler uniform",
        )
        require(
            training.warm_up > 0 or not getattr(training, "learn_while_stepping", False),
            "training.learn_while_stepping learns from the rollout before, and there is none at the first update: set "
            f"--training.warm_up {size}",
        )

    def build(self, step: Step, gamma: float, environments: int, training: Any, algorithm: Any) -> "RolloutReplay":
        rows, minibatches = training.update_period // environments, training.update_period // self.batch_size
        own, updates = algorithm.rollout_targets, training.gradient_steps
        spec = SamplerSpec(rows, environments, 1, self.batch_size)
        if own is None:
            return RolloutReplay(step, gamma, spec, minibatches)
        period = {"rollout": updates, "epoch": minibatches, "minibatch": 1}[own.held]
        key = jax.eval_shape(random_keys.root, 0)
        agent = jax.eval_shape(algorithm.init, key, _example(step, self.batch_size))
        steps = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, environments, *x.shape), x.dtype), step)
        heads = jax.eval_shape(own.make, agent, steps, key).shape[0]
        return RolloutReplay(step, gamma, spec, minibatches, own.make, updates, period, heads)


class RolloutReplay(NamedTuple):
    """What the training loops ask of a `Replay`. Updates are counted from 1, and all those on a rollout follow."""

    step: Step  # the shapes of one step of one environment
    gamma: float
    spec: SamplerSpec
    minibatches: int  # in an epoch
    make: Callable | None = None  # makes the targets
    updates: int = 0  # on a rollout
    period: int = 0  # updates for which targets are held
    heads: int = 0  # H

    @property
    def batch_size(self) -> int:
        return self.spec.batch_size

    @property
    def metric_names(self) -> list[str]:
        return []

    @property
    def number_names(self) -> list[str]:
        return []

    @property
    def histograms(self) -> dict[str, tuple[float, ...]]:
        return {}

    @property
    def _size(self) -> int:
        return self.spec.rows * self.spec.environments

    def init(self) -> Data:
        targets = () if self.make is None else jnp.zeros((self.heads, self._size))
        steps = jax.tree.map(lambda x: jnp.zeros((self._size, *x.shape), x.dtype), self.step)
        return Data(steps, jnp.arange(self._size), targets)

    def add(self, data: Data, written: Any, steps: Step) -> Data:
        """The data after adding one step of every environment [N, ...]; `written` counts each one's earlier steps."""
        start = (written % self.spec.rows) * self.spec.environments
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return data._replace(steps=jax.tree.map(write, data.steps, steps))

    def sample(self, data: Data, written: Any, agent: Any, count: Any, key: jax.Array) -> tuple[Data, Batch, dict]:
        """The minibatch of update `count`, and no metrics."""
        number = (count - 1) % self.minibatches  # of the minibatch in its epoch
        order = jax.lax.cond(number == 0, lambda: shuffled(key, self._size), lambda: data.order)
        data = data._replace(order=order)
        if self.make is not None:
            due = (count - 1) % self.updates % self.period == 0
            data = data._replace(targets=jax.lax.cond(due, lambda: self._made(agent, data, key), lambda: data.targets))
        places = jax.lax.dynamic_slice_in_dim(order, number * self.batch_size, self.batch_size)
        return data, self._batch(data, written, places), {}

    def _made(self, agent: Any, data: Data, key: jax.Array) -> jax.Array:
        """The targets [H, T * N] of the rollout."""
        assert self.make is not None
        shape = self.spec.rows, self.spec.environments
        steps = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), data.steps)
        return self.make(agent, steps, jax.random.fold_in(key, MAKE)).reshape(self.heads, self._size)

    def _batch(self, data: Data, written: Any, places: jax.Array) -> Batch:
        drawn = jax.tree.map(lambda x: x[places], data.steps)
        discount = returns.discount(drawn.terminated, self.gamma)
        transition = Transition(drawn.obs, drawn.action, drawn.reward, discount, drawn.next_obs)
        first, environments = self.spec.first(written), self.spec.environments
        index = Index(first + places // environments, places % environments)
        targets = None if self.make is None else data.targets[:, places].T
        return Batch(transition, jnp.ones(places.shape), index, targets)

    def update(self, data: Data, written: Any, batch: Batch, td_errors: jax.Array, count: Any) -> Data:
        return data

    def sample_uniformly(self, data: Data, written: Any, key: jax.Array) -> Batch:
        """A batch for those who look at learning from outside, with the targets that are held."""
        time, environment = uniform.draw(self.spec, written, key)
        return self._batch(data, written, (time % self.spec.rows) * self.spec.environments + environment)

    def summarise(self, data: Data, written: Any) -> Summary:
        return Summary({}, {})


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """The numbers 0 .. size-1 in a random order.

    Each number is the lower bits of an integer whose upper bits are random, and these are sorted. Of a few thousand
    numbers few share their upper bits, and a second round puts those in a random order too. On a CPU this takes a fifth
    of the time of `jax.random.permutation`, which sorts pairs.
    """
    low = jnp.uint32(2 ** (size - 1).bit_length() - 1)
    order = jnp.arange(size, dtype=jnp.uint32)
    for round_key in jax.random.split(key):
        places = jnp.sort(jax.random.bits(round_key, (size,)) & ~low | jnp.arange(size, dtype=jnp.uint32)) & low
        order = order[places]
    return order.astype(jnp.int32)


def _example(step: Step, size: int) -> Batch:
    """The shapes of a batch."""
    obs, action, reward, _, _, next_obs = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), leaf) for leaf in step
    )
    return Batch(Transition(obs, action, reward, reward, next_obs), reward, reward)
