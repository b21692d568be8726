"""Values that are distributions, and the other backups: closed forms, and gradients that are written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.answers import same_after_a_stop
from hypothesis import given
from hypothesis import strategies as some
from scipy.special import ndtr

from sharedq.algorithms import ALGORITHMS, CQL, DQN, SAC
from sharedq.algorithms.dqn import bootstrapped
from sharedq.algorithms.parts import policy_on
from sharedq.bellman import backups, categorical, quantiles, readings
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.networks import Dense
from sharedq.networks.network import outputs_of, read_as
from sharedq.recipes import recipe
from sharedq.targets import REDQ, SOURCES, IteratedNetworks, Minto, OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.targets.source import Values, evaluate
from sharedq.training.learning import example_batch
from sharedq.transitions import Batch, Transition

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(3)
ACTIONS, SIZE, INPUTS = 3, 6, 4
SPEC = EnvironmentSpec("a test", jax.ShapeDtypeStruct((INPUTS,), np.float32), Discrete(ACTIONS))
PLANE = SPEC._replace(actions=Continuous(-np.ones(2, np.float32), np.ones(2, np.float32)))
C51 = readings.distribution(-10, 10, 51)
READINGS = {"categorical": C51, "quantile": readings.quantile(7), "hl_gauss": readings.hl_gauss(-10, 10, 51)}


def batch() -> Batch:
    keys = jax.random.split(KEY, 4)
    obs, next_obs = jax.random.normal(keys[0], (2, SIZE, INPUTS))
    action = jax.random.randint(keys[1], (SIZE,), 0, ACTIONS)
    discount = jnp.where(jnp.arange(SIZE) % 3 == 0, 0.0, 0.9)
    transition = Transition(obs, action, jax.random.normal(keys[2], (SIZE,)), discount, next_obs)
    return Batch(transition, jnp.linspace(0.5, 1.5, SIZE), jnp.zeros(SIZE, jnp.int32))


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def widened(tree):
    wide = jnp.zeros(()).dtype
    return jax.tree.map(lambda x: x.astype(wide) if x.dtype == jnp.float32 else x, tree)


def perturbed(tree, size: float = 0.5):
    """The tree, with noise of its own added to every number."""
    keys = iter(jax.random.split(KEY, len(jax.tree.leaves(tree))))
    return jax.tree.map(lambda w: w + size * jax.random.normal(next(keys), w.shape), tree)


equal = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6))


# Readings


@given(some.lists(some.floats(-9, 9), min_size=2, max_size=5), some.floats(0.1, 0.99), some.floats(-1, 1))
def test_a_projected_target_keeps_mass_and_mean(logits, discount, reward):
    outputs = jnp.zeros((1, 51)).at[0, : len(logits)].set(jnp.array(logits))
    returns, masses = C51.atoms(outputs)
    returns = reward + discount * returns * 0.8  # within the support
    target = C51.target(returns, masses)
    np.testing.assert_allclose(target.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(target @ jnp.linspace(-10, 10, 51), (returns * masses).sum(-1), atol=1e-3)


def test_a_quantile_loss_by_hand():
    """Two quantiles, at the shares 1/4 and 3/4, and the returns 0 and 4 with equal masses."""
    theta, returns = jnp.array([1.0, 1.5]), jnp.array([0.0, 4.0])
    # |share - (return < theta)| huber(return - theta), where huber(-1), (3), (-1.5), (2.5) are 0.5, 2.5, 1 and 2
    wanted = (0.75 * 0.5 + 0.25 * 2.5) / 2 + (0.25 * 1.0 + 0.75 * 2.0) / 2
    np.testing.assert_allclose(quantiles.huber(theta, returns, jnp.array([0.5, 0.5])), wanted, rtol=1e-6)


def test_quantiles_of_a_sample_have_no_slope():
    """The quantiles of a fine sample are where the quantile loss with a small bend is least."""
    returns = jnp.linspace(0, 1, 2001)
    theta = quantiles.midpoints(4)
    slope = jax.grad(lambda q: quantiles.huber(q, returns, jnp.full(2001, 1 / 2001), bend=1e-3))(theta)
    np.testing.assert_allclose(slope, 0, atol=2e-3)
    assert (
        jnp.abs(jax.grad(lambda q: quantiles.huber(q, returns, jnp.full(2001, 1 / 2001), 1e-3))(theta + 0.1)).min()
        > 0.05
    )


@pytest.mark.parametrize("value", [-20.0, -10.0, 0.0, 0.3, 9.99, 10.0])
def test_a_smeared_target_is_the_gaussian_between_the_edges(value):
    edges = np.linspace(-10, 10, 52)
    clipped, sigma = np.clip(value, -10, 10), 0.75 * 20 / 51
    below = ndtr((edges - clipped) / sigma)
    wanted = np.diff(below) / (below[-1] - below[0])
    np.testing.assert_allclose(categorical.smeared(jnp.float32(value), jnp.array(edges)), wanted, atol=1e-6)
    if abs(value) < 5:  # away from the edges the mean is kept
        centres = (edges[1:] + edges[:-1]) / 2
        np.testing.assert_allclose(wanted @ centres, value, atol=1e-4)


@pytest.mark.parametrize("name", READINGS)
def test_averages_have_the_average_value(name):
    reading = READINGS[name]
    outputs = jax.random.normal(KEY, (4, SIZE, *reading.shape))
    found = reading.value(reading.average(outputs))
    np.testing.assert_allclose(found, reading.value(outputs).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", READINGS)
def test_the_distance_to_itself_is_least(name):
    reading = READINGS[name]
    outputs = jnp.sort(jax.random.normal(KEY, (SIZE, *reading.shape)))
    slope = jax.grad(lambda x: readings.distance(reading, x, outputs).sum())(outputs)
    moved = readings.distance(reading, outputs + jnp.linspace(0, 1, reading.shape[0]), outputs)
    assert (moved > readings.distance(reading, outputs, outputs)).all()
    if name == "categorical":
        np.testing.assert_allclose(slope, 0, atol=1e-5)


# Backups of distributions


@pytest.mark.parametrize(
    "backup", [backups.MAXIMUM, backups.DOUBLE, backups.expected_sarsa(0.3), backups.munchausen(0.5)]
)
@pytest.mark.parametrize("name", READINGS)
def test_the_mean_of_a_backed_up_distribution_is_the_backup_of_the_means(name, backup):
    reading = READINGS[name]
    shape = (2, SIZE, ACTIONS, *reading.shape)
    one, other = jax.random.normal(KEY, (2, *shape))
    value = Values((), one, one, other, jnp.ones(2), {})
    returns, masses = bootstrapped(reading, backup, value)
    wanted = backup.value(reading.value(one), reading.value(other))
    np.testing.assert_allclose(jnp.sum(returns * masses, -1), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jnp.broadcast_to(masses, (*wanted.shape, returns.shape[-1])).sum(-1), 1, atol=1e-5)


def test_expected_sarsa_lies_between_the_mean_and_the_maximum():
    values = jnp.array([[0.0, 3.0, 6.0]])
    assert float(backups.expected_sarsa(0.0).value(values, values)[0]) == 6
    np.testing.assert_allclose(backups.expected_sarsa(1.0).value(values, values), 3, rtol=1e-6)
    np.testing.assert_allclose(backups.expected_sarsa(0.5).value(values, values), 4.5, rtol=1e-6)


@pytest.mark.usefixtures("wide")
def test_munchausen_is_the_written_equation_and_near_q_learning_for_a_small_temperature():
    source, sample = TargetNetwork().build(Dense((5,)).build(ACTIONS)), widened(batch())
    algorithm = DQN(backup="munchausen", munchausen_tau=0.4, munchausen_alpha=0.7).on(source)
    state = widened(algorithm.init(KEY, sample))
    state = state._replace(params=jax.tree.map(lambda w: 1.3 * w, state.params))  # so that the copy is another
    x = sample.transition
    held = {"trunk": state.source["target_params"]["trunk"], "heads": state.source["target_params"]["heads"]}

    def q(obs):
        network = Dense((5,)).build(ACTIONS)
        return network.heads(held["heads"], network.trunk(held["trunk"], {}, obs, False)[0])[0]

    now, then = q(x.obs), q(x.next_obs)
    pi = jax.nn.softmax(then / 0.4)
    soft = (pi * (then - 0.4 * jnp.log(pi))).sum(-1)
    log_now = 0.4 * jax.nn.log_softmax(now / 0.4)[jnp.arange(SIZE), x.action]
    wanted = x.reward + 0.7 * jnp.clip(log_now, -1, 0) + x.discount * soft
    _, info = algorithm.loss(state.params, state, sample, KEY)
    np.testing.assert_allclose(info.targets[0], wanted, rtol=1e-10)

    cold = DQN(backup="munchausen", munchausen_tau=1e-5, munchausen_alpha=0.0).on(source)
    _, info = cold.loss(state.params, state, sample, KEY)
    _, plain = DQN().on(source).loss(state.params, state, sample, KEY)
    np.testing.assert_allclose(info.targets, plain.targets, atol=1e-4)


@pytest.mark.usefixtures("wide")
def test_a_cold_munchausen_policy_adds_nothing_for_greedy_actions_and_at_most_alpha_less_for_others():
    """tau log pi goes to Q(s, a) - max Q(s, .) of the held values, which is cut off at -1."""
    source, sample = TargetNetwork().build(Dense((5,)).build(ACTIONS)), widened(batch())
    state = widened(DQN().on(source).init(KEY, sample))
    network, copy = Dense((5,)).build(ACTIONS), perturbed(state.params)
    state = state._replace(source={**state.source, "target_params": copy})
    held = evaluate(network, copy, {}, sample.transition.obs)[0]
    lag = held - held.max(axis=-1, keepdims=True)

    @partial(jax.jit, static_argnums=0)
    def targets(alpha, action):
        taken = sample._replace(transition=sample.transition._replace(action=jnp.full(SIZE, action)))
        algorithm = DQN(backup="munchausen", munchausen_tau=1e-6, munchausen_alpha=alpha).on(source)
        return algorithm.loss(state.params, state, taken, KEY)[1].targets[0]

    seen = []
    for action in range(ACTIONS):
        added = targets(0.9, action) - targets(0.0, action)
        np.testing.assert_allclose(added, 0.9 * jnp.maximum(lag[:, action], -1), atol=1e-5)
        greedy = held.argmax(axis=-1) == action
        np.testing.assert_allclose(added[greedy], 0, atol=1e-5)
        seen += added[~greedy].tolist()
    assert min(seen) == pytest.approx(-0.9) and max(seen) < -1e-3
    assert any(one > -0.89 for one in seen)  # some are cut off and others are not


# DQN on distributions


@pytest.mark.usefixtures("wide")
def test_one_gradient_of_c51_on_shared_heads_is_that_of_the_written_pairs():
    """K cross entropies between head k now and the projected distribution of head k-1 then, on one trunk."""
    heads, dense = 3, Dense((6,))
    algorithm = DQN(values="categorical", atoms=11, value_bound=4.0).build(SPEC, SharedHeads(heads=heads), dense)
    sample = widened(batch())
    state = widened(algorithm.init(KEY, sample))
    network, x, support = dense.build(ACTIONS * 11), sample.transition, np.linspace(-4, 4, 11)

    def of(params, kernel, obs):
        features = network.trunk(params["trunk"], {}, obs, False)[0]
        return (features @ kernel["kernel"] + kernel["bias"]).reshape(SIZE, ACTIONS, 11)

    def written(params):
        total = 0.0
        frozen = jax.tree.map(lambda w: w[0], state.source["target_params"])
        for k in range(heads):
            own = jax.tree.map(lambda w, k=k: w[k], params["heads"])
            below = frozen if k == 0 else jax.tree.map(lambda w, k=k: w[k - 1], params["heads"])
            then = jax.lax.stop_gradient(jax.nn.softmax(of(params, below, x.next_obs)))
            for row in range(SIZE):
                best = jnp.argmax(then[row] @ support)
                target = jnp.zeros(11)
                for z, mass in zip(support, then[row, best], strict=True):
                    place = (jnp.clip(x.reward[row] + x.discount[row] * z, -4, 4) + 4) / 0.8
                    low = jnp.floor(place).astype(int)
                    target = target.at[low].add(mass * (low + 1 - place))
                    target = target.at[jnp.minimum(low + 1, 10)].add(mass * (place - low))
                log = jax.nn.log_softmax(of(params, own, x.obs)[row, x.action[row]])
                total -= sample.weights[row] * jax.lax.stop_gradient(target) @ log / SIZE
        return total

    ours = jax.grad(lambda p: algorithm.loss(p, state, sample, KEY)[0])(state.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), ours, jax.grad(written)(state.params))


def test_a_shift_moves_whole_blocks_of_atoms():
    algorithm = DQN(values="categorical").build(SPEC, SharedHeads(heads=2, period=1), Dense((6,)))
    state = algorithm.init(KEY, batch())
    _, info = algorithm.loss(state.params, state, batch(), KEY)
    moved = algorithm.refresh(state, info.for_refresh, jnp.int32(1))
    np.testing.assert_array_equal(moved.source["target_params"]["kernel"][0], state.params["heads"]["kernel"][0])
    np.testing.assert_array_equal(moved.params["heads"]["kernel"][0], state.params["heads"]["kernel"][1])
    assert state.params["heads"]["kernel"].shape == (2, 6, ACTIONS * 51)


@pytest.mark.parametrize("name", ["categorical", "quantile", "hl_gauss"])
def test_the_mean_of_several_heads_is_the_mean_of_their_values(name):
    reading = READINGS[name]
    network = read_as(Dense((6,)).build(outputs_of(reading, ACTIONS)), reading, ACTIONS)
    source = SharedHeads(heads=3, behaviour_head="mean").build(network)
    params, state = source.init(KEY, batch().transition.obs)
    obs = batch().transition.obs
    values = reading.value(source.values(params, state, obs).predicted)
    np.testing.assert_allclose(source.act_values(params, state, None, obs), values.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["categorical", "quantile", "hl_gauss"])
def test_samplers_get_the_losses_of_distributions(name):
    for target in (OnlineNetwork(), SharedHeads(heads=2)):
        algorithm = DQN(values=name).build(SPEC, target, Dense((6,)))
        state = algorithm.init(KEY, batch())
        _, errors, _ = algorithm.update(state, batch(), KEY, jnp.int32(1))
        _, info = algorithm.loss(state.params, state, batch(), KEY)
        assert errors.shape == (info.per_head.size, SIZE)
        np.testing.assert_allclose((batch().weights * errors).mean(1), info.per_head, rtol=1e-5)


def test_the_penalty_of_conservative_learning_is_on_the_expected_values():
    algorithm = CQL(values="categorical", alpha=2.0).build(SPEC, OnlineNetwork(), Dense((6,)))
    state, sample = algorithm.init(KEY, batch()), batch()
    total, info = algorithm.loss(state.params, state, sample, KEY)
    plain = DQN(values="categorical").on(algorithm.source)
    values = algorithm.values(state, None, sample.transition.obs)
    added = 2 * (jax.nn.logsumexp(values, -1) - values[jnp.arange(SIZE), sample.transition.action])
    wanted = plain.loss(state.params, state, sample, KEY)[0] + (sample.weights * added).mean()
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    np.testing.assert_allclose(info.metrics["penalty"], added.mean(), rtol=1e-5)


# SAC on distributions


@pytest.mark.parametrize("name", ["quantile", "hl_gauss"])
@pytest.mark.parametrize("source", SOURCES)
def test_critics_of_distributions_have_their_shapes_on_every_source(source, name):
    target, critics, atoms = SOURCES[source](), 3, 7
    algorithm = SAC(critics=critics, values=name, atoms=atoms, actor_width=4).build(PLANE, target, Dense((5,)))
    sample = example_batch(PLANE, SIZE)
    state = jax.eval_shape(algorithm.init, KEY, sample)

    def losses(state):
        total, told = algorithm.loss(state.params, state, sample, KEY)
        return total, told, told.td_errors

    total, told, td_errors = jax.eval_shape(losses, state)
    heads = getattr(target, "heads", getattr(target, "networks", 1))
    assert total.shape == () and told.per_head.shape == (heads,)
    assert told.targets.shape == (heads, SIZE)
    assert told.predictions.shape == told.errors.shape == (heads, SIZE, critics)
    assert td_errors.shape == (heads * critics, SIZE)
    outputs = jax.eval_shape(
        algorithm.source.values, state.params["critic"], state.source, (sample.transition.obs, sample.transition.action)
    )
    assert outputs.predicted.shape == outputs.bootstrap.shape == (heads, SIZE, critics, atoms)
    after, _, _ = jax.eval_shape(algorithm.update, state, sample, KEY, jnp.int32(1))
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)


def test_a_loss_of_two_critics_of_quantiles_by_hand():
    """The reward is 1, the discount 1/2 and the weight 2. A temperature of 2 and a log density of -1 add 2."""
    algorithm = SAC(values="quantile", atoms=2, actor_width=4, initial_temperature=2.0)
    built, sample = algorithm.build(PLANE, TargetNetwork(), Dense((4,))), example_batch(PLANE, 1)
    predicted = jnp.array([[[[1.0, 3.5], [2.0, 4.0]]]])  # [heads, batch, critics, quantiles]
    bootstrap = jnp.array([[[[0.0, 4.0], [1.0, 5.0]]]])  # the first critic has the smaller mean
    outputs = Values((), predicted, bootstrap, bootstrap, jnp.ones(1), {})
    policy = policy_on(PLANE, Dense((4,)), "squashed_gaussian", 4, 2)
    fixed = policy._replace(sample=lambda key, d: (jnp.zeros((1, 2)), -jnp.ones(1)))
    source = built.source._replace(values=lambda *_: outputs)
    learner = algorithm.on(source, readings.quantile(2), fixed, 2)
    transition = sample.transition._replace(reward=jnp.ones(1), discount=jnp.full(1, 0.5))
    sample = sample._replace(transition=transition, weights=jnp.full(1, 2.0))
    state = jax.jit(learner.init)(KEY, sample)
    total, told = jax.jit(learner.loss)(state.params, state, sample, KEY)
    # The returns are 1 + (0 + 2) / 2 = 2 and 1 + (4 + 2) / 2 = 4, for the shares 1/4 and 3/4.
    # The first critic's 1 has the errors 1 and 3, with huber 0.5 and 2.5; its 3.5 has -1.5 and 0.5, with 1 and 0.125.
    # The second critic's 2 has the errors 0 and 2, with huber 0 and 1.5; its 4 has -2 and 0, with 1.5 and 0.
    first = (0.25 * 0.5 + 0.25 * 2.5) / 2 + (0.25 * 1 + 0.75 * 0.125) / 2
    second = 0.25 * 1.5 / 2 + 0.25 * 1.5 / 2
    np.testing.assert_allclose(told.td_errors, [[first], [second]], rtol=1e-6)
    np.testing.assert_allclose(total, 2 * (first + second), rtol=1e-6)
    np.testing.assert_allclose(told.targets, [[3.0]], rtol=1e-6)
    np.testing.assert_allclose(told.predictions, [[[2.25, 3.0]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (lambda: DQN(values="categorical", backup="mellowmax"), "mellowmax is of expected values"),
        (lambda: DQN(values="quantile", loss="huber"), "huber is of scalar values"),
        (lambda: DQN(values="categorical", gradient_correction=True), "gradient_correction is of the squared error"),
        (lambda: DQN(backup="munchausen", gradient_correction=True), "leave algorithm.values, algorithm.loss and"),
        (lambda: SAC(learning_rate_schedule="cosine"), "cosine goes to algorithm.final_learning_rate"),
        (lambda: SAC(bound_returns=False), "bound_returns false is of scaled rewards"),
        (lambda: DQN(atoms=1, values="categorical"), "atoms must be at least 2"),
        (lambda: DQN(backup="munchausen", munchausen_tau=0), "munchausen_tau must be above 0"),
        (lambda: DQN(munchausen_alpha=1.5), "munchausen_alpha must lie in 0 .. 1"),
        (lambda: SAC(values="quantile", atoms=1), "atoms must be at least 2"),
    ],
)
def test_what_a_reading_cannot_serve_is_refused_in_one_line(settings, told):
    with pytest.raises(SharedqError, match=told):
        settings()


# Dueling heads and noisy layers


@pytest.mark.parametrize("atoms", [1, 5])
def test_dueling_heads_are_the_value_plus_the_advantage_less_its_mean(atoms):
    network = Dense((6, 5), dueling=True).build(ACTIONS * atoms, atoms)
    obs = batch().transition.obs
    trunk = perturbed(network.init_trunk(KEY, obs)[0])
    features, _ = network.trunk(trunk, {}, obs, True)
    layers = [trunk[f"Dense_{place}"] for place in range(3)]
    shared, *of_streams = [partial(lambda w, x: jax.nn.relu(x @ w["kernel"] + w["bias"]), w) for w in layers]
    equal(tuple(features), tuple(layer(shared(obs)) for layer in of_streams))
    heads = perturbed(network.init_heads(KEY, features, 2))  # biases begin as zeros, and would hide a mistake
    found = network.heads(heads, features).reshape(2, SIZE, ACTIONS, atoms)
    for head in range(2):
        value = features.value @ heads.value["kernel"][head] + heads.value["bias"][head]
        advantage = features.advantage @ heads.advantage["kernel"][head] + heads.advantage["bias"][head]
        advantage = advantage.reshape(SIZE, ACTIONS, atoms)
        wanted = value[:, None] + advantage - advantage.mean(1, keepdims=True)
        np.testing.assert_allclose(found[head], wanted, rtol=1e-5, atol=1e-6)
    assert trunk.keys() == {"Dense_0", "Dense_1", "Dense_2"}  # one shared layer, and one for each stream


def test_noise_is_drawn_by_the_key_alone_and_is_the_written_one():
    network = Dense((6,), noisy=True).build(ACTIONS)
    obs = batch().transition.obs
    source = OnlineNetwork().build(network)
    params, state = source.init(KEY, obs)
    still = source.values(params, state, obs)
    plain = Dense((6,)).build(ACTIONS)
    calm = {"trunk": {"Dense_0": {k: params["trunk"]["NoisyDense_0"][k] for k in ("kernel", "bias")}}}
    features = plain.trunk(calm["trunk"], {}, obs, False)[0]
    np.testing.assert_allclose(still.features, features, rtol=1e-6)
    one, again, other = (source.values(params, state, obs, obs, key) for key in (KEY, KEY, jax.random.key(4)))
    np.testing.assert_array_equal(one.predicted, again.predicted)
    assert (jnp.abs(one.predicted - other.predicted) > 1e-6).all()
    assert (jnp.abs(one.predicted - one.bootstrap) > 1e-6).all()  # now and then have noise of their own
    acting = [source.act_values(params, state, KEY, obs, noisy) for noisy in (False, True)]
    np.testing.assert_allclose(acting[0], still.predicted[0], rtol=1e-6)
    assert (jnp.abs(acting[1] - acting[0]) > 1e-6).all()


NOISY_SOURCES = [
    TargetNetwork(),
    SharedHeads(heads=2, initial_heads="copies"),
    IteratedNetworks(networks=2),
    Minto(),
    REDQ(networks=3, subset=2),
]


@pytest.mark.parametrize("target", NOISY_SOURCES, ids=lambda target: target.label)
def test_now_and_then_have_noise_of_their_own_on_every_kind_of_source(target):
    """All heads, networks and copies have the same weights here, so that noise alone makes their values differ."""
    source = target.build(Dense((6,), noisy=True).build(ACTIONS))
    obs = jnp.linspace(-1, 1, SIZE * INPUTS).reshape(SIZE, INPUTS)
    params, state = jax.jit(source.init)(KEY, obs)
    if isinstance(target, REDQ):
        params = jax.tree.map(lambda w: jnp.broadcast_to(w[:1], w.shape), params)
        state = {**state, "target_params": params}
    values = jax.jit(lambda key: source.values(params, state, obs, obs, key))
    still = jax.jit(lambda: source.values(params, state, obs, obs))()
    np.testing.assert_allclose(still.predicted, still.bootstrap, rtol=1e-5, atol=1e-6)
    one, again, other = (values(key) for key in (KEY, KEY, jax.random.key(4)))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    for name in ("predicted", "bootstrap", "selector"):
        assert (jnp.abs(getattr(one, name) - getattr(other, name)) > 1e-6).any(axis=(1, 2)).all(), name
    apart = jnp.abs(one.predicted - one.bootstrap) > 1e-6
    if isinstance(target, Minto):  # the smaller of two values is sometimes the online network's own
        assert apart.any() and (one.bootstrap <= one.selector).all()
    else:
        assert apart.all()
    acting = jax.jit(lambda: [source.act_values(params, state, KEY, obs, noisy) for noisy in (False, True)])()
    np.testing.assert_allclose(acting[0], still.predicted[0], rtol=1e-5, atol=1e-6)
    assert (jnp.abs(acting[1] - acting[0]) > 1e-6).all()


def noisy_run(name: str, **more):
    """A short run with noise in place of random actions and with corrected gradients."""
    calm = {"algorithm.epsilon_start": 0.0, "algorithm.epsilon_end": 0.0}
    tiny = {"network.hidden": (8,), "network.noisy": True, "replay.batch_size": 8, "training.warm_up": 200}
    often = {"training.log_period": 200, "training.checkpoint_period": 200}
    corrected = {"algorithm.gradient_correction": True, "target.heads": 2, "target.period": 20}
    options = {**calm, **tiny, **often, **corrected, **more}
    return recipe(name).replace(network="dense", target="shared_heads", steps=800, **options)


def test_a_run_with_noise_and_corrections_goes_on_from_its_checkpoint_to_the_bit(tmp_path):
    experiment = noisy_run("corridor", seeds=2)
    whole = same_after_a_stop(experiment, tmp_path, 400)
    assert whole["metrics.csv"][-1]["correction"]


def test_a_run_evaluates_without_noise():
    evaluation = {"training.evaluation_period": 400, "training.evaluation_episodes": 3}
    program = noisy_run("cartpole", **evaluation).build().program()
    program.prepare()
    run, _ = program.advance(program.begin(), 0, program.log_steps[0])
    agent = program.agent_to_host(run)

    def louder(path, weight):
        return 100 * weight if "noise" in jax.tree_util.keystr(path) else weight

    params = jax.tree_util.tree_map_with_path(louder, agent.params)
    loud = program.with_agent(run, agent._replace(params=params))
    for calm, one in zip(program.evaluate(run, 400), program.evaluate(loud, 400), strict=True):
        np.testing.assert_array_equal(calm, one)
    program.close()
    changed = jax.tree.map(lambda one, other: bool((one != other).any()), params, agent.params)
    assert any(jax.tree.leaves(changed))


def test_the_noise_of_a_head_has_the_deviation_of_its_weights():
    """The deviation over keys of a noisy head is sqrt(sum_i E|u| E|v| (S x)^2 + E|v| s^2), with E f(u)^2 = E|u|."""
    network = Dense((6,), noisy=True).build(2)
    features = jnp.linspace(-1, 1, 6)[None]
    heads = network.init_heads(KEY, features, 1)
    keys = jax.random.split(KEY, 20_000)
    found = jax.vmap(lambda key: network.noisy(key).heads(heads, features)[0, 0])(keys)
    square = np.sqrt(2 / np.pi)  # E|u|
    level = 0.5 / np.sqrt(6)
    wanted = np.sqrt(square**2 * level**2 * float((features**2).sum()) + square * level**2)
    np.testing.assert_allclose(found.std(0), wanted, rtol=0.05)
    np.testing.assert_allclose(found.mean(0), network.heads(heads, features)[0, 0], atol=0.02)


def test_a_rainbow_agent_explores_by_noise_and_decides_without():
    rainbow = DQN(values="categorical", backup="double", epsilon_start=0.0, epsilon_end=0.0)
    algorithm = rainbow.build(SPEC, TargetNetwork(), Dense((6,), dueling=True, noisy=True))
    state, obs = algorithm.init(KEY, batch()), jax.random.normal(KEY, (200, INPUTS))
    act = jax.jit(algorithm.act)
    drawn = [act(state, jax.random.key(n), obs, jnp.int32(1)) for n in range(2)]
    assert (drawn[0] != drawn[1]).any()
    calm = [act(state, jax.random.key(n), obs, None) for n in range(2)]
    np.testing.assert_array_equal(*calm)
    np.testing.assert_array_equal(algorithm.decide(state, obs)[0], calm[0])
    updated, _, metrics = algorithm.update(state, batch(), KEY, jnp.int32(1))
    assert jnp.isfinite(metrics["loss"])
    noise = updated.params["heads"].advantage["kernel_noise"] - state.params["heads"].advantage["kernel_noise"]
    assert (jnp.abs(noise) > 0).any()  # the noise is learned


@pytest.mark.parametrize("algorithm", ["stream_q", "iql", "sac"])
def test_noisy_layers_are_refused_where_nothing_draws_their_noise(algorithm):
    actions = Continuous(-np.ones(2, np.float32), np.ones(2, np.float32)) if algorithm == "sac" else Discrete(3)
    spec = SPEC._replace(actions=actions)
    with pytest.raises(SharedqError, match=r"network\.noisy needs an algorithm that draws the noise"):
        ALGORITHMS[algorithm]().build(spec, OnlineNetwork(), Dense((6,), noisy=True))
