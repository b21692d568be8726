"""What remote actors and Ray cost: steps and updates per second of a learner with actors, and seconds of Ray per run.

    python -m benchmarks.actors --actors 1 2 4
    python -m benchmarks.actors --ray 8

Each row is a run of its own in a process of its own, in turn, `--rounds` times; the median of the rows of its log
counts, without those of the warm-up. Redis is started here, on a free port of loopback. With `--ray N`, a comparison of
N tiny runs is trained with Ray and without.
"""

import argparse
import csv
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharedq.recipes import recipe


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a server that keeps nothing on the disk."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("there is no redis-server and no valkey-server here: install one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
            server.wait()


def sharedq(*words: object) -> float:
    """Runs a command; returns the seconds that it took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "sharedq", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def rows_of(name: str, options: list[object], folder: Path) -> list[dict[str, str]]:
    """The rows of the log of a run that learns."""
    out = folder / "run"
    sharedq("train", name, *options, "--out", out, "--overwrite")
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def of_actors(arguments: argparse.Namespace) -> None:
    base = recipe(arguments.recipe)
    shared: list[object] = ["--seeds", 1, "--steps", arguments.steps, "--log_period", arguments.steps // 20]
    updates = base.training.gradient_steps / base.training.update_period
    with redis() as url, tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, list[object]] = {"plain loop": []}
        for count in arguments.actors:
            remote = ["--training", "remote", "--training.url", url, "--training.actors", count]
            kinds[f"{count} actors"] = [*remote, "--training.queue_limit", 4 * count]
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        stale: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(arguments.rounds):
            for name, options in kinds.items():
                rows = rows_of(arguments.recipe, [*shared, *options], Path(folder))
                rates[name] += [float(row["steps_per_second"]) for row in rows]
                stale[name] += [float(row.get("actors/staleness", 0)) for row in rows]
    plain = statistics.median(rates["plain loop"])
    for name, found in rates.items():
        rate, behind = statistics.median(found), statistics.median(stale[name])
        told = f"{rate:8,.0f} steps/s {rate * updates:8,.0f} updates/s {rate / plain:6.2f} of the plain loop"
        print(f"{name:12} {told} {behind:6,.0f} updates behind")


def of_ray(count: int) -> None:
    """A comparison of tiny runs, which differ in the discount."""
    discounts = [round(0.5 + 0.4 * number / count, 4) for number in range(count)]
    options: list[object] = ["compare", "corridor", "--steps", 2_000, "--gamma", *discounts]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        alone = sharedq(*options, "--out", Path(folder) / "alone")
        on_ray = sharedq(*options, "--out", Path(folder) / "ray", "--on", "ray")
    each = (on_ray - alone) / count
    print(f"{count} runs: {alone:.1f} s without Ray, {on_ray:.1f} s with it, {each:+.1f} s for each run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="minatar-breakout")
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=100_000, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", type=int, default=0, metavar="RUNS", help="measure Ray instead, on so many runs")
    arguments = parser.parse_args()
    if arguments.ray:
        of_ray(arguments.ray)
    else:
        of_actors(arguments)


if __name__ == "__main__":
    main()
