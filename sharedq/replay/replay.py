"""A replay is a storage, which keeps steps, and a sampler, which says what is learned from. This is their contract.

The settings of a storage are a frozen dataclass with `build(step, gamma, environments) -> Storage`. Any sampler serves
any storage (see `samplers/sampler.py`). All functions are pure. The loop owns the count of steps written, so that the
count has no axis of seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sharedq.formats import SAMPLER
from sharedq.samplers import uniform
from sharedq.samplers.sampler import Index, Sampler, SamplerSpec, Summary
from sharedq.transitions import Batch, Step, Transition


class Init(Protocol):
    def __call__(self) -> Any:
        """The data of an empty storage."""


class Add(Protocol):
    def __call__(self, data: Any, written: Any, steps: Step, /) -> Any:
        """The data after adding one step of every environment [N, ...]; `written` counts each one's earlier steps."""


class Read(Protocol):
    def __call__(self, data: Any, index: Index, /) -> tuple[Transition, jax.Array]:
        """The transitions, and whether each [B] is whole. One that is not counts nothing in the loss."""


class Storage(NamedTuple):
    spec: SamplerSpec  # what a sampler has to know
    init: Init
    add: Add
    read: Read


class Data(NamedTuple):
    """The data of a replay."""

    storage: Any
    sampler: Any


class Replay(NamedTuple):
    """A storage and a sampler. Functions with `written` are given the number of steps that each environment wrote."""

    storage: Storage
    sampler: Sampler

    @property
    def batch_size(self) -> int:
        return self.storage.spec.batch_size

    @property
    def metric_names(self) -> list[str]:
        """The names of the metrics of `sample`."""
        return [SAMPLER + name for name in self.sampler.metrics]

    @property
    def number_names(self) -> list[str]:
        """The names of the numbers of `summarise`."""
        return [SAMPLER + name for name in self.sampler.numbers]

    @property
    def histograms(self) -> dict[str, tuple[float, ...]]:
        """The edges of the bins of the histograms of `summarise`."""
        return {SAMPLER + name: edges for name, edges in self.sampler.histograms.items()}

    def init(self) -> Data:
        """The data of an empty replay."""
        return Data(self.storage.init(), self.sampler.init())

    def add(self, data: Data, written: Any, steps: Step) -> Data:
        """The data after adding one step of every environment [N, ...]; `written` counts each one's earlier steps."""
        added = self.sampler.added(data.sampler, written, steps)
        return Data(self.storage.add(data.storage, written, steps), added)

    def sample(
        self, data: Data, written: Any, agent: Any, count: Any, key: jax.Array
    ) -> tuple[Data, Batch, dict[str, jax.Array]]:
        """The batch that an agent learns from at update `count`, and metrics for the log."""
        index, weights, metrics = self.sampler.draw(data.sampler, written, count, key)
        transition, whole = self.storage.read(data.storage, index)
        index = index._replace(time=jnp.where(whole, index.time, -1))  # so what is not whole is never credited
        batch = Batch(transition, jnp.where(whole, weights, 0), index)
        if self.sampler.weigh is not None:
            state, batch, more = self.sampler.weigh(data.sampler, written, agent, batch)
            data, metrics = data._replace(sampler=state), metrics | more
        return data, batch, {SAMPLER + name: value for name, value in metrics.items()}

    def update(self, data: Data, written: Any, batch: Batch, td_errors: jax.Array, count: Any) -> Data:
        """The data after update `count` on a batch, whose TD errors are [E, B]."""
        return data._replace(sampler=self.sampler.updated(data.sampler, written, batch.ids, td_errors, count))

    def sample_uniformly(self, data: Data, written: Any, key: jax.Array) -> Batch:
        """A batch for those who look at learning from outside, which is drawn uniformly by every sampler."""
        index = uniform.draw(self.storage.spec, written, key)
        transition, whole = self.storage.read(data.storage, index)
        return Batch(transition, whole.astype(jnp.float32), index)

    def summarise(self, data: Data, written: Any) -> Summary:
        """What a row of the log says of the sampler's whole distribution."""
        if self.sampler.summarise is None:
            return Summary({}, {})
        found = self.sampler.summarise(data.sampler, written)
        return Summary(*({SAMPLER + name: x for name, x in part.items()} for part in found))


class ReplayLike(Protocol):
    """What those need of a replay who only look at learning from outside: a `Replay`, or batches of a data set."""

    @property
    def batch_size(self) -> int: ...
    @property
    def metric_names(self) -> Sequence[str]: ...
    @property
    def number_names(self) -> Sequence[str]: ...
    @property
    def histograms(self) -> Mapping[str, tuple[float, ...]]: ...
    def init(self) -> Any: ...
    def sample_uniformly(self, data: Any, written: Any, key: jax.Array) -> Batch: ...
    def summarise(self, data: Any, written: Any) -> Summary: ...


def uniform_replay(storage: Storage) -> Replay:
    """The replay that draws uniformly from a storage."""
    return Replay(storage, uniform.Uniform().build(storage.spec))
