"""Behaviour cloning: its fixed point is what the data did."""

import jax
import jax.numpy as jnp
import logged
import numpy as np
import optax
import pytest

from sharedq.algorithms import BC
from sharedq.environments import Continuous, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Convolutional, Dense, Table
from sharedq.targets import OnlineNetwork, SharedHeads
from sharedq.transitions import Batch, Transition

KEY = jax.random.key(6)
PLANE = EnvironmentSpec(
    "a plane", jax.ShapeDtypeStruct((1,), jnp.float32), Continuous(-np.ones(2, "f"), np.ones(2, "f"))
)


@pytest.fixture(autouse=True)
def descent(monkeypatch):
    """Float64, and gradient descent in Adam's place, so that a fixed point is reached."""
    monkeypatch.setattr("sharedq.algorithms.bc.adam", lambda rate, *_: optax.sgd(rate))
    with jax.enable_x64(True):
        yield


def test_the_clone_of_discrete_actions_ends_at_their_frequencies():
    algorithm = BC(learning_rate=5.0).build(logged.SPEC, OnlineNetwork(), Table())
    state, losses = logged.learned(algorithm, 2_000, logged.batch())
    obs = jnp.eye(logged.STATES)
    action, values = algorithm.decide(state, obs)
    np.testing.assert_allclose(np.exp(values), logged.FREQUENCIES, atol=1e-6)
    np.testing.assert_array_equal(action, values.argmax(axis=1))
    np.testing.assert_array_equal(action, algorithm.act(state, KEY, obs, None))
    np.testing.assert_array_equal(values, algorithm.values(state, KEY, obs))
    shares = logged.FREQUENCIES[logged.STATE, logged.ACTION]
    np.testing.assert_allclose(losses[-1], -np.log(shares).mean(), atol=1e-9)
    _, errors, metrics = jax.jit(algorithm.update)(state, logged.batch(), KEY, jnp.int32(1))
    np.testing.assert_allclose(errors, -np.log(shares)[None], atol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(np.asarray(action)[logged.STATE] == logged.ACTION))


def test_the_weight_of_a_row_counts_as_so_many_rows():
    twice = logged.batch()._replace(weights=jnp.where(jnp.arange(logged.ROWS) == 2, 3.0, 1.0))
    algorithm = BC(learning_rate=5.0).build(logged.SPEC, OnlineNetwork(), Table())
    state, _ = logged.learned(algorithm, 2_000, twice)
    _, values = algorithm.decide(state, jnp.eye(logged.STATES)[:1])
    np.testing.assert_allclose(np.exp(values[0]), np.array([2, 3, 1]) / 6, atol=1e-6)  # of state 0


def test_the_clone_of_vectors_ends_at_their_mean_and_deviation():
    action = jnp.array([[0.1, -0.5], [0.3, -0.1], [0.5, 0.0], [0.5, -0.2]])
    ones = jnp.ones((4, 1))
    batch = Batch(Transition(ones, action, jnp.zeros(4), jnp.zeros(4), ones), jnp.ones(4), jnp.zeros(4, jnp.int32))
    algorithm = BC(learning_rate=0.02, actor_depth=0).build(PLANE, OnlineNetwork(), Dense())
    state, _ = logged.learned(algorithm, 4_000, batch)
    sure, density = algorithm.decide(state, ones[:1])
    np.testing.assert_allclose(sure[0], action.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.exp(state.params["log_std"]["value"]), action.std(axis=0), atol=1e-6)
    np.testing.assert_allclose(density, -0.5 * np.log(2 * np.pi) * 2 - np.log(action.std(axis=0)).sum(), atol=1e-5)
    _, _, metrics = jax.jit(algorithm.update)(state, batch, KEY, jnp.int32(1))
    np.testing.assert_allclose(metrics["action_error"], jnp.abs(action - action.mean(axis=0)).mean(), atol=1e-6)
    drawn = algorithm.act(state, KEY, jnp.ones((20_000, 1)), jnp.int32(0))
    np.testing.assert_allclose(drawn.std(axis=0), action.std(axis=0), rtol=0.03)


def test_the_source_of_targets_is_ignored():
    states = []
    for target in (OnlineNetwork(), SharedHeads(heads=5)):
        algorithm = BC().build(logged.SPEC, target, Dense((4,)))
        assert algorithm.source is None and algorithm.loss is None and algorithm.learns_from == "replay"
        states.append(logged.learned(algorithm, 3, logged.batch()))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_network_that_normalises_its_batch_keeps_its_statistics():
    algorithm = BC().build(logged.SPEC, OnlineNetwork(), Dense((4,), norm="batch"))
    start = logged.widened(jax.jit(algorithm.init)(KEY, logged.batch()))
    after, _, _ = jax.jit(algorithm.update)(start, logged.batch(), KEY, jnp.int32(1))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start.actor_batch_stats, after.actor_batch_stats)
    assert any(jax.tree.leaves(moved))


def test_mistakes_are_told():
    for name in ("learning_rate", "adam_epsilon", "actor_width"):
        with pytest.raises(SharedqError, match=rf"algorithm\.{name}"):
            BC(**{name: 0})
    with pytest.raises(SharedqError, match="network 'convolutional' fails on the observations of 'logged'"):
        BC().build(logged.SPEC, OnlineNetwork(), Convolutional())
