"""Ctrl-C and SIGTERM ask a run to stop where it can be continued; a second one does not wait."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Which signal asked to stop, if any; the last one, if several did."""

    number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within, the two signals are noted and not obeyed. Outside the main thread Python allows no handlers."""
    request = StopRequest()

    def note(number, frame):
        again, request.number = request.number is not None, number
        if again:
            raise KeyboardInterrupt

    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                old[number] = signal.signal(number, note)
            except ValueError:
                break
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
