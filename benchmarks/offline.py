"""Learning from data on a CPU: updates per second, what reading the data costs, and memory while the data grow.

    python -m benchmarks.offline
    python -m benchmarks.offline --beside d3rlpy --python ~/peers/bin/python

Speed: our whole offline loop, batches read from a store on disk, beside d3rlpy's drawing of a batch and its update,
with the same data, sizes and batch. They take turns; medians count. d3rlpy wants packages of its own: `--python` is the
Python of an environment of its own (`benchmarks/peers/d3rlpy_updates.py`).

Reading: milliseconds that the batch of an update takes from a store of frames of Atari, from the system's cache and
from the disk, beside those of an update of the recipe `atari-cql`, and how much of them the loop feels.

Memory: the peak of a whole training process, with a store and with one of ten times as many steps. For this part each
training is a process of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharedq.training.seeds import use_all_cores

use_all_cores(for_one=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.peers.process import PeerProcess  # noqa: E402
from benchmarks.rows import Row  # noqa: E402
from sharedq.datasets import DataSet  # noqa: E402
from sharedq.datasets.episode import End, Episode  # noqa: E402
from sharedq.datasets.manifest import Description  # noqa: E402
from sharedq.datasets.store import FILES, Store  # noqa: E402
from sharedq.datasets.writing import StoreWriter  # noqa: E402
from sharedq.environments import Actions, Continuous, Discrete, EnvironmentSpec, Recorded  # noqa: E402
from sharedq.experiment import Experiment  # noqa: E402
from sharedq.networks import Convolutional, Dense  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

EPISODE = 500  # steps
OBS = 17  # numbers; with the actions of the size of HalfCheetah
BOUND = np.ones(6, np.float32)
BOX, SIX = Continuous(-BOUND, BOUND), Discrete(6)
FRAMES = ((84, 84, 4), np.uint8)
NATURE = Convolutional((32, 64, 64), (8, 4, 3), (4, 2, 1), "VALID", (512,))
ROWS = {  # the algorithm, its data, and the updates of a turn: of ours, and of the peer
    "IQL, dense 256x256, batch 256": ("iql", 256, 200, 60),
    "CQL, dense 256x256, batch 32": ("cql", 32, 2_000, 200),
    "CQL, Nature network, batch 32": ("cql-frames", 32, 20, 20),
}
SPEED_STEPS = 20_000  # of the data in the first part, which both hold in memory


def write_store(path: Path, kind: str, steps: int) -> Store:
    """Random data, of which the values do not matter here."""
    stacked = kind == "cql-frames"
    actions: Actions = BOX if kind == "iql" else SIX
    form, dtype = FRAMES if stacked else ((OBS,), np.float32)
    spec = EnvironmentSpec("unknown", jax.ShapeDtypeStruct(form, dtype), actions, "black" if stacked else None)
    random = np.random.default_rng(0)
    with StoreWriter(path, Description("random", "benchmark", spec, stack=4 if stacked else None)) as writer:
        for number in range(steps // EPISODE):
            if stacked:
                obs = np.frombuffer(random.bytes((EPISODE + 1) * 84 * 84), np.uint8).reshape(-1, 84, 84)
            else:
                obs = random.standard_normal((EPISODE + 1, OBS), np.float32)
            if kind == "iql":
                action = random.uniform(-1, 1, (EPISODE, 6)).astype(np.float32)
            else:
                action = random.integers(6, size=EPISODE).astype(np.int32)
            reward = random.standard_normal(EPISODE, np.float32)
            writer.add(Episode(obs, action, reward, End.TRUNCATED), f"episode {number}")
        return writer.finish()


def experiment(kind: str, store: Path, batch: int, stretch: int, **options: Any) -> Experiment:
    """The agent of a row. As d3rlpy's, its CQL has double Q-learning."""
    base = recipe("halfcheetah-iql" if kind == "iql" else "atari-cql")
    if kind != "iql":
        base = base.replace(network=NATURE if kind == "cql-frames" else Dense((256, 256)))
        base = base.replace(**{"algorithm.backup": "double"})
    base = base.replace(environment=Recorded(), replay=DataSet(path=str(store), batch_size=batch))
    return _timed(base, stretch).replace(**options)


def _timed(base: Experiment, stretch: int) -> Experiment:
    training = {"steps": 10**6, "log_period": stretch, "checkpoint_period": 10**6, "evaluation_period": None}
    return base.replace(**{f"training.{name}": value for name, value in training.items()})


class Peer(PeerProcess):
    """d3rlpy in a process of its own, with the steps of a store."""

    def __init__(self, python: str, kind: str, batch: int, store: Store, folder: Path):
        path = folder / f"{kind}.npz"
        np.savez(path, **_as_arrays(store))
        super().__init__(python, "d3rlpy_updates.py", kind, str(path), str(batch))


def _as_arrays(store: Store) -> dict[str, np.ndarray]:
    """One row per step; the last observation of an episode is left out, as in the peer's own format."""
    parts = list(store)
    obs = np.concatenate([one.obs[:-1] for one in parts])
    ends = np.concatenate([np.arange(len(one.reward)) == len(one.reward) - 1 for one in parts])
    return {
        "observations": obs[:, None] if store.description.stack else obs,
        "actions": np.concatenate([one.action for one in parts]),
        "rewards": np.concatenate([one.reward for one in parts]),
        "terminals": np.zeros(len(ends), np.float32),
        "timeouts": ends.astype(np.float32),
    }


def speed(folder: Path, arguments: argparse.Namespace) -> None:
    for name, (kind, batch, updates, of_peer) in ROWS.items():
        store = write_store(folder / kind, kind, SPEED_STEPS)
        row = Row(experiment(kind, store.path, batch, updates), name)
        peer = Peer(arguments.python, kind, batch, store, folder) if arguments.beside else None
        rates: list[float] = []
        for turn in range(1 + arguments.repeats):
            row.advance(timed=turn > 0)
            if peer:
                rates.append(of_peer / peer.seconds(of_peer))
        row.program.close()
        ours = statistics.median(row.rates)
        print(f"{name:32} {ours:8,.1f} updates/s ({min(row.rates):,.1f} to {max(row.rates):,.1f})", end="")
        if peer:
            peer.close()
            theirs = statistics.median(rates[1:])
            spread = f"({min(rates[1:]):,.1f} to {max(rates[1:]):,.1f})"
            print(f"  d3rlpy {theirs:8,.1f} {spread}  ratio {ours / theirs:.2f}", end="")
        print(flush=True)


class Kept:
    """A feed that reads nothing: it gives one block of another feed again and again."""

    def __init__(self, feed: Any, seeds: list[int], count: int):
        self._raw = feed.batches(seeds, 1, count)

    def batches(self, seeds: Any, first: int, count: int) -> Any:
        return self._raw


def forget(store: Store) -> None:
    """Has the system forget what it keeps of the files of a store."""
    store.release()
    for name in FILES:
        handle = os.open(store.path / name, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def warm_up(store: Store) -> None:
    """Has the system keep the files of a store in memory."""
    for name in FILES:
        with (store.path / name).open("rb") as file:
            while file.read(2**24):
                pass


def reading(folder: Path, arguments: argparse.Namespace) -> None:
    store = write_store(folder / "frames", "cql-frames", arguments.steps)
    stretch = arguments.updates
    base = recipe("atari-cql").replace(environment=Recorded(), replay=DataSet(path=str(store.path), batch_size=32))
    row = Row(_timed(base, stretch), "atari-cql")
    feed, seeds = row.program._feed, [0]
    opened, block = feed.store, row.program._block
    without = Kept(feed, seeds, block)
    places = iter(range(10**7, 10**9, block))  # no batch is read twice

    def read() -> float:
        began = time.perf_counter()
        feed.batches(seeds, next(places), block)
        return (time.perf_counter() - began) * 1e3 / block

    def advance(source: Any) -> float:
        row.program._feed = source
        row.advance(timed=True)
        return 1e3 / row.rates[-1]

    def cold(measured: Callable[..., float], *given: Any) -> float:
        forget(opened)
        return measured(*given)

    def warm(measured: Callable[..., float], *given: Any) -> float:
        warm_up(opened)
        return measured(*given)

    names = ("nothing read", "warm", "cold")
    loops: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names[1:]}
    for turn in range(1 + arguments.repeats):
        taken = {"nothing read": advance(without), "warm": warm(advance, feed), "cold": cold(advance, feed)}
        by_itself = {"warm": warm(read), "cold": cold(read)}
        if turn:
            for name, value in taken.items():
                loops[name].append(value)
            for name, value in by_itself.items():
                alone[name].append(value)
    row.program.close()
    update = statistics.median(loops["nothing read"])
    size = sum(one["bytes"] for one in opened.manifest.files.values())
    print(f"a store of {opened.manifest.steps:,} frames, {size / 1e9:.2f} GB; blocks of {block} updates")
    print(f"an update of atari-cql, without reading: {update:8.2f} ms")
    for name, values in alone.items():
        cost = statistics.median(values)
        felt = statistics.median(b - a for a, b in zip(loops["nothing read"], loops[name], strict=True))
        print(
            f"reading the batch of an update, {name}: {cost:8.3f} ms ({min(values):.3f} to {max(values):.3f}), "
            f"{cost / update:6.1%} of an update; the loop takes {felt:+.2f} ms longer: {_hidden(felt, cost):.0%} of it "
            "is hidden"
        )


def _hidden(felt: float, cost: float) -> float:
    return min(max(1 - felt / cost, 0.0), 1.0)


def peak(kind: str, store: Path, updates: int) -> dict[str, float]:
    """Bytes that this process had in memory at most, when all its updates are made."""
    options = {"replay.return_range": 1_000.0} if kind == "iql" else {}
    row = Row(experiment(kind, store, 256 if kind == "iql" else 32, updates // 2, **options), kind)
    ready = _peak()
    for _ in range(2):
        row.advance(timed=True)
    row.program.close()
    return {"ready": ready, "peak": _peak(), "rate": statistics.median(row.rates)}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(folder: Path, arguments: argparse.Namespace) -> None:
    kinds = {"cql-frames": ("CQL, frames of 84x84", arguments.steps, 200), "iql": ("IQL, vectors", 2_000_000, 2_000)}
    for kind, (label, most, updates) in kinds.items():
        found = []
        for steps in (most // 10, most):
            path = folder / f"memory-{kind}-{steps}"
            size = sum(one["bytes"] for one in write_store(path, kind, steps).manifest.files.values())
            options = ["--parts", "one", "--kind", kind, "--store", str(path), "--updates", str(updates)]
            runs = [_in_a_process(options) for _ in range(arguments.processes)]
            found.append(min(runs, key=lambda run: run["peak"]))
            print(f"{label}: {size / 1e6:8,.0f} MB of data, peak {found[-1]['peak'] / 1e6:7.1f} MB of memory")
        print(f"{label}: peak memory grows by {found[1]['peak'] / found[0]['peak'] - 1:+.1%}", flush=True)


def _in_a_process(options: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.offline", *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


PARTS = {"speed": speed, "reading": reading, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=(*PARTS, "one"), help="what to measure")
    parser.add_argument("--beside", default=None, choices=("d3rlpy",), help="the package to measure beside")
    parser.add_argument("--python", default=sys.executable, help="the Python that has it")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each, whose median counts")
    parser.add_argument("--steps", type=int, default=200_000, help="of the large store of frames")
    parser.add_argument("--updates", type=int, default=24, help="in each turn of atari-cql")
    parser.add_argument("--processes", type=int, default=2, help="trainings of each store; the least peak counts")
    parser.add_argument("--kind", choices=("cql-frames", "iql"), help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parts == ["one"]:
        print(json.dumps(peak(arguments.kind, arguments.store, arguments.updates)))
        return
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), arguments)


if __name__ == "__main__":
    main()
