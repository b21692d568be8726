"""The residual network: against the same sums written out, its parameters, its pooling, its normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.errors import SharedqError
from sharedq.networks import Impala
from sharedq.networks import network as networks
from sharedq.networks.convolution import max_pool
from sharedq.targets import OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.trees import count

KEY = jax.random.key(0)
FRAMES = jax.ShapeDtypeStruct((1, 84, 84, 4), jnp.uint8)
initial = jax.jit(networks.init, static_argnums=(0, 3))


@pytest.mark.parametrize(
    ("target", "held"),
    [
        (OnlineNetwork(), 4_361_386),
        (TargetNetwork(), 8_722_772),
        (SharedHeads(heads=1), 4_366_516),
        (SharedHeads(heads=4), 4_381_906),
        (SharedHeads(heads=9), 4_407_556),
        (SharedHeads(heads=49), 4_612_756),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_the_atari_agents_hold_the_parameters_of_the_public_code(target, held):
    init = target.build(Impala(norm="layer").build(10)).init
    params, state = jax.eval_shape(init, jax.eval_shape(lambda: KEY), FRAMES)
    assert count(params) + count(state["target_params"]) == held


def conv(x, layer):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=numbers) + layer["bias"]


def normed(x, layer):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * layer["scale"] + layer["bias"]


def written_out(params, x):
    """The network of the public code with LayerNorm, from its description."""
    x = x / 255
    for stack in (params[name] for name in sorted(params) if name.startswith("Stack")):
        x = nn.max_pool(conv(x, stack["Convolution_0"]), (3, 3), (2, 2), "SAME")
        for block in range(2):
            y = nn.relu(normed(x, stack[f"LayerNorm_{block}"]))
            y = nn.relu(conv(y, stack[f"Convolution_{2 * block + 1}"]))
            x = x + conv(y, stack[f"Convolution_{2 * block + 2}"])
    x = nn.relu(normed(x, params["LayerNorm_0"])).reshape(len(x), -1)
    x = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    return nn.relu(normed(x, params["LayerNorm_1"]))


def moved(tree):
    """Every weight a little off its initial value, so that no zero bias and no scale of one can hide."""
    leaves, kind = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return kind.unflatten([x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)])


def test_the_trunk_is_the_sums_written_out_and_so_are_its_gradients():
    network = Impala((3,), (7,), norm="layer").build(2)
    pixels = jax.random.randint(KEY, (2, 13, 10, 4), 0, 256).astype(jnp.uint8)
    trunk = moved(initial(network, KEY, pixels, 1)[0])

    def both(features_of):
        def total(trunk):
            features = features_of(trunk)
            return jnp.sin(features).sum(), features

        return jax.jit(jax.value_and_grad(total, has_aux=True))(trunk)

    (_, ours), our_slopes = both(lambda trunk: network.trunk(trunk, {}, pixels, True)[0])
    (_, theirs), slopes = both(lambda trunk: written_out(trunk, pixels))
    assert ours.shape == (2, 7)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), our_slopes, slopes)


def test_convolutions_of_a_stack_are_drawn_by_xavier_and_those_within_blocks_by_lecun():
    trunk = initial(Impala((64,), ()).build(2), KEY, jnp.zeros((1, 4, 4, 32)), 1)[0]["Stack_0"]
    first, inner = trunk["Convolution_0"]["kernel"], trunk["Convolution_1"]["kernel"]
    limit = np.sqrt(6 / (9 * 32 + 9 * 64))
    assert 0.99 * limit < jnp.abs(first).max() <= limit
    assert jnp.std(inner) == pytest.approx(np.sqrt(1 / (9 * 64)), rel=0.02)
    assert jnp.abs(inner).max() > 2 * jnp.std(inner)  # a cut normal: a uniform draw ends at 1.73


@pytest.mark.parametrize("shape", [(2, 84, 84, 3), (1, 21, 5, 2), (1, 1, 2, 1)], ids=str)
@pytest.mark.parametrize("kind", ["distinct", "tied"])
def test_both_lowerings_of_the_pooling_are_the_same_function_with_the_same_gradient(shape, kind):
    """Equal values, which flat parts of an image give, have their gradient in the same place."""
    x = jax.random.normal(KEY, shape) if kind == "distinct" else jax.random.randint(KEY, shape, -2, 2) * 1.0

    def pooled(platform):
        def total(x):
            y = max_pool(x, 3, 2, platform)
            return (y * jnp.arange(1.0, y.size + 1).reshape(y.shape)).sum(), y

        return jax.jit(jax.value_and_grad(total, has_aux=True))(x)

    (_, ours), our_slope = pooled("cpu")
    (_, native), slope = pooled("gpu")
    np.testing.assert_array_equal(ours, native)
    np.testing.assert_allclose(our_slope, slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("norm", "shapes"),
    [
        ("batch", {"Stack_0/0": (3,), "Stack_0/1": (3,), "0": (3,), "1": (6,)}),
        ("batch_pixel", {"0": (8, 8), "Stack_0/0": (4, 4), "Stack_0/1": (4, 4), "1": (4 * 4 * 3,), "2": (6,)}),
    ],
)
def test_where_batch_norm_sits(norm, shapes):
    network = Impala((3,), (6,), norm).build(2)
    pixels = jax.random.randint(KEY, (4, 8, 8, 2), 0, 256).astype(jnp.uint8)
    trunk, _, fresh = initial(network, KEY, pixels, 1)
    found = {
        "/".join(part.key for part in path[:-1]).replace("BatchNorm_", ""): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(fresh)[0]
    }
    assert found == shapes
    features, batch_stats = jax.jit(network.trunk, static_argnums=3)(trunk, fresh, pixels, True)
    np.testing.assert_allclose(features.mean(0), np.zeros(6), atol=1e-5)
    assert network.normalises_batch
    if norm == "batch_pixel":  # the input's batch_stats, over the batch and the stacked frames
        np.testing.assert_allclose(
            batch_stats["BatchNorm_0"]["mean"], 0.01 * (pixels / 255).mean(axis=(0, 3)), rtol=1e-4
        )


@pytest.mark.parametrize("settings", [{"filters": ()}, {"filters": (0,)}, {"hidden": (-1,)}], ids=str)
def test_layers_without_units_are_refused(settings):
    with pytest.raises(SharedqError, match="at least one"):
        Impala(**settings)
