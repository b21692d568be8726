"""Gradient updates per second of soft actor-critic, a batch drawn for each, and their share of matrix products' speed.

    python -m benchmarks.sac_update
    python -m benchmarks.sac_update --beside sbx sb3 --python ~/peers/bin/python

The agents are those of the recipes `sac-mlp`, with dense layers of 256x256, two critics and batches of 256, and
`sac-simba-humanoid-run`, with its normalisers. Observations and actions are of the size of humanoid. Rows take turns,
and so do large matrix products, so that a change in the machine's speed meets all alike; medians count. The packages
`sbx-rl` and `stable-baselines3` want other versions of what we stand on: `--python` is the Python of an environment of
theirs (`benchmarks/peers/sac.py`).
"""

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.atari_update import OPTIONS, Products
from benchmarks.peers.process import PeerProcess
from sharedq.analysis.cost import flops
from sharedq.environments import Continuous, EnvironmentSpec
from sharedq.experiment import Experiment
from sharedq.recipes import recipe
from sharedq.replay import Transitions, uniform_replay
from sharedq.training import Interactive
from sharedq.training.learning import Learner, example_batch, make_update, step_like, zero_metrics
from sharedq.training.measuring import NOTHING

OBS, ACTIONS, BATCH, STORED = 67, 21, 256, 10_000
BOUND = np.ones(ACTIONS, np.float32)
HUMANOID = EnvironmentSpec("humanoid", jax.ShapeDtypeStruct((OBS,), np.float32), Continuous(-BOUND, BOUND))
PLAIN, SIMBA = recipe("sac-mlp"), recipe("sac-simba-humanoid-run")
NINE = {"target.heads": 9, "target.tau": 1.0, "target.period": 400, "target.loss_discount": 0.25}
ROWS = {
    "plain, target network": PLAIN,
    "plain, shared heads K=1": PLAIN.replace(target="shared_heads"),
    "plain, target-free": PLAIN.replace(target="online_network"),
    "SimbaV2, target network": SIMBA,
    "SimbaV2, shared heads K=1": SIMBA.replace(target="shared_heads"),
    "SimbaV2, shared heads K=9": SIMBA.replace(target="shared_heads", **NINE),
}


class Ours:
    """Updates from a replay in one dispatch after another, `at_once` in each."""

    def __init__(self, experiment: Experiment, at_once: int):
        algorithm = experiment.algorithm.build(HUMANOID, experiment.target, experiment.network)
        storage = Transitions(capacity=STORED, batch_size=BATCH).build(step_like(HUMANOID), 0.99, 1)
        replay = uniform_replay(storage)
        training = Interactive(environments=1, update_period=1, gradient_steps=at_once)
        example, key = example_batch(HUMANOID, BATCH), jax.random.key(0)
        learner = Learner(jnp.int32(0), jax.jit(algorithm.init)(key, example), jax.jit(replay.init)())
        self.held = (learner, jax.device_put(zero_metrics(algorithm, HUMANOID, replay, 1, NOTHING)))
        self.flops = flops(algorithm.update, learner.agent, example, key, jnp.int32(1))
        self._learn = jax.jit(
            lambda carry, number: make_update(algorithm, replay, training, NOTHING)(*carry, number),
            donate_argnums=0,
            compiler_options=OPTIONS,
        )
        self._at_once, self._number = at_once, STORED  # as many steps lie in the replay

    def seconds(self, updates: int) -> float:
        began = time.perf_counter()
        for _ in range(max(updates // self._at_once, 1)):
            self.held = self._learn(self.held, jnp.int32(self._number))
            self._number += 1
        jax.block_until_ready(self.held)
        return time.perf_counter() - began


class Peer(PeerProcess):
    """Another package, in a process of its own."""

    flops = None

    def __init__(self, python: str, package: str, at_once: int):
        super().__init__(python, "sac.py", package, *map(str, (OBS, ACTIONS, BATCH, STORED, at_once)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--beside", nargs="*", default=[], choices=("sbx", "sb3"), help="packages to measure beside")
    parser.add_argument("--python", default=sys.executable, help="the Python that has them")
    parser.add_argument("--at-once", type=int, default=1, help="updates in each dispatch, and in each call of a peer")
    parser.add_argument("--updates", type=int, default=200, help="updates in each turn of a plain agent")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each, whose median counts")
    arguments = parser.parse_args()
    rows = {name: Ours(ROWS[name], arguments.at_once) for name in arguments.rows}
    rows |= {name: Peer(arguments.python, name, arguments.at_once) for name in arguments.beside}
    times: dict[str, list[float]] = {name: [] for name in rows}
    products = Products("float32")
    for turn in range(1 + arguments.repeats):
        for name, row in rows.items():
            updates = max(arguments.updates // (20 if "Simba" in name else 1), arguments.at_once)
            taken = row.seconds(updates) / updates
            if turn:  # the first one compiles
                times[name].append(taken)
        products.call(timed=turn > 0)
    peak = statistics.median(products.rates)
    print(f"on {jax.devices()[0].device_kind}; large matrix products: {peak / 1e9:,.0f} GFLOP/s")
    for name, row in rows.items():
        middle, spread = statistics.median(times[name]), (1 / max(times[name]), 1 / min(times[name]))
        share = f"{row.flops / middle / peak:4.0%} of their speed" if row.flops else ""
        print(f"{name:26} {1 / middle:8,.1f} updates/s ({spread[0]:,.1f} to {spread[1]:,.1f})  {share}")


if __name__ == "__main__":
    main()
