"""What a replay is: a record of pure functions over its data.

The loop owns the count of steps written, so that it has no axis of seeds; `update` is for replays that prefer some
transitions over others and want to hear how surprising they were.
"""

from collections.abc import Callable
from typing import NamedTuple


class Replay(NamedTuple):
    batch_size: int  # transitions in each batch
    init: Callable  # () -> data
    add: Callable  # (data, written, steps [N, ...]) -> data; `written` counts the steps of each environment before
    sample: Callable  # (data, written, key) -> Batch
    update: Callable  # (data, ids, errors [B]) -> data
