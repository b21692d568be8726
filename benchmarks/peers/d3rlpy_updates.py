"""Seconds of gradient updates of d3rlpy on recorded data; `benchmarks/offline.py` starts it and asks.

It runs in an environment of the package's own, and so knows nothing of sharedq. Each line of its input is a number of
updates; each line of its output, the seconds that they took. As in the package's own `fit`, a batch is drawn for each.
Logging, progress bars and evaluation are left out.
"""

import os
import sys
import time

answers, sys.stdout = sys.stdout, sys.stderr  # the package prints

import d3rlpy  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

kind, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])


def agent():
    """Its networks are 256x256 or the Nature network without border unless told otherwise, as ours are here."""
    if kind == "iql":
        return d3rlpy.algos.IQLConfig(batch_size=batch).create(device="cpu")
    encoder = d3rlpy.models.PixelEncoderFactory() if kind == "cql-frames" else d3rlpy.models.VectorEncoderFactory()
    scaler = d3rlpy.preprocessing.PixelObservationScaler() if kind == "cql-frames" else None
    settings = d3rlpy.algos.DiscreteCQLConfig(batch_size=batch, encoder_factory=encoder, observation_scaler=scaler)
    return settings.create(device="cpu")


def data():
    with np.load(path) as arrays:
        given = {name: arrays[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    stacks = d3rlpy.dataset.FrameStackTransitionPicker(n_frames=4) if kind == "cql-frames" else None
    space = d3rlpy.constants.ActionSpace.CONTINUOUS if kind == "iql" else d3rlpy.constants.ActionSpace.DISCRETE
    return d3rlpy.dataset.MDPDataset(**given, transition_picker=stacks, action_space=space)


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    replay, model = data(), agent()
    model.build_with_dataset(replay)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            model.update(replay.sample_transition_batch(batch))
        print(time.perf_counter() - began, file=answers, flush=True)


if __name__ == "__main__":
    main()
