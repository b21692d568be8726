"""Implicit Q-learning: its fixed point, its gradients, and the same identities between sources as for DQN."""

import dataclasses

import jax
import jax.numpy as jnp
import logged
import numpy as np
import pytest
import scipy

from sharedq.algorithms import BC, CQL, IQL
from sharedq.algorithms.iql import actor_rate
from sharedq.analysis import GradientAlignment, Rank, TargetChurn
from sharedq.analysis.measure import UpdateInfo
from sharedq.bellman import losses
from sharedq.environments import Continuous, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Convolutional, Dense, Impala, SimbaV2, Table
from sharedq.recipes import recipe
from sharedq.targets import IteratedNetworks, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.training.learning import example_batch
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY, TAU, BETA = jax.random.key(4), 0.8, 1.5
ALGORITHM = IQL(logged.GAMMA, TAU, BETA, learning_rate=2.0, actor_decay_updates=None)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def descent(monkeypatch):
    """Gradient descent in Adam's place, so that a fixed point is reached and a step is a gradient."""
    monkeypatch.setattr("sharedq.algorithms.iql.adam_with_rate", logged.descent)


# The expectile


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.99])
def test_the_expectile_loss_is_least_at_scipys_expectile(tau):
    targets = np.random.default_rng(0).normal(size=7)
    wanted = scipy.stats.expectile(targets, tau)
    assert jax.grad(lambda v: losses.expectile(v - targets, tau).mean())(wanted) == pytest.approx(0, abs=1e-12)
    assert jax.grad(jax.grad(lambda v: losses.expectile(v - targets, tau).mean()))(wanted) > 0
    np.testing.assert_allclose(losses.expectile(jnp.array([-2.0, 3.0]), 0.9), [0.9 * 4, 0.1 * 9])


def fixed_point() -> tuple[np.ndarray, np.ndarray]:
    """V [S] and Q [S, A], by iteration: Q is the mean target of the rows, V the expectile of Q over the rows."""
    v = np.zeros(logged.STATES)
    for _ in range(200):
        q = logged.mean_of_rows(logged.REWARD + logged.DISCOUNT * v[logged.NEXT])
        v = np.array([scipy.stats.expectile(q[s], TAU, weights=logged.COUNTS[s]) for s in range(logged.STATES)])
    return v, q


@pytest.mark.usefixtures("descent")
@pytest.mark.parametrize("policy", ["learned", "reweighted"])
@pytest.mark.parametrize(
    "target",
    [
        OnlineNetwork(),
        TargetNetwork(period=5),
        SharedHeads(heads=3, period=5),
        IteratedNetworks(networks=2, period=5, copy_period=2),
    ],
    ids=lambda target: target.label,
)
def test_values_and_policy_of_every_source_end_at_the_direct_computation(target, policy):
    algorithm = dataclasses.replace(ALGORITHM, policy=policy).build(logged.SPEC, target, Table())
    state, _ = logged.learned(algorithm, 4_000, logged.batch())
    v, q = fixed_point()
    critics = state.params["critic"]["heads"]["kernel"].reshape(-1, logged.STATES, logged.ACTIONS)
    np.testing.assert_allclose(critics, np.broadcast_to(q, critics.shape), atol=1e-6)
    values = state.params["value"]["heads"]["kernel"][..., 0]
    np.testing.assert_allclose(values, np.broadcast_to(v, values.shape), atol=1e-6)

    obs = jnp.eye(logged.STATES)
    wanted = logged.FREQUENCIES * np.exp(BETA * (q - v[:, None]))
    wanted /= wanted.sum(axis=1, keepdims=True)
    drawn = jax.jit(lambda keys: jax.vmap(lambda key: algorithm.act(state, key, obs, jnp.int32(0)))(keys))
    actions = drawn(jax.random.split(KEY, 40_000))
    shares = (actions[..., None] == np.arange(logged.ACTIONS)).mean(axis=0)
    np.testing.assert_allclose(shares, wanted, atol=0.01)
    action, found = algorithm.decide(state, obs)
    np.testing.assert_array_equal(action, wanted.argmax(axis=1))
    np.testing.assert_array_equal(action, algorithm.act(state, KEY, obs, None))
    np.testing.assert_allclose(found, q, atol=1e-6)


# One update


LINE = EnvironmentSpec("a line", jax.ShapeDtypeStruct((2,), jnp.float32), Continuous(-np.ones(1, "f"), np.ones(1, "f")))


def batch_on_a_line(size=9) -> Batch:
    keys = jax.random.split(KEY, 4)
    obs, next_obs = (jax.random.normal(key, (size, 2), jnp.float32) for key in keys[:2])
    action = jax.random.uniform(keys[2], (size, 1), jnp.float32, -1.0)
    reward = jax.random.normal(keys[3], (size,), jnp.float32)
    rows = Transition(obs, action, reward, jnp.full(size, 0.9), next_obs)
    return logged.widened(Batch(rows, jnp.ones(size), jnp.zeros(size, int)))  # networks read inputs as float32


@pytest.mark.usefixtures("descent")
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_one_update_goes_down_the_losses_written_out(continuous):
    """Two learning heads on each of two critics; V, then the policy, then the critics, each with the V before it."""
    target = SharedHeads(heads=2, period=100, loss_discount=0.5, behaviour_head="2")
    spec, batch = (LINE, batch_on_a_line()) if continuous else (logged.SPEC, logged.batch())
    settings = dataclasses.replace(ALGORITHM, learning_rate=0.3, actor_depth=0)
    algorithm = settings.build(spec, target, Dense((4,)))
    start, sample = logged.widened(jax.jit(algorithm.init)(KEY, batch)), batch.transition
    rows, head_0, critic = jnp.arange(len(sample.reward)), start.source["target_params"], start.params["critic"]

    def hidden(trunk, inputs):
        return jnp.maximum(inputs @ trunk["Dense_0"]["kernel"] + trunk["Dense_0"]["bias"], 0)

    def q_of(params, heads, k, c):
        trunk = jax.tree.map(lambda w: w[c], params["trunk"])
        inputs = jnp.concatenate([sample.obs, sample.action], axis=1) if continuous else sample.obs
        outputs = hidden(trunk, inputs) @ heads["kernel"][k, c] + heads["bias"][k, c]
        return outputs[:, 0] if continuous else outputs[rows, sample.action]

    def v_of(value, k, obs):
        return (hidden(value["trunk"], obs) @ value["heads"]["kernel"][k] + value["heads"]["bias"][k])[:, 0]

    pairs = [(head_0, 0), (critic["heads"], 0)]  # what each head bootstraps on
    bootstrap = [jnp.minimum(q_of(critic, heads, k, 0), q_of(critic, heads, k, 1)) for heads, k in pairs]

    def loss_of_value(value):
        total = 0.0
        for k in range(2):
            u = bootstrap[k] - v_of(value, k, sample.obs)
            total += 0.5**k * jnp.mean(jnp.abs(TAU - (u < 0)) * u**2)
        return total

    def loss_of_actor(actor, value):
        weight = jnp.minimum(jnp.exp(BETA * (bootstrap[1] - v_of(value, 1, sample.obs))), 100)
        if continuous:
            mean = jnp.tanh(sample.obs @ actor["mean"]["kernel"] + actor["mean"]["bias"])[:, 0]
            log_density = jax.scipy.stats.norm.logpdf(sample.action[:, 0], mean, jnp.exp(actor["log_std"]["value"][0]))
        else:
            logits = hidden(actor["trunk"], sample.obs) @ actor["heads"]["kernel"][0] + actor["heads"]["bias"][0]
            log_density = jnp.log(jax.nn.softmax(logits))[rows, sample.action]
        return -jnp.mean(weight * log_density)

    def errors_of_critic(critic, value):
        targets = [sample.reward + sample.discount * v_of(value, k, sample.next_obs) for k in range(2)]
        return jnp.stack([q_of(critic, critic["heads"], k, c) - targets[k] for k in range(2) for c in range(2)])

    def loss_of_critic(critic, value):
        return jnp.array([1, 1, 0.5, 0.5]) @ jnp.mean(errors_of_critic(critic, value) ** 2, axis=1)

    def down(loss, params, *others):
        return jax.tree.map(lambda w, slope: w - 0.3 * slope, params, jax.grad(loss)(params, *others))

    @jax.jit
    def written_out():
        value = down(loss_of_value, start.params["value"])
        actor = down(loss_of_actor, start.params["actor"], value)
        losses = {
            "loss": loss_of_critic(critic, value),
            "value_loss": loss_of_value(start.params["value"]),
            "policy_loss": loss_of_actor(start.params["actor"], value),
        }
        critic_after = down(loss_of_critic, critic, value)
        return {"value": value, "actor": actor, "critic": critic_after}, losses, errors_of_critic(critic, value)

    wanted, losses, td_errors = written_out()
    after, errors, metrics = jax.jit(algorithm.update)(start, batch, KEY, jnp.int32(1))
    assert after.params["critic"]["heads"]["kernel"].dtype == jnp.float64
    logged.close(after.params, wanted)
    logged.close(errors, td_errors)
    logged.close({name: metrics[name] for name in losses}, losses)
    assert metrics.keys() == {
        "loss", "value_loss", "policy_loss", "td_error", "q_value", "advantage", "weight",
    }  # fmt: skip


def test_a_weight_has_a_bound_however_large_the_advantage_is():
    batch = logged.batch()
    rich = batch._replace(transition=batch.transition._replace(reward=batch.transition.reward + 1e6))
    algorithm = dataclasses.replace(ALGORITHM, learning_rate=1.0).build(logged.SPEC, OnlineNetwork(), Table())
    state = logged.widened(jax.jit(algorithm.init)(KEY, rich))
    update = jax.jit(algorithm.update)
    for number in (1, 2):  # the second has advantages, because the critics have learned
        state, _, metrics = update(state, rich, KEY, jnp.int32(number))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    kernel = 1e6 * jnp.ones_like(state.params["critic"]["heads"]["kernel"])
    state = state._replace(params={**state.params, "critic": {"trunk": {}, "heads": {"kernel": kernel}}})
    _, _, metrics = update(state, rich, KEY, jnp.int32(3))
    assert metrics["weight"] == 100 and np.isfinite(metrics["policy_loss"])


def test_with_a_beta_of_zero_the_policy_is_the_clone_of_the_data():
    common = {"learning_rate": 0.01, "adam_epsilon": 1e-8}
    for spec, batch in ((logged.SPEC, logged.batch()), (LINE, batch_on_a_line())):
        iql = IQL(beta=0, actor_decay_updates=None, **common).build(spec, TargetNetwork(period=3), Dense((4,)))
        reweighted = IQL(policy="reweighted", actor_decay_updates=None, **common) if spec is logged.SPEC else None
        clone = BC(**common).build(spec, OnlineNetwork(), Dense((4,)))
        start = logged.widened(jax.jit(clone.init)(KEY, batch))
        for one in filter(None, (iql, reweighted and reweighted.build(spec, OnlineNetwork(), Dense((4,))))):
            state, cloned = logged.widened(jax.jit(one.init)(KEY, batch)), start
            state = state._replace(params={**state.params, "actor": start.params})
            own, clones = jax.jit(one.update), jax.jit(clone.update)
            for number in range(1, 6):
                state, _, _ = own(state, batch, KEY, jnp.int32(number))
                cloned, _, _ = clones(cloned, batch, KEY, jnp.int32(number))
            logged.close(state.params["actor"], cloned.params, 1e-8)


def test_the_policys_rate_falls_along_a_cosine_to_zero():
    settings = IQL(learning_rate=0.1, actor_decay_updates=100)
    rates = [float(actor_rate(settings, jnp.int32(step))) for step in (1, 51, 101, 1_000)]
    np.testing.assert_allclose(rates, [0.1, 0.05, 0, 0], atol=1e-12)
    assert actor_rate(dataclasses.replace(settings, actor_decay_updates=None), jnp.int32(1_000)) == 0.1


# Sources that are the same source


DENSE = Dense((6,))


def trained(target, network=DENSE):
    algorithm = IQL(learning_rate=0.01, actor_decay_updates=None).build(logged.SPEC, target, network)
    state, of_updates = logged.learned(algorithm, 60, logged.batch())
    return state.params, of_updates


def test_the_sources_that_are_the_same_source_for_dqn_are_so_here():
    logged.close(trained(TargetNetwork(period=1)), trained(OnlineNetwork()))
    (chain, of_chain), (classic, of_classic) = trained(IteratedNetworks(1, period=20)), trained(TargetNetwork(20))
    logged.close((jax.tree.map(lambda w: w[0], chain.pop("critic")), of_chain), (classic.pop("critic"), of_classic))
    logged.close(chain, classic)
    logged.close(
        trained(SharedHeads(1, period=20, initial_heads="copies"), Table()), trained(TargetNetwork(20), Table())
    )


def test_the_heads_of_v_shift_with_those_of_q_and_moments_stay():
    algorithm = IQL(learning_rate=0.01).build(logged.SPEC, SharedHeads(heads=3, period=4), Dense((4,)))
    batch, update = logged.batch(), jax.jit(algorithm.update)
    start = logged.widened(jax.jit(algorithm.init)(KEY, batch))
    assert start.params["value"]["heads"]["kernel"].shape == (3, 4, 1)
    unmoved, shifted = (update(start, batch, KEY, jnp.int32(number))[0] for number in (3, 4))
    for part in ("critic", "value"):
        before, after = (state.params[part]["heads"]["kernel"] for state in (unmoved, shifted))
        np.testing.assert_allclose(after, jnp.concatenate([before[1:], before[-1:]]), rtol=1e-6)
        logged.close(unmoved.optimisers[part], shifted.optimisers[part])


# Networks, actions, measures


@pytest.mark.parametrize(
    "network",
    [Convolutional((2,), hidden=(4,)), Impala(), Dense((4,), norm="batch"), SimbaV2(4, 1)],
    ids=lambda n: type(n).__name__,
)
def test_every_network_can_be_critic_value_and_policy(network):
    spec = logged.SPEC._replace(observation=jax.ShapeDtypeStruct((6, 6, 2), jnp.bool_))
    algorithm = IQL().build(spec, SharedHeads(heads=2, period=1), network)
    batch = example_batch(spec, 5)
    state, errors, _ = jax.eval_shape(
        algorithm.update, jax.eval_shape(algorithm.init, KEY, batch), batch, KEY, jnp.int32(1)
    )
    assert errors.shape == (2 * 2, 5)  # two heads of two critics
    if getattr(network, "norm", "none") == "batch":
        assert jax.tree.leaves(state.own_batch_stats["value"]) and jax.tree.leaves(state.own_batch_stats["actor"])


def test_continuous_actions_stay_within_their_bounds_and_evaluation_draws_nothing():
    algorithm = IQL(actor_width=4).build(LINE, OnlineNetwork(), Dense((4,)))
    state, obs = jax.jit(algorithm.init)(KEY, batch_on_a_line()), 3 * jax.random.normal(KEY, (500, 2))
    drawn, sure = algorithm.act(state, KEY, obs, jnp.int32(0)), algorithm.act(state, KEY, obs, None)
    assert jnp.abs(drawn).max() == 1 and jnp.std(drawn - sure) > 0.1  # the deviation begins at 1
    np.testing.assert_array_equal(sure, algorithm.act(state, jax.random.key(1), obs, None))
    action, values = algorithm.decide(state, obs)
    np.testing.assert_array_equal(action, sure)
    np.testing.assert_allclose(values, algorithm.values(state, None, obs))


@pytest.mark.parametrize("settings", [IQL(), CQL()], ids=["iql", "cql"])
@pytest.mark.parametrize("target", [TargetNetwork(period=5), SharedHeads(heads=2, period=5)], ids=lambda t: t.label)
def test_measures_look_at_an_update(settings, target):
    algorithm, batch = settings.build(logged.SPEC, target, Dense((4,))), logged.batch()
    before = logged.widened(jax.jit(algorithm.init)(KEY, batch))
    after, _, _ = jax.jit(algorithm.learn)(before, batch, KEY, jnp.int32(1))
    info = UpdateInfo(before, after, batch, batch, KEY, jnp.int32(1))
    found = {}
    for one in (GradientAlignment(), TargetChurn()):
        measure = one.build(algorithm, target)
        found |= jax.jit(lambda info, measure=measure: measure.at_update(measure.init(info.before), info))(info)
    rank = Rank().build(algorithm, target)
    found |= rank.summarise(jax.tree.map(np.asarray, jax.jit(rank.at_log)(before, batch, KEY)))
    assert all(np.isfinite(value) for value in found.values())
    if isinstance(settings, IQL):  # its critics' targets come from V, which moves with every step
        assert found["target_churn"] > 0
    if isinstance(target, TargetNetwork):
        assert found["gradient_alignment"] == pytest.approx(1)


def test_mistakes_are_told():
    for name, value in {"expectile": 1.0, "beta": -1.0, "critics": 0, "actor_decay_updates": 0, "gamma": 2.0}.items():
        with pytest.raises(SharedqError, match=rf"algorithm\.{name}"):
            IQL(**{name: value})
    with pytest.raises(SharedqError, match=r"algorithm\.policy reweighted needs discrete actions"):
        IQL(policy="reweighted").build(LINE, OnlineNetwork(), Dense())
    unbounded = LINE._replace(actions=Continuous(np.zeros(1, "f"), np.full(1, np.inf, "f")))
    with pytest.raises(SharedqError, match="IQL needs actions with bounds"):
        IQL().build(unbounded, OnlineNetwork(), Dense())


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"steps": 300}, 300),
        ({"steps": 200}, None),
        ({"steps": 300, "actor_decay_updates": None}, None),
        ({"training": "fused", "replay": "transitions", "update_period": 1, "gradient_steps": 2}, 320),
        ({"training": "fused", "replay": "transitions", "update_period": 4, "gradient_steps": 2}, None),
    ],
)
def test_a_run_that_goes_on_when_the_policys_rate_is_zero_is_remarked(options, updates):
    base = recipe("cartpole-iql").replace(actor_decay_updates=200, evaluation_period=None, log_period=10, steps=160)
    experiment = base.replace(**options)
    found = list(experiment.algorithm.remarks(experiment, None))
    told = [f"the policy stops learning after 200 of {updates} updates" in remark for remark in found]
    assert told == ([True] if updates else [])


@pytest.mark.parametrize("algorithm", ["dqn", "cql"])
def test_a_remark_about_exploring_is_for_runs_that_act(algorithm):
    acting = recipe("cartpole").replace(algorithm=algorithm, steps=1_000, epsilon_steps=100_000)
    (remark,) = acting.algorithm.remarks(acting, None)
    assert "most actions will be random" in remark
    reading = acting.replace(training="offline", replay="dataset")
    assert not list(reading.algorithm.remarks(reading, None))
