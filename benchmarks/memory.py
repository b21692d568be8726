"""Peak memory of learning with the paper's Atari network, per source of targets, measured.

    python -m benchmarks.memory --targets online_network target_network shared_heads:heads=9

Each measurement is a process of its own; the least of several counts, because what else a process needs comes and goes
by some megabytes. What it uses at most while it makes updates, less what is left when the agent is given up, is the
agent (networks, copies, Adam's moments), a batch, and the temporaries of an update. On a CPU it is read off the
resident set, on a GPU off JAX's allocator.
"""

import argparse
import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

UPDATES = 5
HEADER = f"{'MB':24}  networks     agent  temporaries  peak, measured"
USUAL = 128 * 1024  # bytes; glibc's own thresholds


def measure(target: str, network: str, norm: str) -> dict[str, int]:
    """Bytes of one source, in a process that has measured nothing else."""
    from benchmarks.atari_update import NETWORKS, Updates, batches, dqn

    of_target = dqn(target, dataclasses.replace(NETWORKS[network], norm=norm))
    return bytes_of(lambda: Updates(target, of_target, batches(1)))


def bytes_of(build: Callable[[], Any]) -> dict[str, int]:
    """Bytes of the `Updates` that `build` makes, in a process that has measured nothing else."""
    from sharedq.training.seeds import keep_freed_memory
    from sharedq.trees import size

    keep_freed_memory(trim=USUAL, mmap=USUAL)  # unlike in training: what was freed is not to count
    updates = build()
    agent, networks = size(updates.state), size((updates.state.params, updates.state.source))
    _forget_peak()
    for _ in range(UPDATES):
        updates.call(timed=False)
    peak, scratch = _used(peak=True), updates.scratch
    updates.state = updates.data = None
    return {"networks": networks, "agent": agent, "temporaries": scratch, "peak": peak - _used(peak=False)}


def _forget_peak() -> None:
    """Compilation used more than anything after it. A GPU's allocator counts none of that."""
    gc.collect()
    if (path := Path("/proc/self/clear_refs")).exists():
        ctypes.CDLL(None).malloc_trim(0)
        path.write_text("5")


def _used(peak: bool) -> int:
    import jax

    gc.collect()
    if statistics := jax.devices()[0].memory_stats():
        return statistics["peak_bytes_in_use" if peak else "bytes_in_use"]
    if not peak:
        ctypes.CDLL(None).malloc_trim(0)
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    targets = ["online_network", "target_network", "shared_heads:heads=1", "shared_heads:heads=9"]
    parser.add_argument("--targets", nargs="+", default=targets, metavar="SOURCE")
    parser.add_argument("--network", default="cnn", choices=("cnn", "impala"))
    parser.add_argument("--norm", default="layer", choices=("none", "layer", "batch", "batch_pixel"))
    parser.add_argument("--repeats", type=int, default=3, help="processes of each source")
    parser.add_argument("--one", action="store_true", help="measure the first source here and print its bytes as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.targets[0], arguments.network, arguments.norm)))
        return
    print(HEADER)
    for target in arguments.targets:
        options = ["--one", "--targets", target, "--network", arguments.network, "--norm", arguments.norm]
        print(row(target, least_of(arguments.repeats, "benchmarks.memory", options)))


def row(label: str, one: dict[str, int]) -> str:
    shown = (one[name] / 1e6 for name in ("networks", "agent", "temporaries", "peak"))
    return "{:24}{:10.2f}{:10.2f}{:13.2f}{:16.2f}".format(label, *shown)


def least_of(repeats: int, module: str, options: list[str]) -> dict[str, int]:
    """The bytes that a module prints with these options, of the process with the least peak."""
    return min((_in_a_process(module, options) for _ in range(repeats)), key=lambda one: one["peak"])


def _in_a_process(module: str, options: list[str]) -> dict[str, int]:
    command = [sys.executable, "-m", module, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
