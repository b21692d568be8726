"""Environment steps per second of the whole training loop, per source of targets and number of seeds.

    python -m benchmarks.whole_loop --seeds 1 8 --targets online_network shared_heads:heads=9

MinAtar Breakout, 8 environments per seed, batch 32, one update per 4 steps. The chunks of all rows are timed in turn,
so that a change in the machine's speed meets all rows alike; each row's median counts. Large matrix products on all
cores take their turn too: a row's share of their speed says how near it comes to what the machine can do.
"""

import argparse
import statistics
import time

from sharedq.training.seeds import use_all_cores

use_all_cores()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.rows import Row  # noqa: E402
from sharedq.comparison import with_target  # noqa: E402
from sharedq.networks import NETWORKS  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402
from sharedq.training.seeds import Layout  # noqa: E402

TARGETS = (
    "online_network",
    "target_network",
    "shared_heads:heads=1",
    "shared_heads:heads=9",
    "iterated_networks:networks=5",
    "lookahead_replicate",
)


class Products:
    """Large matrix products on every core at once, in operations per second."""

    SIDE, LOOPS = 1024, 30

    def __init__(self):
        devices = jax.device_count()
        layout, self.rates = Layout(devices), []

        def multiply(matrix, own):
            return jax.lax.fori_loop(0, self.LOOPS, lambda _, x: x @ matrix, own), ()

        self._multiply = layout.spread(multiply)
        self._matrix = jnp.eye(self.SIDE)
        self._own = layout.place(np.ones((devices, self.SIDE, self.SIDE), np.float32))
        self._flops = devices * self.LOOPS * 2 * self.SIDE**3

    def advance(self, timed: bool) -> None:
        began = time.perf_counter()
        self._own, _ = jax.block_until_ready(self._multiply(self._matrix, self._own))
        if timed:
            self.rates.append(self._flops / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="minatar-breakout")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--chunks", type=int, default=5, help="timed stretches of 10,000 steps of each seed")
    networks = ("convolutional", "dense")
    parser.add_argument("--network", default=networks[0], choices=networks, help="MinAtar's, or dense 64x64")
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network]()
    base = recipe(arguments.recipe).replace(network=network, steps=10_000 * (arguments.chunks + 2))
    products = Products()
    rows = [
        Row(with_target(base.replace(seeds=seeds), target), f"{target}, {seeds} seeds")
        for seeds in arguments.seeds
        for target in arguments.targets
    ]
    for number in range(arguments.chunks + 2):
        for row in rows:
            row.advance(timed=number >= 2)
            products.advance(timed=number >= 2)
    peak = statistics.median(products.rates)
    print(f"large matrix products on all cores: {peak / 1e9:.0f} GFLOP/s")
    for row in rows:
        rate, first = (statistics.median(one.rates) for one in (row, next(r for r in rows if r.seeds == row.seeds)))
        print(
            f"{row.label:36} {rate:8,.0f} steps/s ({min(row.rates):,.0f} to {max(row.rates):,.0f})  "
            f"{rate / first:5.2f} of the first with as many seeds  {rate * row.flops / 1e9:4.0f} GFLOP/s, "
            f"{rate * row.flops / peak:4.0%} of theirs  compiled in {row.compile_seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
