"""Steps per second of Stream Q(lambda) on MinAtar Breakout, per source of targets and number of seeds.

    python -m benchmarks.streaming --seeds 1 8

One environment per seed, one update per step. The stretches of all rows are timed in turn, so that a change in the
machine's speed meets all rows alike; each row's median counts. Where other work shares the machine, the processor
seconds that this process used say more than the clock: the last column is steps per second of one core.
"""

import argparse
import statistics

from sharedq.training.seeds import use_all_cores

use_all_cores()

from benchmarks.rows import Row  # noqa: E402
from sharedq.comparison import with_target  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

TARGETS = ("online_network", "target_network:period=1000", "shared_heads:heads=1", "shared_heads:heads=3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--stretches", type=int, default=5, help="timed stretches of each row")
    parser.add_argument("--steps", type=int, default=5_000, help="steps of one seed in a stretch")
    asked = parser.parse_args()
    plain = recipe("stream-minatar").replace(**{"training.log_period": asked.steps})
    rows = [
        Row(with_target(plain.replace(seeds=seeds), target), f"{target:28} {seeds:5} seeds")
        for seeds in asked.seeds
        for target in asked.targets
    ]
    for stretch in range(asked.stretches + 1):
        for row in rows:
            row.advance(timed=stretch > 0)
    for row in rows:
        rate, of_core = statistics.median(row.rates), statistics.median(row.of_core)
        print(f"{row.label}  {rate:10,.0f} steps/s  {of_core:10,.0f} per core")


if __name__ == "__main__":
    main()
