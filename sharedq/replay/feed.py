"""The contract of a feed, which gives batches from outside the run: from a data set on disk.

The data of a feed are never in the run, so they are in no checkpoint and in memory only once for all seeds.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from sharedq.transitions import Batch


class Feed(Protocol):
    batch_size: int  # transitions in each batch

    def init(self) -> Any:
        """What the run of a seed holds of the feed: nothing."""

    def open(self, spec: Any) -> None:
        """Opens the data; raises if they are damaged, or were not made for this `EnvironmentSpec`."""

    def batches(self, seeds: Sequence[int], first: int, count: int) -> Any:
        """The batches of updates `first` .. `first + count - 1` as arrays on the host, [S, count, B, ...].

        They depend on the seed and on the number of the update only. Updates are counted from 1.
        """

    def decode(self, raw: Any, reward_bound: float | None = None) -> Batch:
        """The batch of one update, given one of `batches` without its first two axes. This is compiled.

        Every reward is clipped to the bound, if there is one, before rewards are summed.
        """
