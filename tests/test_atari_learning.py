"""Learning on Atari: the loss on the recipes' networks, written out, and the step at which heads first move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sharedq.environments import Discrete, EnvironmentSpec, HostEnvironment, Outcome
from sharedq.networks import Dense
from sharedq.recipes import recipe
from sharedq.replay import uniform_replay
from sharedq.targets import SharedHeads
from sharedq.training.learning import step_like
from sharedq.transitions import Batch, Transition

ACTIONS, BATCH, HEADS = 4, 3, 9
KEY = jax.random.key(3)


def drawn_batch(shape) -> Batch:
    draw = np.random.default_rng(3)
    obs, next_obs = draw.integers(0, 256, (2, BATCH, *shape), np.uint8)
    action, reward = draw.integers(0, ACTIONS, BATCH, np.int32), draw.normal(size=BATCH)
    transition = Transition(obs, action, reward, np.array([0.99, 0.0, 0.99]), next_obs)
    return Batch(transition, np.ones(BATCH), np.zeros(BATCH, np.int32))


def normalised(x, layer):
    """LayerNorm over channels, one place of the image after the other."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def features(trunk, strides, images):
    """The network: /255, convolutions with these strides and a dense layer, LayerNorm and ReLU behind each."""
    x = images.astype(float) / 255
    for number, stride in enumerate(strides):
        layer = trunk[f"Convolution_{number}"]
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.maximum(normalised(x + layer["bias"], trunk[f"LayerNorm_{number}"]), 0)
    x = x.reshape(BATCH, -1) @ trunk["Dense_0"]["kernel"] + trunk["Dense_0"]["bias"]
    return jnp.maximum(normalised(x, trunk[f"LayerNorm_{len(strides)}"]), 0)


def pairs_written_out(params, held, batch: Batch, strides):
    """The paper's loss: each head learns from the one before it, K pairs one after another."""
    t, total = batch.transition, 0.0
    at_now, at_then = (features(params["trunk"], strides, obs) for obs in (t.obs, t.next_obs))
    before = {name: held[name][0] for name in held}
    for k in range(HEADS):
        head = {name: params["heads"][name][k] for name in held}
        q = (at_now @ head["kernel"] + head["bias"])[jnp.arange(BATCH), t.action]
        worth = (at_then @ before["kernel"] + before["bias"]).max(axis=1)
        target = jax.lax.stop_gradient(t.reward + t.discount * worth)
        total += jnp.mean((target - q) ** 2)
        before = head
    return total


PAPERS = ("atari-cnn-ln", (84, 84, 4), (4, 2, 1), {"network.filters": (4, 4, 4), "network.hidden": (16,)})
SMALL = ("atari-small", (16, 16, 2), (2,), {})


@pytest.mark.parametrize(("name", "shape", "strides", "smaller"), [PAPERS, SMALL])
def test_the_gradient_is_that_of_k_pairs_written_out(name, shape, strides, smaller, monkeypatch):
    """In two passes, and in one over both halves of the batch."""
    told = optax.GradientTransformation(lambda p: p, lambda slope, state, p: (jax.tree.map(jnp.zeros_like, p), slope))
    monkeypatch.setattr("sharedq.algorithms.dqn.adam", lambda *settings: told)  # keeps the gradient, moves nothing
    atari = recipe(name).replace(target="shared_heads", **{"target.heads": HEADS}, **smaller)
    network, batch = atari.network.build(ACTIONS), drawn_batch(shape)
    two, joint = (
        atari.algorithm.on(atari.target.build(network._replace(normalises_batch=together)))
        for together in (False, True)
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(float), jax.jit(two.init)(KEY, batch))
        written_out = jax.jit(jax.value_and_grad(pairs_written_out), static_argnums=3)
        loss, slope = written_out(wide.params, wide.source["target_params"], batch, strides)
        assert loss.dtype == jnp.float64
        for learner in (two, joint):
            after, _, metrics = jax.jit(learner.update)(wide, batch, KEY, jnp.int32(1))
            np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-10)
            for one, other in zip(jax.tree.leaves(after.optimiser), jax.tree.leaves(slope), strict=True):
                assert other.any()
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * np.abs(other).max())


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"target": "online_network"}, 265_658),
        ({"target": "target_network"}, 531_316),
        ({"target": "shared_heads"}, 268_228),
    ],
)
def test_the_small_agent_holds_as_many_parameters_as_that_of_its_authors(options, parameters):
    small = recipe("atari-small").replace(**options)
    learner = small.algorithm.on(small.target.build(small.network.build(10)))
    state = jax.eval_shape(learner.init, KEY, drawn_batch((16, 16, 2)))
    assert sum(leaf.size for leaf in jax.tree.leaves((state.params, state.source))) == parameters


class Still:
    """A world of black frames in which nothing happens."""

    def reset(self):
        return np.zeros((1, 2, 2, 4), np.uint8)

    def step(self, actions):
        none = np.zeros(1, bool)
        return Outcome(self.reset(), np.ones(1, np.float32), none, none, self.reset())

    def close(self): ...


STILL = EnvironmentSpec("still", jax.ShapeDtypeStruct((2, 2, 4), np.uint8), Discrete(2))


def test_with_the_papers_numbers_the_heads_first_move_at_step_24_000():
    atari = recipe("atari-cnn-ln").replace(target="shared_heads", **{"replay.capacity": 100})
    world = HostEnvironment(STILL, lambda *_: Still())
    assert atari.target == SharedHeads(heads=1, period=2000) and atari.training.warm_up == 20_000
    algorithm = atari.algorithm.on(atari.target.build(Dense((2,)).build(2)))
    replay = uniform_replay(atari.replay.build(step_like(world.spec), atari.algorithm.gamma, 1))
    program = atari.training.build(world, algorithm, replay, [0])
    assert program.log_steps[:8] == [2500 * n for n in range(1, 9)]  # the eighth ends the warm-up

    run, _ = program.advance(program.begin(), 20_000, 23_996)  # as if the warm-up had been
    held = program.to_host(run).agent.source["target_params"]["kernel"].copy()
    assert program.to_host(run).agent.optimiser[0].count.tolist() == [999]
    np.testing.assert_array_equal(held, program.to_host(program.begin()).agent.source["target_params"]["kernel"])
    after = program.to_host(program.advance(run, 23_996, 24_000)[0]).agent
    assert (after.source["target_params"]["kernel"] != held).any()
    np.testing.assert_array_equal(after.source["target_params"]["kernel"], after.params["heads"]["kernel"])
