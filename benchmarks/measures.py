"""What measuring and evaluating cost: the loop with and without them, as ratios of its time.

    python -m benchmarks.measures
    python -m benchmarks.measures --recipe sac-swingup --seeds 2 --stretch 500

The stretches of all rows are timed in turn, so that a change in the machine's speed meets all rows alike. Each stretch
is compared with the stretch without measures in the same turn, and the median counts. A stretch ends with a row of the
log, so the measures of the log are in it.
"""

import argparse
import statistics

from sharedq.training.seeds import use_all_cores

use_all_cores()

from benchmarks.rows import Row  # noqa: E402
from sharedq.comparison import with_target  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

MEASURED = (
    "",
    "target_churn",
    "rank",
    "target_churn,rank",
    "gradient_alignment",
    "dead_units",
    "gradient_alignment,target_churn,rank,dead_units",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="minatar-space-invaders")
    parser.add_argument("--target", default="shared_heads:heads=1")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--stretch", type=int, default=10_000, help="steps of each seed in a timed stretch")
    parser.add_argument("--stretches", type=int, default=5, help="timed stretches of each row")
    parser.add_argument("--measures", nargs="+", default=MEASURED, help="what each row measures")
    arguments = parser.parse_args()
    base = with_target(recipe(arguments.recipe), arguments.target)
    warm = base.training.cycles(base.training.warm_up) * base.training.cycle
    steps = warm + arguments.stretch * (arguments.stretches + 1)
    base = base.replace(seeds=arguments.seeds, steps=steps, **{"training.log_period": arguments.stretch})
    rows = [Row(base.replace(**{"training.measures": one}), one or "nothing") for one in arguments.measures]
    while rows[0].step < steps:
        for row in rows:
            row.advance(timed=row.step >= warm + arguments.stretch)
    for row in rows:
        longer = [without / rate - 1 for without, rate in zip(rows[0].rates, row.rates, strict=True)]
        print(
            f"{row.label:50} {statistics.median(row.rates):8,.0f} steps/s  {statistics.median(longer):+6.1%} time "
            f"({min(longer):+.1%} to {max(longer):+.1%})  compiled in {row.compile_seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
