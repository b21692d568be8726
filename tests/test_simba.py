"""SimbaV2 by closed forms: counts, lengths of features and kernels, and what projections leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.errors import SharedqError
from sharedq.networks import Dense, SimbaV2, Table
from sharedq.networks import network as networks
from sharedq.networks.critics import ensemble, of_pairs
from sharedq.networks.initialisation import orthogonal
from sharedq.networks.simba import Body
from sharedq.networks.unit_kernels import NAME, project

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(0)
ATOMS = 101
initial = jax.jit(networks.init, static_argnums=(0, 3))


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def lengths(kernel):
    return jnp.linalg.norm(kernel, axis=-2)


@pytest.mark.parametrize(("inputs", "parameters"), [(67 + 21, 4_559_973), (223 + 38, 4_648_549)])
def test_the_critic_has_the_published_number_of_parameters(inputs, parameters):
    h, blocks = 512, 2
    closed = (inputs + 2) * h + blocks * (8 * h**2 + 5 * h) + (h**2 + h) + (ATOMS * h + ATOMS)
    network = SimbaV2().build(ATOMS)
    found = jax.eval_shape(lambda x: networks.init(network, KEY, x, 1)[:2], jnp.zeros((1, inputs)))
    assert count(found) == closed == parameters


@pytest.mark.parametrize(("obs", "actions", "parameters"), [(67, 21, 178_986), (223, 38, 203_340)])
def test_the_actor_has_the_published_number_of_parameters(obs, actions, parameters):
    policy = SimbaV2().policy(actions, width=128, depth=1)
    assert count(jax.eval_shape(lambda x: policy.init(KEY, x)[0], jnp.zeros((1, obs)))) == parameters


def test_a_forward_pass_by_hand():
    """One block of two features, with the layers written out."""
    body, x = Body(2, 1, "none", "float32"), jnp.array([[0.5, -1.0]])
    params = body.init(KEY, x, False)["params"]
    params = jax.tree.map(lambda w: w + 0.1, params)  # gains that are not all alike, kernels off the sphere

    def unit(v):
        return v / np.linalg.norm(v)

    def kernel(part):
        return np.asarray(part["UnitDense_0"][NAME] if "UnitDense_0" in part else part[NAME], np.float64)

    y = unit(np.array([0.5, -1.0, 3.0])) @ kernel(params["UnitDense_0"])
    y = unit(y * np.asarray(params["Scaler_0"]["gain"]))  # begins at sqrt(2 / 2) = 1, and moves at scale 1
    block = params["Block_0"]
    hidden = y @ np.asarray(block["UnitDense_0"][NAME]) * np.asarray(block["Scaler_0"]["gain"])
    proposed = unit((np.maximum(hidden, 0) + 1e-8) @ np.asarray(block["UnitDense_1"][NAME]))
    share = np.asarray(block["Scaler_1"]["gain"]) * (1 / 2) / (1 / np.sqrt(2))
    expected = unit(y + share * (proposed - y))
    np.testing.assert_allclose(body.apply({"params": params}, x, False)[0], expected, rtol=1e-5, atol=1e-6)


def test_gains_begin_where_the_paper_has_them():
    params = Body(8, 3, "none", "float32").init(KEY, jnp.ones((1, 5)), False)["params"]
    np.testing.assert_allclose(params["Scaler_0"]["gain"], np.sqrt(2 / 8))
    block = params["Block_2"]
    np.testing.assert_allclose(block["Scaler_0"]["gain"], 0.5 * np.sqrt(2 / 8))
    np.testing.assert_allclose(block["Scaler_1"]["gain"], 1 / np.sqrt(8))


def test_features_lie_on_the_unit_sphere():
    body, x = Body(16, 2, "none", "float32"), 50 * jax.random.normal(KEY, (20, 5))
    features, _ = body.init_with_output(KEY, x, False)
    np.testing.assert_allclose(jnp.linalg.norm(features, axis=-1), 1, rtol=1e-5)


def test_projection_puts_unit_kernels_back_and_nothing_else():
    network = ensemble(of_pairs(SimbaV2(width=8, blocks=1).build(5)), 2)
    trunk, heads, _ = initial(network, KEY, (jnp.zeros((1, 3)), jnp.zeros((1, 2))), 4)
    assert heads[NAME].shape == (4, 2, 8, 5) and heads["bias"].shape == (4, 2, 5)
    drawn = {"trunk": trunk, "heads": heads, "other": jnp.ones(3)}
    away = jax.tree.map(lambda w: 1.7 * w + 0.2, drawn)
    back = jax.jit(project)(away)
    kernels = 0
    for (path, weight), before in zip(jax.tree_util.tree_leaves_with_path(back), jax.tree.leaves(away)):
        if path[-1].key == NAME:
            kernels += 1
            np.testing.assert_allclose(lengths(weight), 1, rtol=1e-5)
            np.testing.assert_allclose(weight * lengths(before)[..., None, :], before, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(weight, before)
    assert kernels == 5  # embedding, two in the block, hidden layer of the head, head
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), project(drawn), drawn)


@pytest.mark.parametrize(("norm", "layers"), [("batch_input", 1), ("batch_before", 3), ("batch_after", 3)])
def test_batch_norm_lies_where_it_is_asked_for(norm, layers):
    network = SimbaV2(width=8, blocks=2, norm=norm).build(3)
    x = 2 + jax.random.normal(KEY, (32, 4))
    trunk, _, batch_stats = initial(network, KEY, x, 1)
    sizes = sorted(part["mean"].shape for _, part in _norms(batch_stats))
    assert sizes == sorted([(4,)] + [(32,)] * (layers - 1))
    assert network.normalises_batch and not SimbaV2().build(3).normalises_batch
    _, moved = network.trunk(trunk, batch_stats, x, True)
    (_, of_input), *_ = (pair for pair in _norms(moved) if pair[1]["mean"].shape == (4,))
    np.testing.assert_allclose(of_input["mean"], 0.01 * x.mean(0), rtol=1e-4)


def _norms(batch_stats, path=()):
    for name, part in batch_stats.items():
        if "mean" in part:
            yield (*path, name), part
        else:
            yield from _norms(part, (*path, name))


def test_settings_that_make_no_network_are_refused():
    for wrong in ({"width": 0}, {"blocks": -1}):
        with pytest.raises(SharedqError, match=next(iter(wrong))):
            SimbaV2(**wrong)


# Critics


@pytest.mark.parametrize("settings", [Dense((6,)), Dense((6,), norm="batch"), Table(), SimbaV2(width=4, blocks=1)])
def test_critics_side_by_side_are_the_same_critics_alone(settings):
    one = of_pairs(settings.build(3))
    many = ensemble(one, 2)
    pair = jax.random.normal(KEY, (5, 4)), jax.random.normal(jax.random.key(1), (5, 2))
    trunk, heads, batch_stats = initial(many, KEY, pair, 3)
    heads = jax.tree.map(lambda w: w + jax.random.normal(KEY, w.shape), heads)
    features, moved = many.trunk(trunk, batch_stats, pair, True)
    outputs = many.heads(heads, features)
    assert outputs.shape == (3, 5, 2, 3)
    for c in range(2):
        own_trunk, own_statistics = (jax.tree.map(lambda w, c=c: w[c], tree) for tree in (trunk, batch_stats))
        own_features, own_moved = one.trunk(own_trunk, own_statistics, pair, True)
        alone = one.heads(jax.tree.map(lambda w, c=c: w[:, c], heads), own_features)
        np.testing.assert_allclose(outputs[:, :, c], alone, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b, c=c: np.testing.assert_allclose(a[c], b, rtol=1e-5, atol=1e-6), moved, own_moved)
    if trunk:
        assert jax.tree.leaves(jax.tree.map(lambda w: (w[0] != w[1]).any(), trunk)).count(True)  # drawn apart


@pytest.mark.parametrize("shape", [(67, 512), (96, 24), (24, 24), (1, 5), (1, 1)])
def test_kernels_begin_orthonormal(shape):
    kernel = jax.jit(orthogonal, static_argnums=1)(jax.random.key(3), shape)
    assert kernel.shape == shape
    product = kernel.T @ kernel if shape[0] >= shape[1] else kernel @ kernel.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=2e-5)


def test_no_direction_is_preferred_at_first():
    """Signs too: the entries of many such matrices have mean 0, and share the length of a column."""
    kernels = jax.vmap(lambda key: orthogonal(key, (4, 2)))(jax.random.split(jax.random.key(0), 4_000))
    np.testing.assert_allclose(kernels.mean(axis=0), 0, atol=0.04)  # five deviations
    np.testing.assert_allclose(jnp.square(kernels).mean(axis=0), 1 / 4, atol=0.02)


def test_drawing_kernels_calls_nothing_that_waits_for_other_threads():
    """JAX's QR decomposition does, in the very threads it waits for; two seeds at a time then stand still."""
    network = SimbaV2(width=8, blocks=1).build(2)
    drawn = jax.jit(lambda key: networks.init(network, key, jnp.zeros((1, 3)), 2)).lower(jax.random.key(0))
    assert "custom_call" not in drawn.as_text().replace("@Sharding", "")
