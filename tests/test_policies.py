"""Policies of every kind, against numerical integration and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from sharedq.networks import Convolutional, Dense, Impala, SimbaV2, Table, policies

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(3)
SQUASHED, GAUSSIAN = (Dense().policy(1, 4, 0, kind) for kind in ("squashed_gaussian", "gaussian"))
CATEGORICAL = policies.categorical(Table().build(3))
RAW = np.linspace(-6, 6, 120_001)  # beyond 6.1, an action counts as the edge that tanh is inverted at


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def integral(values, over):
    return np.trapezoid(values, over)


def gaussians(mean, std, count):
    """The parameters of so many equal distributions."""
    return jnp.full((count, 1), mean), jnp.full((count, 1), np.log(std))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0), (3.0, 0.5)])
def test_densities_of_squashed_actions_match_numerical_integration(mean, std):
    """Over actions, density integrates to the chance of every interval, and to one."""
    actions = np.tanh(RAW)
    density = np.exp(SQUASHED.log_density(gaussians(mean, std, RAW.size), jnp.array(actions)[:, None]))
    for low, high in ((-0.9, -0.2), (0.1, 0.5), (0.3, 0.99), (np.tanh(-6), np.tanh(6))):
        inside = (actions >= low) & (actions <= high)
        chance = np.diff(stats.norm(mean, std).cdf(np.arctanh([low, high])))
        assert integral(density[inside], actions[inside]) == pytest.approx(chance[0], abs=2e-4)
    if std <= 1:
        assert integral(density, actions) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0)])
def test_densities_of_gaussian_actions_are_scipys_around_a_squashed_mean(mean, std):
    actions = np.linspace(-1, 1, 101)
    found = GAUSSIAN.log_density(gaussians(mean, std, 101), jnp.array(actions)[:, None])
    np.testing.assert_allclose(found, stats.norm(np.tanh(mean), std).logpdf(actions), rtol=1e-9)


@pytest.mark.usefixtures("wide")
def test_densities_of_several_dimensions_are_products():
    d, action = (jnp.array([[0.4, -1.0]]), jnp.array([[-0.3, 0.2]])), jnp.array([[0.1, -0.7]])
    for policy in (SQUASHED, GAUSSIAN):
        apart = [policy.log_density(tuple(x[:, i : i + 1] for x in d), action[:, i : i + 1]) for i in range(2)]
        np.testing.assert_allclose(policy.log_density(d, action), sum(apart), rtol=1e-9)


@pytest.mark.usefixtures("wide")
def test_probabilities_of_discrete_actions_are_scipys_softmax():
    logits = jax.random.normal(KEY, (5, 3))
    every = [CATEGORICAL.log_density(logits, jnp.full(5, action)) for action in range(3)]
    np.testing.assert_allclose(np.stack(every, axis=1), special.log_softmax(logits, axis=1), rtol=1e-9)


@pytest.mark.usefixtures("wide")
def test_the_mean_log_density_of_drawn_actions_is_the_negative_entropy():
    mean, log_std = jnp.array([0.4, -1.0]), jnp.log(jnp.array([0.6, 1.3]))
    _, log_density = SQUASHED.sample(KEY, tuple(jnp.tile(x, (200_000, 1)) for x in (mean, log_std)))
    entropy, actions = 0.0, np.tanh(RAW)
    for m, s in zip(mean, jnp.exp(log_std)):
        density = np.exp(SQUASHED.log_density(gaussians(m, s, RAW.size), jnp.array(actions)[:, None]))
        entropy -= integral(np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0), actions)
    assert -log_density.mean() == pytest.approx(entropy, abs=0.01)


@pytest.mark.parametrize(
    ("policy", "d"),
    [
        (SQUASHED, (jnp.zeros((500, 3)), jnp.full((500, 3), 0.3))),
        (GAUSSIAN, (jnp.ones((500, 3)), jnp.full((500, 3), -1.0))),
        (CATEGORICAL, jnp.tile(jnp.array([0.0, 1.0, -1.0]), (500, 1))),
    ],
    ids=["squashed", "gaussian", "categorical"],
)
def test_a_drawn_action_and_its_density_belong_together(policy, d):
    action, log_density = policy.sample(KEY, d)
    assert action.dtype == (jnp.int32 if policy is CATEGORICAL else jnp.float32)
    assert jnp.abs(action).max() <= (2 if policy is CATEGORICAL else 1)
    np.testing.assert_allclose(log_density, policy.log_density(d, action), rtol=1e-3, atol=1e-3)


def test_draws_have_the_shares_that_the_densities_say():
    logits = jnp.array([0.5, -1.0, 0.0])
    action, _ = CATEGORICAL.sample(KEY, jnp.tile(logits, (50_000, 1)))
    np.testing.assert_allclose(np.bincount(action) / 50_000, special.softmax(logits), atol=0.01)
    drawn, _ = GAUSSIAN.sample(KEY, gaussians(0.5, 0.1, 50_000))  # far from the bounds
    np.testing.assert_allclose((drawn.mean(), drawn.std()), (np.tanh(0.5), 0.1), atol=0.002)


def test_the_mode_is_the_likeliest_action_or_the_squashed_mean():
    logits = jnp.array([[0.1, 3.0, -1.0], [2.0, 0.0, 1.0]])
    assert CATEGORICAL.mode(logits).tolist() == [1, 0] and CATEGORICAL.mode(logits).dtype == jnp.int32
    for policy in (SQUASHED, GAUSSIAN):
        np.testing.assert_array_equal(policy.mode(gaussians(0.7, 3.0, 2)), jnp.tanh(jnp.full((2, 1), 0.7)))


def test_densities_and_their_slopes_stay_finite_where_tanh_is_one():
    """log(1 - tanh(30)^2) is -inf when written down plainly."""

    def total(mean, log_std):
        return SQUASHED.sample(KEY, (mean, log_std))[1].sum()

    mean, log_std = jnp.array([[30.0, -30.0]]), jnp.array([[2.0, -20.0]])
    value, slopes = jax.value_and_grad(total, (0, 1))(mean, log_std)
    assert all(jnp.isfinite(x).all() for x in (value, *slopes))
    np.testing.assert_allclose(slopes[0], [[2.0, -2.0]], rtol=1e-4)  # log(1 - tanh(u)^2) falls by 2 for each |u|

    def of_stored(mean, log_std):
        return SQUASHED.log_density((mean, log_std), jnp.array([[1.0, -1.0]])).sum()

    value, slopes = jax.value_and_grad(of_stored, (0, 1))(*gaussians(0.0, 1.0, 1))
    assert all(jnp.isfinite(x).all() for x in (value, *slopes))


NETWORKS = [Dense(norm="batch_renorm"), SimbaV2(norm="batch_before"), Dense(), SimbaV2()]


@pytest.mark.parametrize("network", NETWORKS)
def test_policies_of_every_body_have_bounded_deviations(network):
    policy = network.policy(actions=2, width=16, depth=1)
    obs = 100 * jax.random.normal(KEY, (8, 5))
    params, statistics = policy.init(KEY, obs)
    (mean, log_std), moved = policy.distribution(params, statistics, obs, True)
    assert mean.shape == log_std.shape == (8, 2)
    assert (log_std >= (-10 if isinstance(network, SimbaV2) else -20)).all() and (log_std <= 2).all()
    assert bool(jax.tree.leaves(statistics)) == (network.norm != "none")
    if statistics:
        assert jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), statistics, moved)).count(True)
        (kept, _), same = policy.distribution(params, moved, obs[:1], False)
        jax.tree.map(np.testing.assert_array_equal, same, moved)
        kept_of_all = policy.distribution(params, moved, obs, False)[0][0]
        np.testing.assert_allclose(kept, kept_of_all[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_gaussian_policy_has_one_deviation_for_all_states(network):
    policy, obs = network.policy(actions=2, width=16, depth=1, kind="gaussian"), jax.random.normal(KEY, (8, 5))
    params, statistics = policy.init(KEY, obs)
    assert params["log_std"]["value"].tolist() == [0, 0]
    for value, deviation in ((-9.0, -5.0), (0.5, 0.5), (3.0, 2.0)):
        params["log_std"]["value"] = jnp.full(2, value)
        (mean, log_std), _ = policy.distribution(params, statistics, obs, False)
        np.testing.assert_array_equal(log_std, jnp.full((8, 2), deviation))
    assert (jnp.std(mean, axis=0) > 0).all()


def test_a_policy_begins_as_random_as_its_source_has_it():
    """Published SAC and CrossQ clip, and begin with deviations near 1; SimbaV2 squashes, and begins at exp(-4)."""
    obs = jax.random.normal(KEY, (256, 5))
    for network, beginning in ((Dense(), 0.0), (SimbaV2(), -4.0)):
        policy = network.policy(actions=2, width=64, depth=1)
        (_, log_std), _ = policy.distribution(*policy.init(KEY, obs), obs, False)
        np.testing.assert_allclose(log_std.mean(), beginning, atol=0.5)


@pytest.mark.parametrize(
    "network", [Convolutional((2,), hidden=(4,)), Impala(), Dense((4,), norm="batch"), SimbaV2(4, 1), Table()]
)
def test_every_network_is_a_policy_over_discrete_actions(network):
    policy, obs = policies.categorical(network.build(3)), jnp.ones((2, 6, 6, 1), jnp.uint8)
    params, statistics = jax.eval_shape(policy.init, KEY, obs)
    logits, _ = jax.eval_shape(lambda p, s: policy.distribution(p, s, obs, True), params, statistics)
    assert logits.shape == (2, 3)
