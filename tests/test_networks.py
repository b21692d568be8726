"""Networks: two lowerings of a convolution, heads as an axis, initial values, normalisation, a user's own module."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharedq.errors import SharedqError
from sharedq.networks import Convolutional, Dense, FlaxTrunk, Impala, Table
from sharedq.networks import network as networks
from sharedq.networks.batch_renormalisation import BatchRenorm
from sharedq.networks.convolution import convolve, traced_natively
from sharedq.networks.heads import linear
from sharedq.networks.initialisation import sparse
from sharedq.networks.normalisation import activate

pytestmark = pytest.mark.usefixtures("hasty")  # compiling is what takes time here

KEY = jax.random.key(0)
initial = jax.jit(networks.init, static_argnums=(0, 3))

SHAPES = [  # batch, height, width, channels, kernel height, kernel width, filters, stride
    (2, 10, 10, 4, 3, 3, 5, 1),  # MinAtar's
    (2, 20, 17, 2, 8, 8, 3, 4),  # the first of Atari's: the stride divides the kernel
    (2, 11, 9, 2, 3, 5, 4, 2),  # it does not
    (1, 5, 5, 2, 1, 1, 3, 3),  # a kernel smaller than the stride
    (1, 4, 4, 3, 4, 4, 2, 4),  # one place only
]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_lowerings_of_a_convolution_are_the_same_function(shape, padding):
    batch, height, width, channels, rows, columns, filters, stride = shape
    x = jax.random.normal(KEY, (batch, height, width, channels))
    kernel = jax.random.normal(jax.random.key(1), (rows, columns, channels, filters))

    def value_and_slopes(platform):
        def total(x, kernel):
            y = convolve(x, kernel, stride, padding, platform)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, kernel)

    (_, ours), our_slopes = value_and_slopes("cpu")
    (_, native), slopes = value_and_slopes("gpu")
    assert ours.shape == native.shape
    np.testing.assert_allclose(ours, native, atol=3e-5)
    for our_slope, slope in zip(our_slopes, slopes):
        np.testing.assert_allclose(our_slope, slope, atol=3e-4)


def test_h_heads_are_h_separate_dense_layers():
    init_heads, heads = linear(3)
    features = jax.random.normal(KEY, (5, 7))
    params = init_heads(jax.random.key(1), features, 4)
    params["bias"] = jax.random.normal(jax.random.key(2), params["bias"].shape)
    together = heads(params, features)
    assert together.shape == (4, 5, 3)
    for h in range(4):
        own = {"params": {name: weight[h] for name, weight in params.items()}}
        np.testing.assert_allclose(together[h], nn.Dense(3).apply(own, features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 10, 50])
def test_heads_are_drawn_as_the_columns_of_one_layer(count):
    init_heads, _ = linear(10)
    params = init_heads(KEY, jax.ShapeDtypeStruct((1, 512), jnp.float32), count)
    assert params["kernel"].shape == (count, 512, 10)
    assert params["bias"].shape == (count, 10)
    assert not params["bias"].any()
    limit = math.sqrt(6 / (512 + 10 * count))
    assert 0.99 * limit < jnp.abs(params["kernel"]).max() <= limit


def test_the_trunk_does_not_depend_on_how_many_heads_are_drawn():
    network, x = Dense((8,)).build(2), jnp.zeros((1, 3))
    one, _, _ = networks.init(network, KEY, x, 1)
    many, heads, _ = networks.init(network, KEY, x, 5)
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert heads["kernel"].shape == (5, 8, 2)


def count_of(network, shape, dtype, heads):
    x = jax.ShapeDtypeStruct((1, *shape), dtype)
    trunk, heads, _ = jax.eval_shape(lambda x: networks.init(network, KEY, x, heads), x)
    return sum(x.size for x in jax.tree.leaves((trunk, heads)))


def test_the_minatar_network_has_the_parameters_of_its_closed_form():
    channels, actions = 4, 6
    closed = (9 * channels * 16 + 16) + (8 * 8 * 16 * 128 + 128) + (128 * actions + actions)
    assert count_of(Convolutional().build(actions), (10, 10, channels), jnp.bool_, 1) == closed


def atari(actions=10):
    return Convolutional((32, 64, 64), (8, 4, 3), (4, 2, 1), "SAME", (512,), norm="layer").build(actions)


@pytest.mark.parametrize(
    ("heads", "parameters"), [(1, 4_049_898), (2, 4_055_028), (5, 4_070_418), (10, 4_096_068), (50, 4_301_268)]
)
def test_the_atari_network_has_the_parameters_of_the_public_code(heads, parameters):
    assert count_of(atari(), (84, 84, 4), jnp.uint8, heads) == parameters


def test_layer_norm_is_over_channels_only():
    frames = jax.ShapeDtypeStruct((1, 84, 84, 4), jnp.uint8)
    trunk, _, _ = jax.eval_shape(lambda x: networks.init(atari(), KEY, x, 1), frames)
    assert [trunk[f"LayerNorm_{i}"]["scale"].shape for i in range(4)] == [(32,), (64,), (64,), (512,)]
    network = Convolutional((4,), (1,), (1,), "SAME", (), norm="layer").build(2)
    trunk, _, batch_stats = networks.init(network, KEY, jnp.zeros((1, 3, 3, 2)), 1)
    x = jax.random.normal(KEY, (1, 3, 3, 2))
    features, _ = network.trunk(trunk, batch_stats, x, True)
    elsewhere, _ = network.trunk(trunk, batch_stats, x.at[0, 2, 2].add(5.0), True)
    np.testing.assert_array_equal(features[:, :-4], elsewhere[:, :-4])  # each position is normalised by itself
    assert (features[:, -4:] != elsewhere[:, -4:]).any()


def test_batch_norm_moves_its_running_statistics_in_training_and_uses_them_in_evaluation():
    network = Dense((6,), norm="batch").build(2)
    x = 3 + jax.random.normal(KEY, (64, 4))
    trunk, _, fresh = networks.init(network, KEY, x, 1)
    in_training, moved = network.trunk(trunk, fresh, x, True)
    np.testing.assert_allclose(in_training.mean(0), np.zeros(6), atol=1e-5)  # by the batch's own batch_stats

    hidden = nn.relu(x @ trunk["Dense_0"]["kernel"])  # the bias is 0 at first
    mean = moved["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.01 * hidden.mean(0), rtol=1e-4, atol=1e-6)  # flax's momentum is 0.99

    evaluated, unmoved = network.trunk(trunk, moved, x, False)
    jax.tree.map(np.testing.assert_array_equal, unmoved, moved)
    by_hand = (hidden - mean) / jnp.sqrt(moved["BatchNorm_0"]["var"] + 1e-5)
    np.testing.assert_allclose(evaluated, by_hand, rtol=1e-4, atol=1e-5)
    alone, _ = network.trunk(trunk, moved, x[:1], False)
    np.testing.assert_allclose(alone[0], evaluated[0], rtol=1e-5, atol=1e-6)  # the others in the batch do not matter


def test_the_atari_network_has_7744_features_before_its_dense_layer():
    maps = Convolutional((32, 64, 64), (8, 4, 3), (4, 2, 1), "SAME", ()).build(10)
    frames = jax.ShapeDtypeStruct((1, 84, 84, 4), jnp.uint8)
    trunk, _, _ = jax.eval_shape(lambda x: networks.init(maps, KEY, x, 1), frames)
    features, _ = jax.eval_shape(lambda trunk, x: maps.trunk(trunk, {}, x, True), trunk, frames)
    assert features.shape == (1, 7744)


def test_batch_norm_is_per_channel_unless_the_public_codes_form_is_asked_for():
    pixels = jax.random.randint(KEY, (5, 6, 6, 2), 0, 256).astype(jnp.uint8)
    layers = ((3, 4), (3, 2), (1, 2), "SAME", (7,))

    def statistics_of(norm):
        network = Convolutional(*layers, norm=norm).build(2)
        trunk, _, fresh = initial(network, KEY, pixels, 1)
        assert network.normalises_batch
        return trunk, fresh, jax.jit(network.trunk, static_argnums=3)(trunk, fresh, pixels, True)[1]

    _, fresh, _ = statistics_of("batch")
    assert [fresh[f"BatchNorm_{i}"]["mean"].shape for i in range(len(fresh))] == [(3,), (4,), (7,)]
    trunk, fresh, moved = statistics_of("batch_pixel")  # the input, a map, the last map when flat, the dense layer
    assert [fresh[f"BatchNorm_{i}"]["mean"].shape for i in range(len(fresh))] == [(6, 6), (6, 6), (36,), (7,)]
    x = pixels / 255
    np.testing.assert_allclose(moved["BatchNorm_0"]["mean"], 0.01 * x.mean(axis=(0, 3)), rtol=1e-4)
    x = (x - x.mean((0, 3), keepdims=True)) / jnp.sqrt(x.var((0, 3), keepdims=True) + 1e-5)
    hidden = nn.relu(convolve(x, trunk["Convolution_0"]["kernel"], 1, "SAME"))  # the bias is 0 at first
    np.testing.assert_allclose(moved["BatchNorm_1"]["mean"], 0.01 * hidden.mean(axis=(0, 3)), rtol=1e-3, atol=1e-6)


HALVES = [
    Dense((8,), compute="bfloat16"),
    Convolutional((3, 4), (4, 3), (2, 1), "SAME", (5,), norm="layer", compute="bfloat16"),
    Convolutional((3, 4), (4, 3), (2, 1), "SAME", (5,), norm="batch_pixel", compute="bfloat16"),
    Impala((3,), (5,), norm="layer", compute="bfloat16"),
]


@pytest.mark.parametrize("settings", HALVES, ids=str)
def test_bfloat16_is_in_the_products_only(settings):
    """Parameters, gradients, batch_stats and values are float32, and near those of a network that computes in it."""
    pixels = jax.random.randint(KEY, (6, 8, 8, 2), 0, 256).astype(jnp.uint8)
    drawn = initial(settings.build(3), KEY, pixels, 2)

    def run(settings):
        network = settings.build(3)

        def loss(trunk, heads):
            features, moved = network.trunk(trunk, drawn[2], pixels, True)
            values = network.heads(heads, features)
            return jnp.square(values).sum(), (values, moved)

        traced = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True)).trace(*drawn[:2])
        return traced.lower().compile()(*drawn[:2]), str(traced.jaxpr)

    found, program = run(settings)
    expected, _ = run(dataclasses.replace(settings, compute="float32"))
    assert {x.dtype for x in jax.tree.leaves((drawn, found))} == {jnp.dtype("float32")}
    values, exact = found[1][0], expected[1][0]
    assert (values != exact).any()
    np.testing.assert_allclose(values, exact, atol=0.03 * jnp.abs(exact).max())
    products = [line for line in program.splitlines() if "= dot_general[" in line]
    assert products
    assert all(":bf16[" in line for line in products)


@pytest.mark.parametrize("settings", [Dense((5,)), Convolutional((2,), (2,), (1,), hidden=(5,)), Table()], ids=str)
def test_bytes_are_pixels_and_scaled_to_one(settings):
    network = settings.build(3)
    pixels = jax.random.randint(KEY, (2, 4, 4, 1), 0, 256).astype(jnp.uint8)
    trunk, _, batch_stats = networks.init(network, KEY, pixels, 1)
    from_bytes, _ = network.trunk(trunk, batch_stats, pixels, False)
    from_floats, _ = network.trunk(trunk, batch_stats, pixels.astype(jnp.float32) / 255, False)
    np.testing.assert_array_equal(from_bytes, from_floats)
    assert from_bytes.any()


def test_a_table_is_a_table():
    network = Table().build(2)
    trunk, heads, _ = networks.init(network, KEY, jnp.zeros((1, 3)), 1)
    assert trunk == {}
    assert not heads["kernel"].any()
    table = jnp.arange(6.0).reshape(1, 3, 2)
    features, _ = network.trunk({}, {}, jnp.eye(3), True)
    np.testing.assert_array_equal(network.heads({"kernel": table}, features), table)


class OwnTrunk(nn.Module):
    """A module as a user writes it, without the argument `train`."""

    width: int = 5

    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(self.width)(x))


class OwnNormalisedTrunk(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))


WIDE = OwnTrunk(9)


@pytest.mark.parametrize(("name", "width"), [("OwnTrunk", 5), ("WIDE", 9), ("OwnNormalisedTrunk", 4)])
def test_a_users_flax_module_is_found_by_its_import_string(name, width):
    network = FlaxTrunk(f"{__name__}:{name}").build(2)
    trunk, heads, batch_stats = networks.init(network, KEY, jnp.zeros((3, 6)), 2)
    features, moved = network.trunk(trunk, batch_stats, jax.random.normal(KEY, (3, 6)), True)
    assert features.shape == (3, width)
    assert network.heads(heads, features).shape == (2, 3, 2)
    assert network.normalises_batch == bool(batch_stats) == (name == "OwnNormalisedTrunk")
    assert jax.tree.structure(moved) == jax.tree.structure(batch_stats)


def test_a_module_at_hand_becomes_its_import_string():
    assert FlaxTrunk.of(OwnTrunk) == FlaxTrunk(f"{__name__}:OwnTrunk")
    assert FlaxTrunk.of(OwnNormalisedTrunk()) == FlaxTrunk(f"{__name__}:OwnNormalisedTrunk")
    with pytest.raises(SharedqError, match=r"OwnTrunk has settings \(width\)"):
        FlaxTrunk.of(OwnTrunk(7))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "is not of the form"),
        ("no_such_module:Trunk", "no module 'no_such_module'"),
        (f"{__name__}:KEY", "not a flax"),
    ],
)
def test_what_is_no_module_is_refused(reference, message):
    with pytest.raises(SharedqError, match=message):
        FlaxTrunk(reference).build(2)


@pytest.mark.parametrize(("shape", "kept"), [((3, 3, 4, 5), 3), ((30, 7), 3), ((5, 6), 1)])
def test_sparse_weights_leave_a_tenth_of_each_units_inputs_and_one_at_least(shape, kept):
    kernel = np.asarray(sparse(jax.random.key(0), shape)).reshape(-1, shape[-1])
    np.testing.assert_array_equal((kernel != 0).sum(axis=0), kept)
    assert np.abs(kernel).max() <= 1 / np.sqrt(len(kernel))
    assert len({tuple(np.nonzero(column)[0]) for column in kernel.T}) > 1, "each unit has inputs of its own"


def test_layer_norm_without_parameters_is_over_the_whole_map_or_over_the_channels_of_a_pixel():
    x = jax.random.normal(jax.random.key(0), (3, 4, 5, 6)) * 7 + 2
    whole, channels = activate(x, "layer_whole", True), activate(x, "layer_channels", True)
    np.testing.assert_allclose(whole, jax.nn.relu(jax.nn.standardize(x, (1, 2, 3))), atol=1e-5)
    np.testing.assert_allclose(channels, jax.nn.relu(jax.nn.standardize(x, -1)), atol=1e-5)


def test_the_streaming_network_has_the_parameters_of_its_closed_form():
    network = Convolutional(norm="layer_whole", activation="leaky_relu", init="sparse").build(6)
    trunk, heads, _ = networks.init(network, jax.random.key(0), jnp.zeros((1, 10, 10, 4)), 1)
    assert sum(w.size for w in jax.tree.leaves((trunk, heads))) == 132_566
    features, _ = network.trunk(trunk, {}, jax.random.normal(jax.random.key(1), (2, 10, 10, 4)), True)
    below, above = features.min(axis=1), features.max(axis=1)
    assert (below < 0).all(), "leaky"
    assert (-below < above).all(), "and much less below than above"


def test_batch_renormalisation_is_plain_until_its_statistics_are_trusted_and_then_nearly_theirs():
    x = 1 + 3 * jax.random.normal(KEY, (64, 2))
    layer = BatchRenorm(use_running_average=False)
    variables = layer.init(KEY, x)
    assert not variables["batch_stats"]["batches"]
    outputs, moved = layer.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs, (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3), atol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.01 * x.mean(0), rtol=1e-4)
    assert moved["batch_stats"]["batches"] == 1

    running = {"mean": jnp.array([0.5, 40.0]), "var": jnp.array([4.0, 0.01]), "batches": jnp.float32(100_000)}
    trusted = {**variables, "batch_stats": running}
    outputs, _ = layer.apply(trusted, x, mutable=["batch_stats"])
    theirs = BatchRenorm(use_running_average=True).apply(trusted, x)
    np.testing.assert_allclose(outputs[:, 0], theirs[:, 0], atol=1e-4)  # within the bounds: the same
    cut = (x[:, 1] - x[:, 1].mean()) / jnp.sqrt(x[:, 1].var() + 1e-3) * 3 - 5  # its scale and shift are bounded
    np.testing.assert_allclose(outputs[:, 1], cut, atol=1e-4)
    slope = jax.grad(lambda x: layer.apply(trusted, x, mutable=["batch_stats"])[0][:, 0].sum())(x)
    np.testing.assert_allclose(slope, 0, atol=1e-5)  # a common shift of the batch changes nothing, as in the plain one


def test_whoever_traces_a_function_chooses_how_convolutions_are_lowered():
    network = Impala((3,), (7,)).build(2)
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    trunk, batch_stats = network.init_trunk(KEY, x)

    def features(trunk, x):
        return network.trunk(trunk, batch_stats, x, False)[0]

    plain, native = jax.jit(features), jax.jit(traced_natively(features))
    for operation in ("stablehlo.convolution", "stablehlo.reduce_window"):
        assert operation not in plain.lower(trunk, x).as_text()
        assert operation in native.lower(trunk, x).as_text()
    np.testing.assert_allclose(plain(trunk, x), native(trunk, x), rtol=1e-4, atol=1e-5)
