"""The tanh-Gaussian policy, against numerical integration and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sharedq.networks import Dense, SimbaV2, policies

KEY = jax.random.key(3)
RAW = np.linspace(-14, 14, 280_001)  # beyond, tanh is 1 in double precision


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def integral(values, over):
    return np.trapezoid(values, over)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0), (3.0, 0.5)])
def test_densities_of_actions_match_numerical_integration(mean, std):
    """Over actions, density integrates to one, and to the chance of every interval."""
    actions = np.tanh(RAW)
    log_std = jnp.full((RAW.size, 1), np.log(std))
    density = np.exp(policies.log_density(jnp.array(RAW)[:, None], jnp.full((RAW.size, 1), mean), log_std))
    assert integral(density, actions) == pytest.approx(1, abs=1e-5)
    for low, high in ((-0.9, -0.2), (0.1, 0.5), (0.3, 0.99)):
        inside = (actions >= low) & (actions <= high)
        chance = np.diff(stats.norm(mean, std).cdf(np.arctanh([low, high])))
        assert integral(density[inside], actions[inside]) == pytest.approx(chance[0], abs=2e-4)


@pytest.mark.usefixtures("wide")
def test_the_mean_log_density_of_drawn_actions_is_the_negative_entropy():
    mean, log_std = jnp.array([0.4, -1.0]), jnp.log(jnp.array([0.6, 1.3]))
    _, log_density = policies.sample(KEY, *(jnp.tile(x, (200_000, 1)) for x in (mean, log_std)))
    entropy = 0.0
    for m, s in zip(mean, log_std):
        density = np.exp(policies.log_density(jnp.array(RAW)[:, None], m, s))
        entropy -= integral(np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0), np.tanh(RAW))
    assert -log_density.mean() == pytest.approx(entropy, abs=0.01)


def test_a_drawn_action_and_its_density_belong_together():
    mean, log_std = jnp.zeros((500, 3)), jnp.full((500, 3), 0.3)
    action, log_density = policies.sample(KEY, mean, log_std)
    assert jnp.abs(action).max() < 1
    again = policies.log_density(jnp.arctanh(action), mean, log_std)
    np.testing.assert_allclose(log_density, again, rtol=1e-3, atol=1e-3)


def test_densities_and_their_slopes_stay_finite_where_tanh_is_one():
    """log(1 - tanh(30)^2) is -inf when written down plainly."""

    def total(mean, log_std):
        return policies.sample(KEY, mean, log_std)[1].sum()

    mean, log_std = jnp.array([[30.0, -30.0]]), jnp.array([[2.0, -20.0]])
    value, slopes = jax.value_and_grad(total, (0, 1))(mean, log_std)
    assert all(jnp.isfinite(x).all() for x in (value, *slopes))
    np.testing.assert_allclose(slopes[0], [[2.0, -2.0]], rtol=1e-4)  # log(1 - tanh(u)^2) falls by 2 for each |u|


@pytest.mark.parametrize("network", [Dense(norm="batch_renorm"), SimbaV2(norm="batch_before"), Dense(), SimbaV2()])
def test_policies_of_every_body_have_bounded_deviations(network):
    policy = network.policy(actions=2, width=16, depth=1)
    obs = 100 * jax.random.normal(KEY, (8, 5))
    params, statistics = policy.init(KEY, obs)
    (mean, log_std), moved = policy.gaussian(params, statistics, obs, True)
    assert mean.shape == log_std.shape == (8, 2)
    assert (log_std >= (-10 if isinstance(network, SimbaV2) else -20)).all() and (log_std <= 2).all()
    assert bool(jax.tree.leaves(statistics)) == (network.norm != "none")
    if statistics:
        assert jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), statistics, moved)).count(True)
        (kept, _), same = policy.gaussian(params, moved, obs[:1], False)
        jax.tree.map(np.testing.assert_array_equal, same, moved)
        np.testing.assert_allclose(kept, policy.gaussian(params, moved, obs, False)[0][0][:1], rtol=1e-4, atol=1e-5)


def test_a_policy_begins_as_random_as_its_source_has_it():
    """Published SAC and CrossQ clip, and begin with deviations near 1; SimbaV2 squashes, and begins at exp(-4)."""
    obs = jax.random.normal(KEY, (256, 5))
    for network, beginning in ((Dense(), 0.0), (SimbaV2(), -4.0)):
        policy = network.policy(actions=2, width=64, depth=1)
        (_, log_std), _ = policy.gaussian(*policy.init(KEY, obs), obs, False)
        np.testing.assert_allclose(log_std.mean(), beginning, atol=0.5)
