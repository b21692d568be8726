"""The contract of a replay: a record of pure functions over its data.

The loop owns the count of steps written, so that the count has no axis of seeds. `update` is for prioritised replays,
which need the errors of the transitions that were sampled.
"""

from typing import Any, NamedTuple, Protocol

import jax

from sharedq.transitions import Batch, Step


class Init(Protocol):
    def __call__(self) -> Any:
        """The data of an empty replay."""


class Add(Protocol):
    def __call__(self, data: Any, written: Any, steps: Step, /) -> Any:
        """The data after adding one step of every environment [N, ...]; `written` counts each one's earlier steps."""


class Sample(Protocol):
    def __call__(self, data: Any, written: Any, key: jax.Array, /) -> Batch:
        """A random batch of the stored steps; `written` counts the steps that each environment has written."""


class Update(Protocol):
    def __call__(self, data: Any, ids: Any, errors: jax.Array, /) -> Any:
        """The data after an update on the transitions with these ids; `errors` [B] are their errors."""


class Replay(NamedTuple):
    batch_size: int  # transitions in each batch
    init: Init
    add: Add
    sample: Sample
    update: Update
