"""What a replay is: a record of pure functions over its data.

The loop owns the count of steps written, so that it has no axis of seeds; `update` is for replays that prefer some
transitions over others and want to hear how surprising they were.
"""

from typing import Any, NamedTuple, Protocol

import jax

from sharedq.transitions import Batch, Step


class Init(Protocol):
    def __call__(self) -> Any:
        """The data of an empty replay."""


class Add(Protocol):
    def __call__(self, data: Any, written: Any, steps: Step, /) -> Any:
        """The data with one step of every environment [N, ...] more; `written` counts the steps of each before."""


class Sample(Protocol):
    def __call__(self, data: Any, written: Any, key: jax.Array, /) -> Batch:
        """A batch, drawn from what is stored when each environment has written so many steps."""


class Update(Protocol):
    def __call__(self, data: Any, ids: Any, errors: jax.Array, /) -> Any:
        """The data after an update on the transitions with these ids, whose errors [B] were so large."""


class Replay(NamedTuple):
    batch_size: int  # transitions in each batch
    init: Init
    add: Add
    sample: Sample
    update: Update
