"""Counts requests, and writes the counts in the text format of Prometheus."""

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

import numpy as np

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """Requests by path and status, and how long they took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._times, self._seconds = [0] * (len(BOUNDS) + 1), 0.0

    def add(self, path: str, status: int, seconds: float) -> None:
        self._requests[path, status] += 1
        self._times[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def text(self, batch_sizes: np.ndarray, waiting: int) -> str:
        """All counts; `batch_sizes` says how many batches had 0, 1, 2, ... observations."""
        lines = _head("sharedq_requests_total", "counter", "Requests by path and status.")
        lines += [
            f'sharedq_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._requests.items())
        ]
        lines += _histogram(
            "sharedq_request_seconds", "Time from the head of a request to its answer.", BOUNDS, self._times,
            self._seconds,
        )  # fmt: skip
        sizes = np.arange(len(batch_sizes))
        bounds = tuple(2**power for power in range((len(batch_sizes) - 1).bit_length()))
        counts = [int(batch_sizes[(sizes > low) & (sizes <= high)].sum()) for low, high in zip((0, *bounds), bounds)]
        counts.append(int(batch_sizes[sizes > bounds[-1]].sum()))
        lines += _histogram(
            "sharedq_batch_size", "Observations that were decided at once.", bounds, counts,
            int((sizes * batch_sizes).sum()),
        )  # fmt: skip
        lines += _head("sharedq_queue_length", "gauge", "Observations that wait for a decision.")
        return "\n".join([*lines, f"sharedq_queue_length {waiting}", ""])


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _histogram(name: str, about: str, bounds: tuple, counts: list[int], total: float) -> list[str]:
    lines, sums = _head(name, "histogram", about), list(accumulate(counts))
    lines += [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip((*bounds, "+Inf"), sums)]
    return [*lines, f"{name}_sum {total:.6g}", f"{name}_count {sums[-1]}"]
