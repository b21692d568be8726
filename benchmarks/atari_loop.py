"""Environment steps per second of training on Atari by the paper's protocol, per source of targets.

    python -m benchmarks.atari_loop --targets shared_heads:heads=9 online_network target_network

One game, one environment, one seed, batch 32, one update per 4 steps. The sources take turns, so that a change in the
machine's speed meets all alike; medians count. Collecting alone is what happens during the warm-up.
"""

import argparse
import statistics

from sharedq.training.seeds import use_all_cores

use_all_cores(for_one=True)

from benchmarks.rows import Row  # noqa: E402
from sharedq.comparison import with_target  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402
from sharedq.units import readable  # noqa: E402

STRETCH = 400  # steps
COLLECTED = 3  # stretches of warm-up, the first of them untimed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--targets", nargs="+", default=["shared_heads:heads=9", "online_network", "target_network"], metavar="SOURCE"
    )
    parser.add_argument("--recipe", default="atari-cnn-ln", help="atari-cnn, atari-cnn-ln or atari-impala-ln")
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--epsilon", type=float, help="share of random actions (default: as it falls, 1 at first)")
    parser.add_argument("--stretches", type=int, default=7, help=f"timed stretches of {STRETCH} steps of each source")
    arguments = parser.parse_args()
    stretches = COLLECTED + 1 + arguments.stretches
    options = {"replay.capacity": 100_000, "training.log_period": STRETCH, "training.warm_up": COLLECTED * STRETCH}
    if arguments.epsilon is not None:
        options |= {f"algorithm.epsilon_{end}": arguments.epsilon for end in ("start", "end")}
    base = recipe(arguments.recipe).replace(game=arguments.game, steps=stretches * STRETCH, **options)
    rows = [Row(with_target(base, target), target) for target in arguments.targets]
    for number in range(stretches):
        for row in rows:
            row.advance(timed=number not in (0, COLLECTED))
    for row in rows:
        collecting, learning = row.rates[: COLLECTED - 1], row.rates[COLLECTED - 1 :]
        print(
            f"{row.label:24} {statistics.median(learning):6.0f} steps/s "
            f"({min(learning):.0f} to {max(learning):.0f})  {row.flops * statistics.median(learning) / 1e9:5.0f} "
            f"GFLOP/s  collecting alone {statistics.median(collecting):6.0f} steps/s  "
            f"holds {readable(row.held)} with a replay of 100,000"
        )


if __name__ == "__main__":
    main()
