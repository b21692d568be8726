"""Environment steps per second of soft actor-critic on the Control Suite, learning after the worlds step or meanwhile.

    python -m benchmarks.control_loop --recipe sac-mlp --task cheetah-run

One environment, one seed, the recipe's updates after each step. The two orders take turns, so that a change in the
machine's speed meets both alike; the median of the ratios of neighbouring stretches counts.
"""

import argparse
import statistics

from sharedq.training.seeds import use_all_cores

use_all_cores(for_one=True)

from benchmarks.rows import Row  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

STRETCH = 500  # steps
UNTIMED = 2  # stretches: of warm-up, and the first with updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sac-mlp", help="one on the Control Suite")
    parser.add_argument("--task", default="cheetah-run")
    parser.add_argument("--stretches", type=int, default=9, help=f"timed stretches of {STRETCH} steps of each order")
    arguments = parser.parse_args()
    stretches = UNTIMED + arguments.stretches
    options = {"replay.capacity": 100_000, "training.log_period": STRETCH, "training.warm_up": STRETCH}
    base = recipe(arguments.recipe).replace(
        steps=stretches * STRETCH, **{"environment.task": arguments.task, "algorithm.random_steps": STRETCH}, **options
    )
    after, meanwhile = (
        Row(base.replace(**{"training.learn_while_stepping": chosen}), label)
        for chosen, label in ((False, "learning after stepping"), (True, "learning while stepping"))
    )
    for number in range(stretches):
        for row in (after, meanwhile):
            row.advance(timed=number >= UNTIMED)
    for row in (after, meanwhile):
        print(f"{row.label} {statistics.median(row.rates):6.0f} ({min(row.rates):.0f} to {max(row.rates):.0f}) steps/s")
    ratios = [there / here for here, there in zip(after.rates, meanwhile.rates, strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
