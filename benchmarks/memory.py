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
from pathlib import Path

UPDATES = 5
USUAL = 128 * 1024  # bytes; glibc's own thresholds


def measure(target: str, network: str, norm: str) -> dict[str, int]:
    """Bytes of one source, in a process that has measured nothing else."""
    from benchmarks.atari_update import NETWORKS, Updates, batches
    from sharedq.training.seeds import keep_freed_memory
    from sharedq.trees import size

    keep_freed_memory(trim=USUAL, mmap=USUAL)  # unlike in training: what was freed is not to count
    updates = Updates(target, dataclasses.replace(NETWORKS[network], norm=norm), batches(1))
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
    print(f"{'MB':24}  networks     agent  temporaries  peak, measured")
    for target in arguments.targets:
        options = ["--one", "--targets", target, "--network", arguments.network, "--norm", arguments.norm]
        runs = [_in_a_process(options) for _ in range(arguments.repeats)]
        one = min(runs, key=lambda run: run["peak"])
        shown = (one[name] / 1e6 for name in ("networks", "agent", "temporaries", "peak"))
        print("{:24}{:10.2f}{:10.2f}{:13.2f}{:16.2f}".format(target, *shown))


def _in_a_process(options: list[str]) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
