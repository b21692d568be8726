"""What a pruned agent saves on a CPU: bytes of its checkpoint and of its exported file, and time of an action.

    python -m benchmarks.sparse

The weights of layers are random, and the smallest share of each layer is pruned. onnxruntime makes every weight dense
again, so its time says what exporting a pruned agent brings today. The last columns are the largest layer alone, as a
dense product of NumPy and as a sparse one of SciPy: what a runtime with sparse products could save. One thread.
"""

import argparse
import operator
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before NumPy is imported
    os.environ[name] = "1"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from scipy.sparse import csr_matrix  # noqa: E402

from sharedq import random_keys, recipe, runtime  # noqa: E402
from sharedq.agent import Agent, Compiled  # noqa: E402
from sharedq.environments.spec import to_json  # noqa: E402
from sharedq.exporting import agent_file  # noqa: E402
from sharedq.exporting.decision import decision_of  # noqa: E402
from sharedq.exporting.export import model_of_agent  # noqa: E402
from sharedq.runs import tensor_file  # noqa: E402
from sharedq.targets.pruning import all_kept, kernels, masks_of, pruned, ranks  # noqa: E402
from sharedq.training.learning import example_batch  # noqa: E402

RECIPES = {"minatar-breakout": {}, "atari-cnn": {"environment.game": "breakout"}}


def timed(call: Callable[[], object], repeats: int) -> float:
    """Microseconds of a call: the median."""
    times = []
    for _ in range(repeats + 5):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.0, 0.5, 0.8, 0.9, 0.95, 0.99])
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    for name, options in RECIPES.items():
        built = recipe(name).replace(**options).build()
        state = built.algorithm.init(random_keys.root(0), example_batch(built.spec, 2))
        print(f"{name}, {sum(w.size for w in jax.tree.leaves(state.params)):,} parameters")
        print("sparsity  weights  file     act b1    b32       layer b1 dense/sparse  b32 dense/sparse")
        for sparsity in arguments.sparsity:
            masks = masks_of(ranks(state.params, all_kept(state.params)), sparsity, "uniform")
            params = pruned(state.params, masks)
            agent = Agent(Compiled(built), state._replace(params=params), 0, 0)
            with tempfile.TemporaryDirectory() as folder:
                weights = tensor_file.write(Path(folder, "weights"), params, packs=True)["bytes"]
                description = {"spec": to_json(built.spec), "label": "pruned", "seed": 0}
                content = agent_file.content_of(model_of_agent(agent, decision_of(agent)), description)
                file = Path(folder, "agent.onnx")
                file.write_bytes(content)
                exported = runtime.load(file)
            layer = max((np.asarray(w) for w in kernels(params) if w.ndim == 2), key=lambda w: w.size)
            sparse = csr_matrix(layer.T)
            cells = []
            for batch in (1, 32):
                obs = np.zeros((batch, *built.spec.observation.shape), built.spec.observation.dtype)
                inputs = np.random.default_rng(0).normal(size=(batch, len(layer))).astype(np.float32)
                across = np.ascontiguousarray(inputs.T)
                cells.append(timed(partial(exported.outputs, obs), arguments.repeats))
                dense = timed(partial(np.matmul, inputs, layer), arguments.repeats)
                cells.append((dense, timed(partial(operator.matmul, sparse, across), arguments.repeats)))
            act, layers = cells[::2], cells[1::2]
            print(
                f"{sparsity:8.0%}  {weights / 1e6:6.2f}  {len(content) / 1e6:6.2f} MB  "
                + "  ".join(f"{one:7.0f} us" for one in act)
                + "  "
                + "  ".join(f"{dense:7.0f} / {found:.0f} us" for dense, found in layers)
            )


if __name__ == "__main__":
    main()
