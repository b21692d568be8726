"""Environment steps per second of the recipe atari-small, beside the same protocol in the way of research code.

    python -m benchmarks.atari_small --seeds 1 2 4

Shared heads with K=9: an update per environment step, on batches of 16. The other program is a Python loop over one
environment with a call for each action and each update (`benchmarks/peers/atari_steps.py`). Both take turns, so that a
change in the machine's speed meets both, and medians count. The emulator alone is what one core steps without an agent.
"""

import argparse
import statistics
import sys
import time

from sharedq.training.seeds import use_all_cores

use_all_cores(devices=8)

import numpy as np  # noqa: E402

from benchmarks.peers.process import PeerProcess  # noqa: E402
from benchmarks.rows import Row  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

STRETCH = 2_000  # steps of a seed
HEADS = 9


def emulated(experiment, steps: int) -> float:
    """Environment steps per second of the emulator with random actions."""
    worlds, random = experiment.environment.build().open(1, 0), np.random.default_rng(0)
    worlds.reset()
    began = time.perf_counter()
    for action in random.integers(4, size=(steps, 1)):
        worlds.step(action)
    return steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--stretches", type=int, default=5, help=f"timed stretches of {STRETCH} steps of each seed")
    arguments = parser.parse_args()
    options = {
        "training.log_period": STRETCH,
        "training.warm_up": STRETCH,
        "steps": STRETCH * (arguments.stretches + 2),
    }
    base = recipe("atari-small").replace(
        game=arguments.game, target="shared_heads", **{"target.heads": HEADS}, **options
    )
    rows = [Row(base.replace(seeds=seeds), f"sharedq, {seeds} seeds") for seeds in arguments.seeds]
    peer, peer_rates = PeerProcess(sys.executable, "atari_steps.py", arguments.game, str(HEADS)), []
    for number in range(arguments.stretches + 2):
        for row in rows:
            row.advance(timed=number >= 2)
        seconds = peer.seconds(STRETCH)
        peer_rates += [STRETCH / seconds] * (number >= 2)
    peer.close()
    loop = statistics.median(peer_rates)
    for row in rows:
        rate = statistics.median(row.rates)
        print(f"{row.label:20} {rate:6,.0f} steps/s, {rate / loop:.2f} times the loop")
    print(f"{'a Python loop':20} {loop:6,.0f} steps/s")
    print(f"{'the emulator alone':20} {emulated(base, 5 * STRETCH):6,.0f} steps/s on one core")


if __name__ == "__main__":
    main()
