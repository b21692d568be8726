"""Ctrl-C and SIGTERM ask a run to stop at a point where it can be resumed; a second signal stops it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """The number of the signal that requested a stop, if any; of several signals, the last one."""

    number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, a first signal is only recorded. Only the main thread may set handlers; elsewhere nothing changes."""
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
