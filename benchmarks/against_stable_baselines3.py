"""Our DQN on Atari beside that of stable-baselines3: the same game, wrappers, network and updates, taking turns.

    pip install stable-baselines3 && python -m benchmarks.against_stable_baselines3

Breakout with sticky actions, 84x84x4, its default CnnPolicy (the Nature network without border), a target network,
batch 32, one update per 4 steps, one environment, on a CPU.
"""

import argparse
import statistics
import time

from sharedq.training.seeds import use_all_cores

use_all_cores(for_one=True)

import ale_py  # noqa: E402
import gymnasium  # noqa: E402
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation  # noqa: E402
from stable_baselines3 import DQN  # noqa: E402

from benchmarks.rows import Row  # noqa: E402
from sharedq.networks import Convolutional  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402

STRETCH, CAPACITY, RATE = 400, 10_000, 6.25e-5
NATURE = Convolutional((32, 64, 64), (8, 4, 3), (4, 2, 1), "VALID", (512,))


def breakout() -> gymnasium.Env:
    gymnasium.register_envs(ale_py)
    game = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.25, full_action_space=False)
    return FrameStackObservation(AtariPreprocessing(game, noop_max=0), 4)


class Theirs:
    def __init__(self) -> None:
        self.label, self.rates = "stable-baselines3", []
        self._model = DQN(
            "CnnPolicy",
            breakout(),
            learning_rate=RATE,
            buffer_size=CAPACITY,
            learning_starts=STRETCH,
            batch_size=32,
            train_freq=4,
            gradient_steps=1,
            target_update_interval=8000,
            device="cpu",
            seed=0,
        )

    def advance(self, timed: bool) -> None:
        began = time.perf_counter()
        self._model.learn(STRETCH, reset_num_timesteps=False)
        if timed:
            self.rates.append(STRETCH / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stretches", type=int, default=7, help=f"timed stretches of {STRETCH} steps of each")
    stretches = 2 + parser.parse_args().stretches
    options = {"replay.capacity": CAPACITY, "training.log_period": STRETCH, "training.warm_up": STRETCH}
    ours = recipe("atari-cnn").replace(target="target_network", network=NATURE, steps=stretches * STRETCH, **options)
    rows = (Row(ours, "sharedq"), Theirs())
    for number in range(stretches):
        for row in rows:
            row.advance(timed=number >= 2)
    middle = {row.label: statistics.median(row.rates) for row in rows}
    words = "  ".join(f"{name} {rate:6.0f} steps/s" for name, rate in middle.items())
    print(f"{words}  ratio {middle['sharedq'] / middle['stable-baselines3']:.2f}")


if __name__ == "__main__":
    main()
