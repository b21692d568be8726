"""Our PQN beside that of the package rejax: the same game, network, rollouts and minibatches, taking turns.

    pip install rejax && python -m benchmarks.pqn

MinAtar Breakout with 128 environments per seed. After 32 steps of each there are two epochs of 32 minibatches. Both use
a dense 64x64 network with LayerNorm, which is the one that rejax has. Its optimiser is Adam, and ours is RAdam as in
the paper. The row with the paper's network, which is convolutional, is for ours alone.
"""

import argparse
import statistics

from benchmarks.against_rejax import Gymnax, Theirs
from benchmarks.rows import Row
from sharedq import recipe
from sharedq.networks import Dense

ROLLOUT = 128 * 32  # steps of a seed


def theirs(environment, steps: int):
    """rejax's PQN with the numbers of our recipe, which trains for so many steps at a call."""
    import rejax

    return (
        rejax.get_algo("pqn")
        .create(
            env=Gymnax(environment),
            env_params=None,
            num_envs=128,
            num_steps=32,
            num_epochs=2,
            num_minibatches=32,
            learning_rate=5e-4,
            max_grad_norm=10.0,
            td_lambda=0.65,
            total_timesteps=steps,
            eval_freq=steps,
            skip_initial_evaluation=True,
        )
        .replace(eval_callback=lambda agent, state, key: 0)
    )  # no evaluation: training alone is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--chunks", type=int, default=5, help="timed stretches")
    parser.add_argument("--rollouts", type=int, default=20, help="rollouts in each stretch")
    arguments = parser.parse_args()
    steps = arguments.rollouts * ROLLOUT
    base = recipe("pqn-minatar-breakout").replace(
        **{"steps": steps * (arguments.chunks + 2), "training.log_period": steps}
    )
    for seeds in arguments.seeds:
        rows = [
            Row(base.replace(seeds=seeds, network=Dense((64, 64), norm="layer")), "sharedq"),
            Theirs(theirs(base.environment.build(), steps), seeds, steps),
            Row(base.replace(seeds=seeds), "the paper's network"),
        ]
        for number in range(arguments.chunks + 2):
            for one in rows:
                one.advance(timed=number >= 2)
        rates = {one.label: statistics.median(one.rates) for one in rows}
        words = "  ".join(f"{name} {rate:8,.0f} steps/s" for name, rate in rates.items())
        print(f"{seeds} seeds  {words}  ratio {rates['sharedq'] / rates['rejax']:.2f}")


if __name__ == "__main__":
    main()
