"""Seeds side by side, as on a GPU, learn what they learn one after another, as on a CPU: the same but for rounding."""

import jax
import numpy as np
import pytest

from sharedq.recipes import recipe
from sharedq.training import seeds

LEARNERS = {
    "shared heads": ("corridor", {"target": "shared_heads", "target.heads": 2, "target.period": 30}),
    "corrected gradients": (
        "corridor",
        {"target": "shared_heads", "target.heads": 2, "target.period": 30, "algorithm.gradient_correction": True},
    ),
    "target network on the host": (
        "cartpole",
        {"environment": "gymnasium", "environment.id": "CartPole-v1", "training": "interactive", "seeds": 2},
    ),
    "stream": ("stream-control", {"network.hidden": (8,)}),
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_layout_of_seeds_changes_nothing(learner, monkeypatch):
    name, options = LEARNERS[learner]
    short = {"steps": 400, "training.log_period": 400, "seeds": 3}
    if name != "stream-control":
        short |= {"training.warm_up": 100, "replay.batch_size": 8, "replay.capacity": 1000}
    experiment = recipe(name).replace(**short | options)

    def learned():
        program = experiment.build().program()
        program.prepare()
        run = program.begin()
        for start, stop in zip([0, *program.log_steps], program.log_steps, strict=False):
            run, told = program.advance(run, start, stop)
        params = program.to_host(run).agent.params
        program.close()
        return program.layout.batched, params, [tuple(one) for one in told.episodes]

    apart, params, episodes = learned()
    monkeypatch.setattr(seeds, "side_by_side", lambda: True)
    batched, other, as_played = learned()
    assert (apart, batched) == (False, True)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), params, other)
    jax.tree.map(np.testing.assert_array_equal, episodes, as_played)
    assert any(np.ptp(x, axis=0).max() > 0 for x in jax.tree.leaves(params))  # seeds differ
