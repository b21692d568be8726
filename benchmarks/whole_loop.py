"""Environment steps per second of the whole training loop, per source of targets and number of seeds.

    python -m benchmarks.whole_loop --seeds 1 8 --targets online_network shared_heads:heads=9

MinAtar Breakout, 8 environments per seed, batch 32, one update per 4 steps. The chunks of all rows are timed in turn,
so that a change in the machine's speed meets all rows alike; each row's median counts.
"""

import argparse
import statistics
import time

from sharedq.training.seeds import use_all_cores

use_all_cores()

from sharedq.comparison import with_target  # noqa: E402
from sharedq.networks import NETWORKS  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

TARGETS = (
    "online_network",
    "target_network",
    "shared_heads:heads=1",
    "shared_heads:heads=9",
    "iterated_networks:networks=5",
    "lookahead_replicate",
)


class Row:
    """One experiment, warmed up, whose chunks can be timed one by one."""

    def __init__(self, experiment, label: str):
        self.label, self.seeds = label, experiment.seeds
        self.program = experiment.build().program()
        began = time.perf_counter()
        self.program.prepare()
        self.compile_seconds = time.perf_counter() - began
        self.run, self.step, self.rates = self.program.begin(), 0, []

    def advance(self, timed: bool) -> None:
        stop = next(s for s in self.program.stops if s > self.step)
        began = time.perf_counter()
        self.run, _ = self.program.advance(self.run, self.step, stop)
        if timed:
            self.rates.append((stop - self.step) * self.seeds / (time.perf_counter() - began))
        self.step = stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="minatar-breakout")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--chunks", type=int, default=5, help="timed stretches of 10,000 steps of each seed")
    parser.add_argument(
        "--network", default="convolutional", choices=("convolutional", "dense"), help="MinAtar's, or dense 64x64"
    )
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network]()
    base = recipe(arguments.recipe).replace(network=network, steps=10_000 * (arguments.chunks + 2))
    rows = [
        Row(with_target(base.replace(seeds=seeds), target), f"{target}, {seeds} seeds")
        for seeds in arguments.seeds
        for target in arguments.targets
    ]
    for number in range(arguments.chunks + 2):
        for row in rows:
            row.advance(timed=number >= 2)
    for row in rows:
        rate = statistics.median(row.rates)
        share = rate / statistics.median(rows[0].rates)
        print(
            f"{row.label:36} {rate:8,.0f} steps/s  {share:5.2f} of the first row  "
            f"{min(row.rates):8,.0f} .. {max(row.rates):,.0f}  compiled in {row.compile_seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
