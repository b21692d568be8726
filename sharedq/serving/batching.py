"""Decides for many requests at once: one thread takes what waits, up to a number of rows, and never waits for more."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sharedq.errors import reason

Found = dict[str, np.ndarray]


def mixes_rows(decide: Callable[[np.ndarray], Found], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether what is decided for an observation depends on the others in its batch.

    It does in an agent of dynamic INT8, which takes the range of its activations over the whole batch.
    """
    drawn = np.random.default_rng(0).normal(scale=2, size=(8, *shape))
    batch = drawn.astype(dtype) if dtype.kind == "f" else (drawn > 0).astype(dtype)
    together, alone = decide(batch), one_by_one(decide)(batch)
    return not all(np.allclose(together[name], alone[name], rtol=1e-3, atol=1e-4) for name in together)


def one_by_one(decide: Callable[[np.ndarray], Found]) -> Callable[[np.ndarray], Found]:
    """The same decisions, for each observation without the others."""

    def decided(batch: np.ndarray) -> Found:
        each = [decide(row) for row in np.split(batch, len(batch))]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}

    return decided


class Full(Exception):
    """So many observations wait that no more are taken."""


class Failed(Exception):
    """The first line of what went wrong while deciding."""


class _Asked(NamedTuple):
    batch: np.ndarray  # [N, ...]
    answer: asyncio.Future
    loop: asyncio.AbstractEventLoop


class Batcher:
    """Runs `decide`, which gives arrays [N, ...] by name for observations [N, ...], in one thread."""

    def __init__(self, decide: Callable[[np.ndarray], Found], rows: int, queue: int):
        self._decide, self._rows, self._most = decide, rows, queue
        self._queue: deque[_Asked] = deque()
        self._changed, self._stopped = threading.Condition(), False
        self.waiting = 0  # observations in the queue
        self.batch_sizes = np.zeros(rows + 1, np.int64)  # how many batches had so many rows
        self._thread = threading.Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    async def ask(self, batch: np.ndarray) -> Found:
        """The decisions for a batch of at most `rows` observations. Raises `Full` at once if too many wait."""
        loop = asyncio.get_running_loop()
        asked = _Asked(batch, loop.create_future(), loop)
        with self._changed:
            if self.waiting + len(batch) > self._most:
                raise Full
            self._queue.append(asked)
            self.waiting += len(batch)
            self._changed.notify()
        return await asked.answer

    def stop(self) -> None:
        """Ends the thread once the queue is empty."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while taken := self._take():
            batch = taken[0].batch if len(taken) == 1 else np.concatenate([asked.batch for asked in taken])
            self.batch_sizes[len(batch)] += 1
            try:
                found: Found | Failed = self._decide(batch)
            except Exception as error:  # the requests hear of it, and the thread goes on
                found = Failed(reason(error))
            first = 0
            answers: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future, Found | Failed]]] = {}
            for asked in taken:
                rows = slice(first, first := first + len(asked.batch))
                mine = found if isinstance(found, Failed) else {name: all_[rows] for name, all_ in found.items()}
                answers.setdefault(asked.loop, []).append((asked.answer, mine))
            for loop, pairs in answers.items():
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(_give, pairs)

    def _take(self) -> list[_Asked]:
        """Requests that are decided together, in their order. It is empty after the end."""
        taken: list[_Asked] = []
        with self._changed:
            while not taken:
                self._changed.wait_for(lambda: self._queue or self._stopped)
                if not self._queue:
                    break
                rows = 0
                while self._queue and rows + len(self._queue[0].batch) <= self._rows:
                    asked = self._queue.popleft()
                    self.waiting -= len(asked.batch)
                    if not asked.answer.done():  # its request may have given up
                        taken.append(asked)
                        rows += len(asked.batch)
        return taken


def _give(pairs: list[tuple[asyncio.Future, Found | Failed]]) -> None:
    for answer, found in pairs:
        if answer.done():
            continue
        if isinstance(found, Failed):
            answer.set_exception(found)
        else:
            answer.set_result(found)
