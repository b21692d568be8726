"""What an algorithm is: three pure functions over one state.

It is handed its source and its network and never asks which source it has. Steps are counted by the training loop,
outside the axis of seeds, so that what happens every so many steps stays a branch when many seeds run at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class State(NamedTuple):
    """Everything that learning changes."""

    params: Any  # what the optimiser moves
    source: Any  # what it never sees: copies, frozen heads, running statistics
    optimiser: Any


class Algorithm(NamedTuple):
    init: Callable  # (key, example: Batch) -> State
    act: Callable  # (state, key, obs [N, ...], step) -> actions [N]; step counts environment steps, None: evaluation
    values: Callable  # (state, key, obs [N, ...]) -> [N, A], what the policy follows
    update: Callable  # (state, batch, key, step) -> State, metrics; step counts updates from 1
