"""Short runs of every kind and source, and one line for each that names what it computed.

A change that must leave learning as it was prints the same lines before and after, on the same machine:

    python tests/digests.py > before;  ... ;  python tests/digests.py | diff before -

The line does not depend on the names of arrays, only on their contents, so renaming a part of the state keeps it.
"""

import argparse
import csv
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SOURCES = {
    "online_network": {},
    "target_network": {"period": 20},
    "shared_heads": {"heads": 3, "period": 20},
    "iterated_networks": {"networks": 2, "period": 20, "copy_period": 5},
    "lookahead_replicate": {"period": 20, "replicate_steps": 3},
}
OTHERS = {  # these are trained on one recipe alone
    "minto": {"period": 20},
    "averaged": {"snapshots": 3, "period": 20},
    "maxmin": {"networks": 3, "period": 20},
    "redq": {"networks": 3, "period": 1},
    "functional_regularisation": {"period": 20},
}
WITH_LAYERS = {  # these too, because a table has no weights to prune
    "adaptive": {"networks": 3, "period": 20},
    "eau_de": {"networks": 3, "period": 20, "max_speed": 0.1, "horizon": 1_000},
    "poly_prune": {"begin": 20, "end": 200, "prune_period": 20},
}
QUICK = {"steps": 600, "training.warm_up": 200, "training.log_period": 200}
SMALL_SAC = {
    "steps": 150,
    "training.warm_up": 100,
    "training.log_period": 50,
    "algorithm.random_steps": 50,
    "replay.batch_size": 16,
}
TINY_LAYERS = {"network.hidden": (16,), "algorithm.actor_width": 16}

ROLLOUTS = {
    "steps": 1_536,
    "training.environments": 8,
    "training.update_period": 128,
    "training.gradient_steps": 8,
    "training.log_period": 512,
    "training.checkpoint_period": 512,
    "replay.batch_size": 32,
}
STREAM = {"steps": 500, "training.log_period": 250}

# A name, a recipe, the sources that it is trained on, and the options that differ from the recipe's.
RUNS = [
    ("corridor", "corridor", list(SOURCES), {"steps": 2_000, "seeds": 2}),
    ("minatar", "minatar-breakout", list(SOURCES), {**QUICK, "seeds": 2}),
    ("minatar-double", "minatar-breakout", ["shared_heads"], {**QUICK, "algorithm.backup": "double"}),
    ("minatar-n-step", "minatar-breakout", ["target_network"], {**QUICK, "replay.n_step": 3, "network.norm": "layer"}),
    ("host", "lunar-lander", ["target_network", "shared_heads"], {**QUICK, "training.update_period": 4}),
    ("atari", "atari-cnn-ln", ["shared_heads"], {"steps": 120, "training.warm_up": 60, "replay.capacity": 200}),
    ("stream", "stream-minatar", list(SOURCES), STREAM),
    ("sac", "sac-pendulum", list(SOURCES), {**SMALL_SAC, **TINY_LAYERS}),
    ("sac-batch-norm", "sac-pendulum", ["online_network", "target_network"], {
        **SMALL_SAC, **TINY_LAYERS, "network.norm": "batch_renorm",
    }),
    ("sac-simba", "sac-simba-small", ["shared_heads"], {
        **SMALL_SAC, "network.width": 16, "algorithm.actor_width": 16, "algorithm.atoms": 11,
    }),
    ("corridor", "corridor", list(OTHERS), {"steps": 2_000, "seeds": 2}),
    ("corridor-dense", "corridor", list(WITH_LAYERS), {"steps": 2_000, "network": "dense", "network.hidden": (16,)}),
    ("corridor-categorical", "corridor", ["target_network"], {
        "steps": 2_000, "algorithm.values": "categorical", "algorithm.atoms": 11, "algorithm.value_bound": 2.0,
    }),
    ("corridor-quantile-munchausen", "corridor", ["target_network"], {
        "steps": 2_000, "algorithm.values": "quantile", "algorithm.atoms": 5, "algorithm.backup": "munchausen",
    }),
    ("corridor-correction", "corridor", ["shared_heads"], {"steps": 2_000, "algorithm.gradient_correction": True}),
    ("pqn", "pqn-minatar-breakout", ["online_network"], ROLLOUTS),
    ("stream-adaptive", "stream-minatar-adaptive", ["online_network"], STREAM),
    ("stream-intentional", "stream-minatar-intentional", ["online_network"], STREAM),
    ("stream-qrc", "stream-minatar-qrc", ["online_network"], STREAM),
]  # fmt: skip


def digests(wanted: str = "") -> Iterator[tuple[str, str]]:
    """The name of each run whose name begins with `wanted`, and the digest of what it left."""
    from sharedq.recipes import recipe
    from sharedq.trainer import train

    for name, base, sources, options in RUNS:
        for source in sources:
            if not f"{name}/{source}".startswith(wanted):
                continue
            experiment = recipe(base).replace(target=source, **options)
            of_source = (SOURCES | OTHERS | WITH_LAYERS)[source]
            experiment = experiment.replace(**{f"target.{key}": value for key, value in of_source.items()})
            with tempfile.TemporaryDirectory() as folder:
                run = train(experiment, Path(folder) / "run", progress=None)
                yield f"{name}/{source}", digest_of(run.path)


def digest_of(run: Path) -> str:
    """Of the agent's arrays in any order, of all episodes, and of the metrics that are not times."""
    hashed = hashlib.sha256()
    (agent,) = run.glob("checkpoints/*/agent.safetensors")
    for one in sorted(_arrays(agent.read_bytes())):
        hashed.update(one)
    hashed.update((run / "episodes.csv").read_bytes())
    rows = list(csv.reader((run / "metrics.csv").read_text().splitlines()))
    kept = [place for place, column in enumerate(rows[0]) if column not in ("steps_per_second", "seconds")]
    for row in rows[1:]:
        hashed.update(repr([row[place] for place in kept]).encode())
    return hashed.hexdigest()[:16]


def _arrays(content: bytes) -> Iterator[bytes]:
    from sharedq.runs.tensor_file import CODES, read_arrays

    for array in read_arrays(np.frombuffer(content, np.uint8)).values():
        form = repr((CODES[array.dtype], list(array.shape)))
        yield hashlib.sha256(form.encode() + array.tobytes()).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="?", default="", help="print only runs whose name begins so")
    for name, digest in digests(parser.parse_args().wanted):
        print(f"{digest}  {name}", flush=True)


if __name__ == "__main__":
    main()
