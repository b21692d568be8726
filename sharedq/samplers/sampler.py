"""The contract of a sampler, which says which stored transitions are learned from, and how much each of them counts.

A sampler is a record of pure functions over explicit state, like a source of targets. It knows nothing of how a replay
stores its steps. It names a transition by its `Index`, which tells when the first step was written and in which
environment. The same place of a ring is written again and again, but a time comes only once, so a transition that was
overwritten after it was drawn can be recognised.

The settings of a sampler are a frozen dataclass with `build(spec) -> Sampler`. A method `check(experiment, spec)` can
refuse an experiment that the sampler cannot serve. Settings with the class attribute `needs_features = True` get the
features in their spec, and those with `needs_estimates = True` are refused where there is only one estimate.

Shape letters: N environments of a seed, B batch, E estimates: the heads that learn, times their critics.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sharedq.settings import COUNTABLE, require
from sharedq.transitions import Batch, Step


class Index(NamedTuple):
    """Where stored transitions are found: by when their first step was written, [B], and in which environment, [B]."""

    time: jax.Array
    environment: jax.Array


class SamplerSpec(NamedTuple):
    """What a sampler is told of the replay and the algorithm that it serves."""

    rows: int  # steps kept of each environment
    environments: int
    n_step: int  # steps of a transition, all of which must have been written
    batch_size: int
    steps: int = 1  # environment steps of the whole run, over which exponents move
    filled: int = COUNTABLE  # transitions that are stored at the first update
    features: Callable[[Any, Batch], jax.Array] | None = None  # of the trunk [B, D]: of an agent, for a batch's states
    feature_count: int = 0  # D

    def first(self, written: Any) -> jax.Array:
        """The time of the oldest stored transition, when each environment has written so many steps."""
        return jnp.maximum(written - min(self.rows, COUNTABLE), 0)

    def count(self, written: Any) -> jax.Array:
        """The number of stored transitions of each environment."""
        return written - self.first(written) - self.n_step + 1


class Summary(NamedTuple):
    """What a row of the log says of a sampler's whole distribution."""

    numbers: dict[str, jax.Array]
    histograms: dict[str, jax.Array]  # counts in the bins of `Sampler.histograms`


class Init(Protocol):
    def __call__(self) -> Any:
        """The state before the first step."""


class Added(Protocol):
    def __call__(self, state: Any, written: Any, steps: Step, /) -> Any:
        """The state after one step of every environment [N, ...] was stored; `written` counts each one's earlier steps.

        With it one transition of each environment becomes complete, and if the ring is full one is overwritten.
        """


class Draw(Protocol):
    def __call__(self, state: Any, written: Any, count: Any, key: jax.Array, /) -> tuple[Index, jax.Array, dict]:
        """The transitions of update `count`, the weight [B] of each in the loss, and metrics for the log."""


class Updated(Protocol):
    def __call__(self, state: Any, written: Any, index: Index, td_errors: jax.Array, count: Any, /) -> Any:
        """The state after update `count`; `td_errors` [E, B] are predictions minus targets of the transitions drawn."""


class Weigh(Protocol):
    def __call__(self, state: Any, written: Any, agent: Any, batch: Batch, /) -> tuple[Any, Batch, dict]:
        """The state, the batch with other weights or rewards, and metrics, before the agent learns from the batch."""


class Summarise(Protocol):
    def __call__(self, state: Any, written: Any, /) -> Summary:
        """What the log says of the distribution over all stored transitions."""


class Sampler(NamedTuple):
    init: Init
    added: Added
    draw: Draw
    updated: Updated
    weigh: Weigh | None = None
    summarise: Summarise | None = None
    metrics: tuple[str, ...] = ()  # the names of the metrics of `draw` and `weigh`
    numbers: tuple[str, ...] = ()  # the names of the numbers of `summarise`
    histograms: Mapping[str, tuple[float, ...]] = MappingProxyType({})  # the edges of the bins of those of `summarise`


def check(name: str, sampler: Sampler, spec: SamplerSpec, steps: Step) -> None:
    """Traces a sampler, for steps [N, ...] like these. Raises if it does not return what it says it does."""
    written, count = (jax.ShapeDtypeStruct((), jnp.int32) for _ in range(2))
    state = jax.eval_shape(sampler.init)
    added = jax.eval_shape(sampler.added, state, written, steps)
    key = jax.eval_shape(lambda: jax.random.key(0))
    index, weights, metrics = jax.eval_shape(sampler.draw, state, written, count, key)
    errors = jax.ShapeDtypeStruct((1, spec.batch_size), jnp.float32)
    updated = jax.eval_shape(sampler.updated, state, written, index, errors, count)
    for what, found in (("added", added), ("updated", updated)):
        same = jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        require(same, f"{name} must return a state from `{what}` that is shaped like that of `init`")
    shapes = {one.shape for one in (*index, weights)}
    batch = (spec.batch_size,)
    require(shapes == {batch}, f"{name} must draw times, environments and weights {list(batch)}, and drew {shapes}")
    missing = set(metrics) - set(sampler.metrics)
    require(not missing, f"{name} draws with the metrics {sorted(missing)}, which its `metrics` do not name")
