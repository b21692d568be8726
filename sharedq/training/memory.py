"""Checks whether a run fits into memory, before anything is allocated."""

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from sharedq.errors import SharedqError
from sharedq.units import readable

SPARE_FILES = 24  # files that a run opens for a while: its tables, a checkpoint, its lock, files of JAX


def free_bytes() -> int | None:
    """The memory that the devices have left for a run, or None if it is unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        known = device.memory_stats() or {}
        return known["bytes_limit"] - known["bytes_in_use"] if "bytes_limit" in known else None
    free = [_machine_free(), *map(container_free, groups()), slurm_free(os.environ)]
    return min((one for one in free if one is not None), default=None)


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None


def groups(listed: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[Path]:
    """The control groups of this process, version 1 or 2, with the groups around them; each may have a limit.

    A container sees its own group as the root, and SLURM gives each job a group below others.
    """
    try:
        lines = [line.split(":", 2) for line in listed.read_text().splitlines()]
    except OSError:
        lines = []
    for controllers, path in [("", "/"), *((line[1], line[2]) for line in lines if len(line) == 3)]:
        if controllers and "memory" not in controllers.split(","):
            continue
        outermost = root / "memory" if controllers else root
        group = outermost / path.lstrip("/")
        yield from [group, *(one for one in group.parents if one.is_relative_to(outermost))]


NAMES = (  # files with a group's limit and use, and the name of its cached bytes: version 2, version 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def container_free(group: Path) -> int | None:
    """The bytes that this control group has left, including cached files, which it drops when memory is short."""
    for limit, used, cached in NAMES:
        try:
            counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return int((group / limit).read_text()) - int((group / used).read_text()) + int(counts[cached])
        except (OSError, ValueError, KeyError):  # another version, no container, or one without a limit
            continue
    return None


def slurm_free(environment: Mapping[str, str]) -> int | None:
    """The bytes left of the memory that SLURM gives to this job. SLURM states it in MB, and 0 means no limit."""
    try:
        per_cpu = int(environment.get("SLURM_MEM_PER_CPU", 0)) * int(environment.get("SLURM_CPUS_ON_NODE", 1))
        allotted = int(environment.get("SLURM_MEM_PER_NODE", per_cpu)) * 2**20
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return allotted - pages * os.sysconf("SC_PAGE_SIZE") if allotted else None


def scratch_of(compiled: Any) -> int:
    """The bytes that a compiled function needs on a device besides its arguments and its results."""
    needed = compiled.memory_analysis()
    return needed.temp_size_in_bytes if needed else 0


def check_open_files(needed: int, advice: str) -> None:
    """Refuses a run that needs more open files than this process may have."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed += SPARE_FILES + sum(1 for _ in Path("/proc/self/fd").glob("*"))
    if allowed != resource.RLIM_INFINITY and needed > allowed:
        raise SharedqError(f"the run needs {needed} open files and {allowed} are allowed: {advice}")


def check_fits(needed: int, advice: str, replays: int = 0, capacity: int = 0) -> None:
    """Refuses a run that needs more memory than is free; `advice` says what to lower.

    If `replays` of the needed bytes are replays of this `capacity`, the error also says which capacity would fit.
    """
    free = free_bytes()
    if free is None or needed <= free:
        return
    held = f", {readable(replays)} of it for the replay," if replays else ""
    largest = largest_capacity(capacity, replays, free - (needed - replays)) if replays else 0
    fits = f"; --replay.capacity {largest} fits" if largest else ""
    raise SharedqError(f"the run needs {readable(needed)} of memory{held} and {readable(free)} is free: {advice}{fits}")


def largest_capacity(capacity: int, size: int, room: int) -> int:
    """The capacity that fits into `room` bytes if `capacity` takes `size`, rounded down to two digits."""
    fits = max(0, capacity * room // size)
    digits = 10 ** max(0, len(str(fits)) - 2)
    return fits // digits * digits
