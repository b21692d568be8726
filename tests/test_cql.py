"""Conservative Q-learning: its fixed point, its gradient, and the same identities between sources as for DQN."""

import dataclasses

import jax
import jax.numpy as jnp
import logged
import numpy as np
import optax
import pytest
import scipy

from sharedq.algorithms import CQL, CQLSAC, DQN, SAC
from sharedq.environments import Continuous, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Dense, Table
from sharedq.targets import IteratedNetworks, LookaheadReplicate, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.transitions import Batch, Transition

KEY, ALPHA = jax.random.key(8), 0.5
ALGORITHM = CQL(gamma=logged.GAMMA, learning_rate=2.0, alpha=ALPHA)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def descent(monkeypatch):
    """Gradient descent in Adam's place, so that a fixed point is reached and a step is a gradient."""
    monkeypatch.setattr("sharedq.algorithms.dqn.adam", lambda rate, *_: optax.sgd(rate))


def fixed_point() -> np.ndarray:
    """Where the slope of the loss is zero: n_sa 2 (Q - mean target) + alpha n_s (softmax(Q) - the data's share)."""

    def slope(q):
        q = q.reshape(logged.STATES, logged.ACTIONS)
        target = logged.mean_of_rows(logged.REWARD + logged.DISCOUNT * q.max(axis=1)[logged.NEXT])
        pull = scipy.special.softmax(q, axis=1) - logged.FREQUENCIES
        return (2 * logged.FREQUENCIES * (q - target) + ALPHA * pull).ravel()

    found = scipy.optimize.root(slope, np.zeros(logged.STATES * logged.ACTIONS), tol=1e-12)
    assert found.success
    return found.x.reshape(logged.STATES, logged.ACTIONS)


@pytest.mark.usefixtures("descent")
@pytest.mark.parametrize(
    "target",
    [
        OnlineNetwork(),
        TargetNetwork(period=5),
        SharedHeads(heads=1, period=5),
        SharedHeads(heads=3, period=5),
        IteratedNetworks(networks=2, period=5, copy_period=2),
        LookaheadReplicate(period=5, replicate_steps=5, learning_rate=0.05, adam_epsilon=1e-8),
    ],
    ids=lambda target: target.label,
)
def test_every_head_of_every_source_ends_at_the_fixed_point_of_the_data(target):
    state, _ = logged.learned(ALGORITHM.build(logged.SPEC, target, Table()), 3_000, logged.batch())
    tables = state.params["heads"]["kernel"].reshape(-1, logged.STATES, logged.ACTIONS)
    tolerance = 5e-2 if isinstance(target, LookaheadReplicate) else 1e-6  # whose copy is fitted by Adam
    for table in tables:
        np.testing.assert_allclose(table, fixed_point(), atol=tolerance)


@pytest.mark.usefixtures("descent")
def test_one_gradient_is_that_of_the_loss_written_out():
    """Two learning heads on a trunk of four units, each with its penalty; the second has the weight 0.5."""
    target, batch = SharedHeads(heads=2, period=100, loss_discount=0.5), logged.batch()
    algorithm = dataclasses.replace(ALGORITHM, learning_rate=1.0).build(logged.SPEC, target, Dense((4,)))
    start = logged.widened(jax.jit(algorithm.init)(KEY, batch))
    head_0 = start.source["target_params"]
    rows, sample = jnp.arange(logged.ROWS), batch.transition

    def loss(params):
        dense = params["trunk"]["Dense_0"]

        def q(heads, k, obs):
            features = jnp.maximum(obs @ dense["kernel"] + dense["bias"], 0)
            return features @ heads["kernel"][k] + heads["bias"][k]

        total = 0.0
        for k, (heads, below) in enumerate([(head_0, 0), (params["heads"], 0)]):
            target = sample.reward + sample.discount * q(heads, below, sample.next_obs).max(axis=1)
            now = q(params["heads"], k, sample.obs)
            taken = now[rows, sample.action]
            gap = jnp.log(jnp.exp(now).sum(axis=1)) - taken
            total += 0.5**k * jnp.mean((taken - jax.lax.stop_gradient(target)) ** 2 + ALPHA * gap)
        return total

    after, _, metrics = jax.jit(algorithm.update)(start, batch, KEY, jnp.int32(1))
    assert after.params["trunk"]["Dense_0"]["kernel"].dtype == jnp.float64
    total, slope = jax.jit(jax.value_and_grad(loss))(start.params)
    logged.close((jax.tree.map(np.subtract, start.params, after.params), metrics["loss"]), (slope, total))


DENSE, FAST = Dense((6,)), CQL(learning_rate=0.01)


def trained(target, network=DENSE, settings=FAST):
    return logged.learned(settings.build(logged.SPEC, target, network), 60, logged.batch())


def test_the_sources_that_are_the_same_source_for_dqn_are_so_here():
    (classic, losses), (free, of_free) = trained(TargetNetwork(period=1)), trained(OnlineNetwork())
    logged.close((classic.params, losses), (free.params, of_free))
    (chain, of_chain), (classic, losses) = trained(IteratedNetworks(1, period=20)), trained(TargetNetwork(20))
    logged.close((jax.tree.map(lambda w: w[0], chain.params), of_chain), (classic.params, losses))
    heads, of_heads = trained(SharedHeads(1, period=20, initial_heads="copies"), Table())
    classic, losses = trained(TargetNetwork(20), Table())
    logged.close((heads.params, of_heads), (classic.params, losses))


def test_without_a_weight_the_penalty_changes_nothing():
    (dqn, losses), (cql, of_cql) = (
        trained(TargetNetwork(20), settings=one) for one in (DQN(learning_rate=0.01), CQL(learning_rate=0.01, alpha=0))
    )
    logged.close((dqn.params, losses), (cql.params, of_cql))


def test_the_algorithm_keeps_its_penalty_on_another_source():
    def metrics(algorithm):
        state, batch = algorithm.init(KEY, logged.batch()), logged.batch()
        return jax.eval_shape(algorithm.update, state, batch, KEY, jnp.int32(1))[2]

    algorithms = [settings.build(logged.SPEC, TargetNetwork(), Table()) for settings in (CQL(), DQN())]
    for algorithm, penalises in zip(algorithms, (True, False)):
        other = algorithm.on(OnlineNetwork().build(Table().build(logged.ACTIONS)))
        assert ("penalty" in metrics(algorithm)) == ("penalty" in metrics(other)) == penalises


# Continuous actions


LINE = EnvironmentSpec("a line", jax.ShapeDtypeStruct((2,), jnp.float32), Continuous(-np.ones(1, "f"), np.ones(1, "f")))
SIZE = 3


def batch_on_a_line() -> Batch:
    keys = jax.random.split(KEY, 4)
    obs, next_obs = (jax.random.normal(key, (SIZE, 2)) for key in keys[:2])
    action, reward = jax.random.uniform(keys[2], (SIZE, 1), minval=-1.0), jax.random.normal(keys[3], (SIZE,))
    return Batch(Transition(obs, action, reward, jnp.full(SIZE, 0.9), next_obs), jnp.ones(SIZE), jnp.zeros(SIZE, int))


@pytest.mark.parametrize("values", ["scalar", "categorical"])
def test_the_penalty_is_the_integral_over_actions_minus_the_value_of_the_datas_action(values):
    """With a table, Q is linear in the action: Q = c + w a, and the integral of exp(Q) is e^c 2 sinh(w) / w."""
    batch = batch_on_a_line()
    settings = CQLSAC(alpha=2.0, samples=1_000, actor_depth=0, values=values, atoms=2, value_bound=50.0)
    target = SharedHeads(heads=2, period=100, loss_discount=0.25)
    algorithm = settings.build(LINE, target, Table())
    state = logged.widened(jax.jit(algorithm.init)(KEY, batch))
    table = 0.3 * jax.random.normal(KEY, state.params["critic"]["heads"]["kernel"].shape) - 1
    if values == "categorical":  # logits of -50 and 50: small ones make a value that is nearly linear in them
        table = table.at[..., 0].set(0) / 25
    critic = {**state.params["critic"], "heads": {"kernel": table}}
    actor = jax.tree.map(jnp.zeros_like, state.params["actor"])
    actor["log_std"]["bias"] += np.log(2)  # a narrower policy is rarely near the bounds, and the estimate varies
    state = state._replace(params={**state.params, "actor": actor})
    plain = SAC(**{f.name: getattr(settings, f.name) for f in dataclasses.fields(SAC)}).build(LINE, target, Table())

    def added(critic):
        params = {**state.params, "critic": critic}
        with_it, without = (one.loss(params, state, batch, KEY)[0] for one in (algorithm, plain))
        return with_it - without

    def expected(critic):
        weights = critic["heads"]["kernel"]  # [H, C, 3, outputs]
        weights = weights[..., 0] if values == "scalar" else 25 * (weights[..., 1] - weights[..., 0])
        slope = weights[:, None, :, 2]
        gap = jnp.log(2 * jnp.sinh(slope) / slope) - slope * batch.transition.action
        return 2.0 * jnp.array([1, 0.25]) @ gap.sum(axis=2).mean(axis=1)

    tolerance = 0.03
    found, wanted = (jax.jit(jax.value_and_grad(one))(critic) for one in (added, expected))
    np.testing.assert_allclose(found[0], wanted[0], rtol=tolerance)
    sizes = jnp.abs(wanted[1]["heads"]["kernel"]).max()
    np.testing.assert_allclose(found[1]["heads"]["kernel"], wanted[1]["heads"]["kernel"], atol=tolerance * sizes)


def test_without_a_weight_the_continuous_penalty_changes_nothing():
    batch, common = batch_on_a_line(), {"actor_depth": 0, "random_steps": 0}
    states = []
    for settings in (SAC(**common), CQLSAC(alpha=0, samples=2, **common)):
        states.append(logged.learned(settings.build(LINE, TargetNetwork(period=3), Dense((4,))), 10, batch))
    logged.close(*states)


def test_the_policy_draws_in_the_penalty_have_no_gradient_and_the_rest_is_finite():
    batch = batch_on_a_line()
    algorithm = CQLSAC(actor_width=4).build(LINE, OnlineNetwork(), Dense((4,)))
    state = logged.widened(jax.jit(algorithm.init)(KEY, batch))
    slope = jax.jit(jax.grad(lambda params: algorithm.loss(params, state, batch, KEY)[0]))(state.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves((slope["actor"], slope["temperature"])))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_mistakes_are_told():
    with pytest.raises(SharedqError, match="alpha cannot be negative, and is -1"):
        CQL(alpha=-1)
    with pytest.raises(SharedqError, match="alpha cannot be negative"):
        CQLSAC(alpha=-1)
    with pytest.raises(SharedqError, match=r"algorithm\.samples"):
        CQLSAC(samples=0)
    with pytest.raises(SharedqError, match=r"algorithm\.gamma"):
        CQL(gamma=2)
    with pytest.raises(SharedqError, match=r"CQL needs discrete actions.*cql_sac"):
        CQL().build(LINE, OnlineNetwork(), Table())
    with pytest.raises(SharedqError, match=r"CQLSAC needs continuous actions.*cql"):
        CQLSAC().build(logged.SPEC, OnlineNetwork(), Table())
