"""Whether a run fits, said before it is allocated."""

import os
from pathlib import Path

import jax

from sharedq.errors import SharedqError
from sharedq.units import readable


def free_bytes() -> int | None:
    """What the devices have left for a run, or None where nobody tells."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        known = device.memory_stats() or {}
        return known["bytes_limit"] - known["bytes_in_use"] if "bytes_limit" in known else None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None
    container = container_free(Path("/sys/fs/cgroup"))
    return free if container is None else min(free, container)


def container_free(group: Path) -> int | None:
    """What the control group in this folder has left, with the cached files that it drops when memory is short."""
    try:
        limit, used = (int((group / f"memory.{what}").read_text()) for what in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(counts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit
        return None


def check_fits(needed: int, advice: str, replays: int = 0, capacity: int = 0) -> None:
    """Refuses what needs more than is free; `advice` says what to lower.

    Of the bytes needed, `replays` are those of replays with this `capacity`: then it says which capacity would fit.
    """
    free = free_bytes()
    if free is None or needed <= free:
        return
    held = f", {readable(replays)} of it for the replay," if replays else ""
    largest = largest_capacity(capacity, replays, free - (needed - replays)) if replays else 0
    fits = f"; --replay.capacity {largest} fits" if largest else ""
    raise SharedqError(f"the run needs {readable(needed)} of memory{held} and {readable(free)} is free: {advice}{fits}")


def largest_capacity(capacity: int, size: int, room: int) -> int:
    """The capacity that fills `room` bytes where `capacity` fills `size`: two digits of it, the rest is headroom."""
    fits = max(0, capacity * room // size)
    digits = 10 ** max(0, len(str(fits)) - 2)
    return fits // digits * digits
