"""Milliseconds of one call of an exported agent with the Atari network: float32 and INT8, beside `Agent.act` in JAX.

    python -m benchmarks.export

The weights and observations are random, which changes no time. All have one thread, and they take turns.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import numpy as np

from sharedq import random_keys, runtime
from sharedq.agent import Agent, Compiled
from sharedq.environments import Discrete, EnvironmentSpec
from sharedq.environments.spec import to_json
from sharedq.exporting import agent_file, int8, playing
from sharedq.exporting.decision import decision_of
from sharedq.exporting.export import model_of_agent
from sharedq.recipes import recipe
from sharedq.targets import SharedHeads
from sharedq.training.learning import example_batch

SPEC = EnvironmentSpec("atari", jax.ShapeDtypeStruct((84, 84, 4), np.uint8), Discrete(4), "black")


def agent_with(name: str, heads: int) -> Agent:
    """An agent of the recipe, with random weights."""
    built = dataclasses.replace(recipe(name), target=SharedHeads(heads=heads)).build(SPEC)
    state = jax.jit(lambda key: built.algorithm.init(key, example_batch(SPEC, 32)))(random_keys.root(0))
    return Agent(Compiled(built), state, 0, 0)


def files_of(agent: Agent, folder: Path) -> dict[str, Path]:
    """The float32 and the INT8 file."""
    model = model_of_agent(agent, decision_of(agent))
    frames = playing.drawn(agent, np.random.default_rng(0), 128)
    found = {}
    for name, one in (("float32", model), ("INT8", int8.quantised(model, frames))):
        found[name] = folder / f"{name}.onnx"
        description = {"spec": to_json(SPEC), "label": agent.experiment.label, "seed": 0}
        found[name].write_bytes(agent_file.content_of(one, description))
    return found


def milliseconds(act: Callable, batch: np.ndarray) -> float:
    began = time.perf_counter()
    act(batch)
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="atari-cnn-ln", help="a recipe on Atari (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=9, help="heads that learn (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=50, help="calls of each, whose median counts")
    arguments = parser.parse_args()
    agent = agent_with(arguments.recipe, arguments.heads)
    obs = playing.drawn(agent, np.random.default_rng(1), 32)
    with tempfile.TemporaryDirectory() as folder:
        files = files_of(agent, Path(folder))
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
        acts = {name: runtime.load(path).act for name, path in files.items()}
    acts["Agent.act"] = agent.act
    print(f"{arguments.recipe}, {arguments.heads} heads: median (and 99 of 100) of {arguments.calls} calls, one thread")
    for size_of, batch in ((1, obs[0]), (len(obs), obs)):
        times: dict[str, list[float]] = {name: [] for name in acts}
        for act in acts.values():
            act(batch)  # it compiles
        for _ in range(arguments.calls):
            for name, act in acts.items():
                times[name].append(milliseconds(act, batch))
        for name, found in times.items():
            size = f"{sizes[name]:5.1f} MB" if name in sizes else ""
            late = statistics.quantiles(found, n=100)[-1]
            print(f"batch {size_of:3}  {name:10} {statistics.median(found):8.2f} ms ({late:8.2f})  {size}")


if __name__ == "__main__":
    main()
