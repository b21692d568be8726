"""Decides for many requests at once: one thread takes what waits, up to a number of rows, and never waits for more."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sharedq.errors import reason

Decisions = dict[str, np.ndarray]


def mixes_rows(decide: Callable[[np.ndarray], Decisions], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether what is decided for an observation depends on the others in its batch.

    It does in an agent of dynamic INT8, which takes the range of its activations over the whole batch.
    """
    drawn = np.random.default_rng(0).normal(scale=2, size=(8, *shape))
    batch = drawn.astype(dtype) if dtype.kind == "f" else (drawn > 0).astype(dtype)
    together, alone = decide(batch), one_by_one(decide)(batch)
    return not all(np.allclose(together[name], alone[name], rtol=1e-3, atol=1e-4) for name in together)


def one_by_one(decide: Callable[[np.ndarray], Decisions]) -> Callable[[np.ndarray], Decisions]:
    """The same decisions, for each observation without the others."""

    def decided(batch: np.ndarray) -> Decisions:
        each = [decide(row) for row in np.split(batch, len(batch))]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}

    return decided


class Full(Exception):
    """So many observations wait that no more are taken."""


class Failed(Exception):
    """The first line of what went wrong while deciding."""


class _Pending(NamedTuple):
    batch: np.ndarray  # [N, ...]
    answer: asyncio.Future
    loop: asyncio.AbstractEventLoop


class Batcher:
    """Runs `decide`, which gives arrays [N, ...] by name for observations [N, ...], in one thread."""

    def __init__(self, decide: Callable[[np.ndarray], Decisions], max_batch_size: int, max_queue: int):
        self._decide, self._max_batch_size, self._max_queue = decide, max_batch_size, max_queue
        self._queue: deque[_Pending] = deque()
        self._changed, self._stopped = threading.Condition(), False
        self.waiting = 0  # observations in the queue
        self.batch_sizes = np.zeros(max_batch_size + 1, np.int64)  # how many batches had so many rows
        self._thread = threading.Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that decides still runs."""
        return self._thread.is_alive()

    async def ask(self, batch: np.ndarray) -> Decisions:
        """The decisions for at most `max_batch_size` observations. Raises `Full` at once if too many wait."""
        loop = asyncio.get_running_loop()
        asked = _Pending(batch, loop.create_future(), loop)
        with self._changed:
            if self.waiting + len(batch) > self._max_queue:
                raise Full
            self._queue.append(asked)
            self.waiting += len(batch)
            self._changed.notify()
        return await asked.answer

    def stop(self) -> None:
        """Ends the thread once the queue is empty. A decision that takes longer than a second is left behind."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=1.0)

    def _work(self) -> None:
        while taken := self._take():
            try:
                batch = taken[0].batch if len(taken) == 1 else np.concatenate([asked.batch for asked in taken])
                self.batch_sizes[len(batch)] += 1
                found: Decisions | Failed = self._decide(batch)
            except Exception as error:  # the requests hear of it, and the thread goes on
                found = Failed(reason(error))
            first = 0
            answers: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future, Decisions | Failed]]] = {}
            for asked in taken:
                rows = slice(first, first := first + len(asked.batch))
                mine = found if isinstance(found, Failed) else {name: all_[rows] for name, all_ in found.items()}
                answers.setdefault(asked.loop, []).append((asked.answer, mine))
            for loop, pairs in answers.items():
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(_give, pairs)

    def _take(self) -> list[_Pending]:
        """Requests that are decided together, in their order. It is empty after the end."""
        taken: list[_Pending] = []
        with self._changed:
            while not taken:
                self._changed.wait_for(lambda: self._queue or self._stopped)
                if not self._queue:
                    break
                rows = 0
                while self._queue and rows + len(self._queue[0].batch) <= self._max_batch_size:
                    asked = self._queue.popleft()
                    self.waiting -= len(asked.batch)
                    if not asked.answer.done():  # its request may have given up
                        taken.append(asked)
                        rows += len(asked.batch)
        return taken


def _give(pairs: list[tuple[asyncio.Future, Decisions | Failed]]) -> None:
    for answer, found in pairs:
        if answer.done():
            continue
        if isinstance(found, Failed):
            answer.set_exception(found)
        else:
            answer.set_result(found)
