"""Microseconds of one gradient update on MinAtar for every kind of value, backup and source, in a compiled loop.

    python -m benchmarks.targets

Each row is the recipe minatar-breakout with other options: batch 32, MinAtar's network, DQN's Adam; one seed, which has
all cores. The rows take turns, and ratios are to the row with a scalar value and a target network in the same turn;
medians count.
"""

import argparse
import statistics

from benchmarks.atari_update import Updates  # first: it chooses the cores

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip

from sharedq import recipe
from sharedq.training.learning import example_batch
from sharedq.transitions import Batch

PLAIN = "scalar, target network"
ROWS = {
    PLAIN: {},
    "C51": {"algorithm.values": "categorical"},
    "C51, target-free": {"algorithm.values": "categorical", "target": "online_network"},
    "C51, shared heads K=9": {"algorithm.values": "categorical", "target": "shared_heads", "target.heads": 9},
    "QR-DQN, 51 quantiles": {"algorithm.values": "quantile"},
    "HL-Gauss": {"algorithm.values": "hl_gauss"},
    "Munchausen": {"algorithm.backup": "munchausen"},
    "minto": {"target": "minto"},
    "averaged N=10": {"target": "averaged"},
    "maxmin N=4": {"target": "maxmin", "target.networks": 4},
    "redq N=10": {"target": "redq"},
    "functional regularisation": {"target": "functional_regularisation"},
    "adaptive K=5": {"target": "adaptive"},
    "eau de K=5": {"target": "eau_de"},
    "pruned target network": {"target": "poly_prune", "target.begin": 0, "target.end": 100_000},
    "shared heads K=9": {"target": "shared_heads", "target.heads": 9},
    "shared heads K=9, corrected": {
        "target": "shared_heads",
        "target.heads": 9,
        "algorithm.gradient_correction": True,
    },
}


def batches(spec, count: int) -> Batch:
    """As many random batches as updates of a call, [count, B, ...]."""
    like = jax.tree.map(lambda x: jnp.stack([x] * count), example_batch(spec, 32))
    keys = iter(jax.random.split(jax.random.key(0), 4))
    sample = like.transition
    obs, next_obs = (jax.random.bernoulli(next(keys), 0.1, x.shape).astype(x.dtype) for x in (sample.obs, sample.obs))
    action = jax.random.randint(next(keys), sample.action.shape, 0, spec.actions.n)
    reward = jax.random.normal(next(keys), sample.reward.shape)
    return like._replace(
        transition=sample._replace(
            obs=obs, next_obs=next_obs, action=action, reward=reward, discount=jnp.full(reward.shape, 0.99)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--loops", type=int, default=200, help="updates in each compiled call")
    parser.add_argument("--repeats", type=int, default=9, help="calls of each, whose median counts")
    arguments = parser.parse_args()
    built = {name: recipe("minatar-breakout").replace(**ROWS[name]).build() for name in arguments.rows}
    data = batches(next(iter(built.values())).spec, arguments.loops)
    rows = [Updates(name, one.algorithm, data) for name, one in built.items()]
    for number in range(1 + arguments.repeats):
        for one in rows:
            one.call(timed=number > 0)
    print(f"on {jax.devices()[0].device_kind}, batch 32")
    for one in rows:
        ratios = [mine / plain for mine, plain in zip(one.times, rows[0].times, strict=True)]
        print(
            f"{one.label:30} {1e6 * statistics.median(one.times):8,.0f} us  {statistics.median(ratios):5.2f} times "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
