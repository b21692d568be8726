"""Every algorithm shows the loss that its update differentiates, and a greedy decision without chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.algorithms import CQL, CQLSAC, DQN, IQL, SAC, StreamQ
from sharedq.environments import CartPole, Continuous, EnvironmentSpec
from sharedq.networks import Dense
from sharedq.targets import OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.training.learning import example_batch
from sharedq.transitions import Step

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(3)
DISCRETE = CartPole().build().spec
CONTINUOUS = EnvironmentSpec(
    "a plane", jax.ShapeDtypeStruct((3,), jnp.float32), Continuous(-np.ones(2, np.float32), np.ones(2, np.float32))
)
TARGETS = [OnlineNetwork(), TargetNetwork(period=5), SharedHeads(heads=3, period=5)]
ALGORITHMS = {
    "DQN": (DQN(learning_rate=0.01), DISCRETE),
    "DQN, double, huber": (DQN(backup="double", loss="huber"), DISCRETE),
    "SAC": (SAC(actor_width=8), CONTINUOUS),
    "SAC, categorical": (
        SAC(actor_width=8, values="categorical", atoms=7, scale_rewards=True, normalise_observations=True),
        CONTINUOUS,
    ),
    "CQL": (CQL(learning_rate=0.01), DISCRETE),
    "CQL on SAC": (CQLSAC(actor_width=8, samples=3), CONTINUOUS),
    "IQL": (IQL(), DISCRETE),
    "IQL, reweighted": (IQL(policy="reweighted"), DISCRETE),
    "IQL, continuous": (IQL(actor_width=8), CONTINUOUS),
    "Stream Q": (StreamQ(normalise="none", scale_rewards=False), DISCRETE),
}
targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.label)
algorithms = pytest.mark.parametrize("name", ALGORITHMS)


def ready(name, target):
    """An algorithm, its state before the first step, and a batch of random transitions."""
    settings, spec = ALGORITHMS[name]
    algorithm, batch = settings.build(spec, target, Dense((8,))), example_batch(spec, 6)
    keys = iter(jax.random.split(KEY, 8))

    def drawn(x):
        if x.dtype == jnp.int32:
            return jax.random.randint(next(keys), x.shape, 0, 2)
        return jax.random.uniform(next(keys), x.shape, minval=-1.0)

    transition = jax.tree.map(drawn, batch.transition)._replace(discount=jnp.full(6, 0.9))
    return algorithm, algorithm.init(KEY, batch), batch._replace(transition=transition)


@targets
@algorithms
def test_the_loss_says_what_each_head_was_regressed_on(name, target):
    algorithm, state, batch = ready(name, target)
    total, info = algorithm.loss(state.params, state, batch, KEY)
    heads = getattr(target, "heads", 1)
    assert info.per_head.shape == (heads,) and info.targets.shape == (heads, 6)
    assert info.errors.shape[:2] == info.predictions.shape[:2] == (heads, 6)
    np.testing.assert_allclose(total, info.per_head.sum(), rtol=1e-6)
    targets = info.targets.reshape(*info.targets.shape, *(1,) * (info.predictions.ndim - 2))
    np.testing.assert_allclose(info.errors, jnp.abs(info.predictions - targets), rtol=1e-5, atol=1e-6)
    predicted = info.predictions.reshape(heads, 6, -1)  # [H, B, C]
    expected = [predicted[h, :, c] - info.targets[h] for h in range(heads) for c in range(predicted.shape[2])]
    if "categorical" in name:  # the cross entropies stand for errors, and they are those that the loss is made of
        assert info.td_errors.shape == (len(expected), 6)
        of_heads = info.td_errors.reshape(heads, -1, 6).sum(axis=1)
        np.testing.assert_allclose((batch.weights * of_heads).mean(axis=1), info.per_head, rtol=1e-5)
    else:
        np.testing.assert_allclose(info.td_errors, np.stack(expected), rtol=1e-6)


@targets
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name.startswith("DQN") or name == "CQL"])
def test_the_update_of_dqn_reports_the_loss_of_the_batch(name, target):
    algorithm, state, batch = ready(name, target)
    _, errors, metrics = algorithm.update(state, batch, KEY, jnp.int32(1))
    total, info = algorithm.loss(state.params, state, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    np.testing.assert_allclose(errors, info.predictions - info.targets, rtol=1e-6)


@targets
def test_a_step_of_a_stream_without_traces_and_bound_goes_down_the_loss(target):
    settings = StreamQ(trace_decay=0.0, kappa=0.0, learning_rate=0.1, normalise="none", scale_rewards=False)
    algorithm = settings.build(DISCRETE, target, Dense((8,)))
    _, state, batch = ready("Stream Q", target)
    state = algorithm.init(KEY, batch)
    one = jax.tree.map(lambda x: x[:1], batch)
    sample, flag = one.transition, jnp.zeros(1, bool)
    one = one._replace(transition=sample._replace(discount=jnp.full(1, settings.gamma)))
    slope = jax.grad(lambda params: algorithm.loss(params, state, one, KEY)[0])(state.params)
    step = Step(sample.obs, sample.action, sample.reward, flag, flag, sample.next_obs)
    after, _ = algorithm.observe(state, KEY, step, sample.next_obs, jnp.int32(1))
    expected = jax.tree.map(lambda w, s: w - 0.1 * s, state.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, expected)


@targets
@algorithms
def test_the_decision_is_greedy_and_draws_nothing(name, target):
    algorithm, state, batch = ready(name, target)
    obs = batch.transition.obs
    action, values = algorithm.decide(state, obs)
    again, _ = jax.jit(algorithm.decide)(state, obs)
    np.testing.assert_allclose(action, again, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values, algorithm.values(state, None, obs), rtol=1e-5, atol=1e-6)
    if action.dtype == jnp.int32 and "actor" not in state.params:
        np.testing.assert_array_equal(action, values.argmax(axis=-1))
    elif not ("reweighted" in name and isinstance(target, SharedHeads)):  # whose acting head is drawn
        np.testing.assert_allclose(action, algorithm.act(state, KEY, obs, None), rtol=1e-5, atol=1e-6)


@targets
@algorithms
def test_a_refresh_by_itself_is_the_end_of_an_update(name, target):
    """At a step of a period heads and copies move, and no optimiser's moments with them."""
    algorithm, state, batch = ready(name, target)
    info = algorithm.loss(state.params, state, batch, KEY)[1].for_refresh
    after = algorithm.refresh(state, info, jnp.int32(5))
    for slot in {"optimiser", "optimisers", "traces"} & set(state._fields):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, slot), getattr(state, slot))
    if isinstance(target, TargetNetwork):
        learned = state.params.get("critic", state.params)
        jax.tree.map(np.testing.assert_array_equal, after.source["target_params"], learned)
