"""Milliseconds of one gradient update of the paper's Atari network, in a compiled loop as in training, per source.

    python -m benchmarks.atari_update --targets shared_heads:heads=9 online_network target_network

Batch 32 of 84x84x4 bytes, 10 actions, LayerNorm, DQN's Adam; one seed, which has all cores. The sources take turns, so
that a change in the machine's speed meets all alike; medians count. Large matrix products take their turn too: an
update's share of their speed, by the compiler's count of its operations, says how near it comes to what the machine
can do.
"""

import argparse
import dataclasses
import statistics
import time

from sharedq.training.seeds import CPU_OPTIONS, use_all_cores

use_all_cores(for_one=True)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from sharedq.algorithms import DQN, Algorithm  # noqa: E402
from sharedq.analysis.cost import flops  # noqa: E402
from sharedq.networks import Convolutional, Impala  # noqa: E402
from sharedq.targets import SOURCES  # noqa: E402
from sharedq.transitions import Batch, Transition  # noqa: E402

CNN = Convolutional((32, 64, 64), (8, 4, 3), (4, 2, 1), "SAME", (512,))
NETWORKS = {"cnn": CNN, "impala": Impala()}
BATCH, ACTIONS, SIDE = 32, 10, 2048
OPTIONS = CPU_OPTIONS if jax.default_backend() == "cpu" else None


def batches(count: int) -> Batch:
    """As many batches as updates of a call, [count, B, ...]."""
    keys = iter(jax.random.split(jax.random.key(0), 4))
    obs, next_obs = (jax.random.bits(next(keys), (count, BATCH, 84, 84, 4), jnp.uint8) for _ in range(2))
    action = jax.random.randint(next(keys), (count, BATCH), 0, ACTIONS)
    reward, ones = jax.random.normal(next(keys), (count, BATCH)), jnp.ones((count, BATCH))
    return Batch(Transition(obs, action, reward, 0.99 * ones, next_obs), ones, jnp.zeros((count, BATCH), jnp.int32))


def dqn(target: str, network) -> Algorithm:
    kind, _, settings = target.partition(":")
    pairs = (pair.split("=") for pair in settings.split(",") if pair)
    return DQN().on(SOURCES[kind](**{name: int(value) for name, value in pairs}).build(network.build(ACTIONS)))


class Updates:
    """An algorithm's updates, compiled, whose calls can be timed one by one. Data have an axis of updates in front."""

    def __init__(self, label: str, algorithm: Algorithm, data: Batch):
        first, key = jax.tree.map(lambda x: x[0], data), jax.random.key(1)

        def several(state, data):
            def once(carry, batch):
                state, number = carry
                state, _, metrics = algorithm.update(state, batch, key, number)
                return (state, number + 1), metrics["loss"]

            return jax.lax.scan(once, (state, jnp.int32(1)), data)

        self.label, self.data, self.times = label, data, []
        self.state = jax.jit(algorithm.init)(key, first)
        self.flops = flops(algorithm.update, self.state, first, key, jnp.int32(1))
        compiled = jax.jit(several, donate_argnums=0, compiler_options=OPTIONS).lower(self.state, data).compile()
        self._several, scratch = compiled, compiled.memory_analysis()
        self.scratch = scratch.temp_size_in_bytes if scratch else 0

    def call(self, timed: bool) -> None:
        began = time.perf_counter()
        (self.state, _), losses = jax.block_until_ready(self._several(self.state, self.data))
        if timed:
            self.times.append((time.perf_counter() - began) / len(losses))


class Products:
    """Large matrix products, in operations per second."""

    LOOPS = 5

    def __init__(self, dtype: str):
        self.rates, matrix = [], jnp.eye(SIDE, dtype=dtype)
        self._run = jax.jit(lambda x: jax.lax.fori_loop(0, self.LOOPS, lambda _, x: x @ matrix, x))
        self._x = jnp.ones((SIDE, SIDE), dtype)

    def call(self, timed: bool) -> None:
        began = time.perf_counter()
        jax.block_until_ready(self._run(self._x))
        if timed:
            self.rates.append(self.LOOPS * 2 * SIDE**3 / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--targets", nargs="+", default=["shared_heads:heads=9", "online_network", "target_network"], metavar="SOURCE"
    )
    parser.add_argument("--network", default="cnn", choices=NETWORKS)
    parser.add_argument("--norm", default="layer", choices=("none", "layer", "batch", "batch_pixel"))
    parser.add_argument("--compute", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--loops", type=int, default=10, help="updates in each compiled call")
    parser.add_argument("--repeats", type=int, default=9, help="calls of each, whose median counts")
    arguments = parser.parse_args()
    network = dataclasses.replace(NETWORKS[arguments.network], norm=arguments.norm, compute=arguments.compute)
    data, products = batches(arguments.loops), Products(arguments.compute)
    rows = [Updates(target, dqn(target, network), data) for target in arguments.targets]
    for number in range(1 + arguments.repeats):
        for one in (*rows, products):
            one.call(timed=number > 0)
    peak = statistics.median(products.rates)
    print(f"{arguments.network}, norm {arguments.norm}, {arguments.compute}, on {jax.devices()[0].device_kind}")
    print(f"large matrix products: {peak / 1e9:,.0f} GFLOP/s")
    for row in rows:
        middle = statistics.median(row.times)
        print(
            f"{row.label:24} {middle * 1e3:7.2f} ms ({min(row.times) * 1e3:.2f} to {max(row.times) * 1e3:.2f})  "
            f"{row.flops / 1e9:6.2f} GFLOP, {row.flops / middle / peak:4.0%} of their speed  "
            f"{row.scratch / 2**20:5.0f} MiB of temporaries"
        )


if __name__ == "__main__":
    main()
