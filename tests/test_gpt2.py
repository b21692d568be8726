"""GPT-2 against another implementation, against loops, and against itself read in one go."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq.errors import SharedqError
from sharedq.networks import GPT2, gpt2
from sharedq.runs import tensor_file

FIXTURES = Path(__file__).parent / "fixtures"
PUBLISHED = FIXTURES / "gpt2.safetensors"
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("hasty")  # of most tests, compiling is all of the time
SMALL = GPT2(layers=3, width=24, attention_heads=3, positions=16, weights=str(PUBLISHED))  # as in gpt2_reference.py
TINY = GPT2(layers=2, width=8, attention_heads=2, positions=12)
TEXT = 11  # tokens
TOKENS = jax.random.randint(KEY, (3, TEXT), 0, 10).astype(jnp.uint8)
small, tiny = SMALL.language_model(100), TINY.language_model(10)
half = dataclasses.replace(TINY, compute="bfloat16").language_model(10)
read, read_half, read_dropped = map(jax.jit, (tiny.features, half.features, tiny.features))  # each compiles once


@pytest.fixture(scope="module")
def params():
    """Weights that are far from the initial ones, so that each of them matters."""
    random = np.random.default_rng(0)
    form = jax.eval_shape(tiny.init, KEY)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * random.standard_normal(x.shape), x.dtype), form)


@pytest.fixture(scope="module")
def published():
    return dict(tensor_file.read_header(np.fromfile(PUBLISHED, np.uint8))[0])


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_gpt2_small_with_the_symbols_of_wordle_has_the_known_number_of_parameters():
    assert count(jax.eval_shape(GPT2().language_model(35).init, KEY)) == 85_869_312
    assert count(jax.eval_shape(GPT2().language_model(50_257).init, KEY)) == 124_439_808  # as published


@pytest.mark.parametrize("unrolled", [0, 3])
def test_logits_are_those_of_another_implementation(unrolled, monkeypatch):
    monkeypatch.setattr(gpt2, "UNROLLED", unrolled)
    with np.load(FIXTURES / "gpt2_logits.npz") as reference:
        tokens, logits = reference["tokens"], reference["logits"]
    params = small.init(KEY)
    found = jax.jit(lambda params, tokens: small.logits(params, small.features(params, tokens)))(params, tokens)
    close(found, logits)
    assert np.abs(logits).max() > 3  # so that the tolerance is a small one


def test_weights_begin_as_in_gpt2():
    layers, width = 8, 64
    params = jax.jit(GPT2(layers=layers, width=width, attention_heads=4).language_model(500).init)(KEY)
    blocks = params["blocks"]
    for drawn, deviation in (
        (params["tokens"], 0.02),
        (params["positions"], 0.02),
        (blocks["attention"]["kernel"], 0.02),
        (blocks["mlp"]["kernel"], 0.02),
        (blocks["attention_out"]["kernel"], 0.02 / math.sqrt(2 * layers)),
        (blocks["mlp_out"]["kernel"], 0.02 / math.sqrt(2 * layers)),
    ):
        assert abs(drawn.mean()) < 5 * deviation / math.sqrt(drawn.size)
        assert abs(drawn.std() / deviation - 1) < 5 / math.sqrt(2 * drawn.size)
    for part in (params["norm"], *blocks.values()):
        assert (part["bias"] == 0).all()
        assert (part.get("scale", jnp.ones(())) == 1).all()
    assert not np.allclose(blocks["mlp"]["kernel"][0], blocks["mlp"]["kernel"][1])  # layers differ


def test_a_block_by_hand(params):
    """One layer for one text, token by token and head by head, in float64."""
    model = dataclasses.replace(TINY, layers=1).language_model(10)
    params = params | {"blocks": jax.tree.map(lambda x: x[:1], params["blocks"])}
    plain = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    block = jax.tree.map(lambda x: x[0], plain["blocks"])

    def norm(part, x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * part["scale"] + part["bias"]

    def linear(part, x):
        return x @ part["kernel"] + part["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    xs = [plain["tokens"][token] + plain["positions"][t] for t, token in enumerate(TOKENS[0])]
    three = [linear(block["attention"], norm(block["attention_norm"], x)) for x in xs]
    features = jax.jit(model.features)(params, TOKENS[:1])
    for t, x in enumerate(xs):
        mixed = []
        for head in range(2):
            query, key, value = (slice(8 * part + 4 * head, 8 * part + 4 * head + 4) for part in range(3))
            weights = np.exp([three[t][query] @ three[s][key] / np.sqrt(4) for s in range(t + 1)])
            mixed.extend(sum(w * three[s][value] for s, w in enumerate(weights / weights.sum())))
        x = x + linear(block["attention_out"], np.array(mixed))
        x = x + linear(block["mlp_out"], gelu(linear(block["mlp"], norm(block["mlp_norm"], x))))
        close(features[0, t], norm(plain["norm"], x))


def test_features_do_not_depend_on_what_follows(params):
    whole, changed = read(params, TOKENS), read(params, TOKENS.at[:, 4:].set((TOKENS[:, 4:] + 1) % 10))
    np.testing.assert_array_equal(whole[:, :4], changed[:, :4])
    assert (jnp.abs(whole[:, 4:] - changed[:, 4:]).max(-1) > 1e-3).all()


CACHED = {  # by the precision: how close it is, and the functions
    "float32": (1e-5, read, jax.jit(tiny.start), jax.jit(tiny.extend)),
    "bfloat16": (0.1, read_half, jax.jit(half.start), jax.jit(half.extend)),
}


@given(
    lengths=st.lists(st.integers(1, 7), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
    compute=st.sampled_from(list(CACHED)),
)
def test_going_on_with_texts_equals_reading_them_whole(params, lengths, seed, compute):
    """The texts have different lengths, and what pads them cannot be seen."""
    tolerance, whole, start, extend = CACHED[compute]
    rows, lengths, random = np.arange(3), np.array(lengths), np.random.default_rng(seed)
    texts = random.integers(0, 10, (3, TEXT)).astype(np.uint8)
    features, cache = start(params, texts, lengths)
    for token in random.integers(0, 10, (4, 3)).astype(np.uint8):
        close(features, whole(params, texts)[rows, lengths - 1], tolerance)
        features, cache = extend(params, cache, token)
        texts[rows, lengths] = token
        lengths = lengths + 1
    close(features, whole(params, texts)[rows, lengths - 1], tolerance)
    assert cache.lengths.tolist() == lengths.tolist()
    assert cache.keys.dtype == compute and cache.keys.shape == (2, 3, 2, 11, 4)


def test_dropout_needs_a_key_and_repeats_with_it(params):
    one, other = jax.random.split(KEY)
    np.testing.assert_array_equal(read_dropped(params, TOKENS, one), read_dropped(params, TOKENS, one))
    assert not np.allclose(read_dropped(params, TOKENS, one), read_dropped(params, TOKENS, other))
    assert not np.allclose(read_dropped(params, TOKENS, one), read(params, TOKENS))
    x = jnp.ones(3)
    assert TINY._dropped(x, None, "embedding") is x and GPT2(dropout=0.0)._dropped(x, KEY, "embedding") is x


def test_every_place_of_every_layer_has_dropout_with_a_key_of_its_own(params, monkeypatch):
    keys, shapes, bernoulli = [], [], jax.random.bernoulli

    def noted(key, share, shape):
        shapes.append(shape)
        jax.debug.callback(lambda words: keys.append(tuple(words.tolist())), jax.random.key_data(key))
        return bernoulli(key, share, shape)

    monkeypatch.setattr(jax.random, "bernoulli", noted)
    jax.jit(lambda *given: tiny.features(*given))(params, TOKENS, KEY)
    jax.effects_barrier()
    tokens, pairs = (3 * TEXT, 8), (3, 2, TEXT, TEXT)
    assert shapes == [(3, TEXT, 8), pairs, tokens, tokens]  # embedding, then attention and both branches of one block
    assert len(keys) == len(set(keys)) == 1 + 2 * 3


def test_dropout_changes_no_mean():
    x = jnp.array([1.0, -2.0, 5.0])
    drawn = jax.vmap(lambda key: TINY._dropped(x, key, "embedding"))(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(drawn.mean(0), x, rtol=0.02)
    close(jnp.unique(drawn[:, 2]), [0, 5 / 0.9])


def test_every_weight_learns(params):
    def loss(params):
        logits = tiny.logits(params, tiny.features(params, TOKENS[:, :7]))[:, :-1]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[:, 1:7, None].astype(int), -1).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    assert all((x != 0).any() and jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert all((x[layer] != 0).any() for x in jax.tree.leaves(gradient["blocks"]) for layer in range(2))
    assert (gradient["positions"][7:] == 0).all()


def test_bfloat16_is_close_to_float32_and_gives_float32(params):
    features = read_half(params, TOKENS)
    assert features.dtype == half.logits(params, features).dtype == jnp.float32
    assert 1e-4 < jnp.abs(features - read(params, TOKENS)).mean() < 0.03


def test_a_text_that_is_too_long_is_refused(params):
    message = r"a text of 13 tokens needs more than the 12 of network\.positions"
    with pytest.raises(SharedqError, match=message):
        tiny.features(params, jnp.zeros((1, 13), jnp.int32))


# published weights


def reading(arrays, tmp_path, vocabulary=100, **settings):
    """The weights that a model begins with when a file holds these arrays."""
    tensor_file.write(tmp_path / "w.safetensors", arrays)
    settings = dataclasses.replace(SMALL, weights=str(tmp_path / "w.safetensors"), **settings)
    return settings.language_model(vocabulary).init(KEY)


def test_files_with_other_names_and_numbers_hold_the_same_weights(published, tmp_path):
    plain = small.init(KEY)
    masks = {f"h.{layer}.attn.masked_bias": np.full((), -1e4, np.float32) for layer in range(3)}
    prefixed = {f"transformer.{name}": array for name, array in (published | masks).items()}
    again = reading(prefixed | {"lm_head.weight": published["wte.weight"]}, tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, again))
    halves = {name: array.astype(np.float16) for name, array in published.items()}
    again = reading(halves, tmp_path)
    assert {x.dtype.name for x in jax.tree.leaves(again)} == {"float32"}
    jax.tree.map(lambda a, b: close(a, b, 1e-3), plain, again)


def test_drawn_and_published_weights_have_the_same_form():
    drawn = dataclasses.replace(SMALL, weights=None).language_model(100).init
    assert jax.eval_shape(drawn, KEY) == jax.eval_shape(small.init, KEY)


def test_fewer_positions_than_published_are_the_first_ones(published, tmp_path):
    params = reading(published, tmp_path, positions=5)
    np.testing.assert_array_equal(params["positions"], published["wpe.weight"][:5])


def test_the_symbols_of_wordle_begin_as_tokens_of_the_published_vocabulary(published, tmp_path):
    """GPT-2 numbers bytes that print before all others, in the order of their codes."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    order = prints + [byte for byte in range(256) if byte not in prints]
    one = GPT2(layers=1, width=1, attention_heads=1, positions=2)
    cut = {"h.0.attn.c_attn": (1, 3), "h.0.attn.c_proj": (1, 1), "h.0.mlp.c_fc": (1, 4), "h.0.mlp.c_proj": (4, 1)}
    arrays = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in cut.items()}
    arrays |= {f"{name}.bias": np.zeros(shape[1], np.float32) for name, shape in cut.items()}
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        arrays |= {f"{norm}.{name}": np.zeros(1, np.float32) for name in ("weight", "bias")}
    arrays |= {"wpe.weight": np.zeros((2, 1), np.float32), "wte.weight": np.arange(50_257, dtype=np.float32)[:, None]}
    size = {field: getattr(one, field) for field in ("layers", "width", "attention_heads", "positions")}
    rows = reading(arrays, tmp_path, vocabulary=35, **size)["tokens"][:, 0]
    written = "".join("<pad>" if row == 50_256 else chr(order[int(row)]) for row in rows)
    assert written == "abcdefghijklmnopqrstuvwxyzGBY<pad>:\n^>."


def without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def also(name, array):
    return lambda arrays: arrays | {name: array}


REMEDY = "set --network.layers, --network.width and the file to those of one model"
BAD = {
    "no embedding": (without("wte.weight"), {}, "has no 'wte.weight'"),
    "a missing bias": (without("h.2.mlp.c_fc.bias"), {}, f"has no 'h.2.mlp.c_fc.bias': {REMEDY}"),
    "too few layers": (dict, {"layers": 4}, f"has no 'h.3.attn.c_attn.weight': {REMEDY}"),
    "too many layers": (dict, {"layers": 2}, f"has 'h.2.attn.c_attn.bias', which is not in this network: {REMEDY}"),
    "another width": (dict, {"width": 12}, rf"'wte.weight' of .* has shape \[100, 24\], not \[any, 12\]: {REMEDY}"),
    "a transposed kernel": (
        lambda arrays: also("h.1.mlp.c_fc.weight", arrays["h.1.mlp.c_fc.weight"].T.copy())(arrays),
        {},
        r"'h.1.mlp.c_fc.weight' of .* has shape \[96, 24\], not \[24, 96\]",
    ),
    "another rank": (also("ln_f.bias", np.zeros((24, 1), np.float32)), {}, r"'ln_f.bias' .* \[24, 1\], not \[24\]"),
    "whole numbers": (
        also("ln_f.bias", np.zeros(24, np.int32)),
        {},
        "'ln_f.bias' of .* holds int32: choose a file of floating",
    ),
    "an extra name": (
        also("classifier.weight", np.zeros(3, np.float32)),
        {},
        "has 'classifier.weight', which is not in this network",
    ),
    "names with and without prefix": (
        lambda arrays: also("transformer.wte.weight", arrays["wte.weight"])(arrays),
        {},
        "has no 'transformer.wpe.weight'",
    ),
    "a head of its own": (
        lambda arrays: also("lm_head.weight", arrays["wte.weight"] + 1)(arrays),
        {},
        "'lm_head.weight' of .* is not equal to 'wte.weight'",
    ),
    "too few positions": (dict, {"positions": 17}, "has 16 positions: set --network.positions to at most as many"),
    "a small vocabulary": (
        dict,
        {"vocabulary": 101},
        "has 100 tokens and the texts have 101: leave --network.weights",
    ),
    "another vocabulary": (dict, {"vocabulary": 35}, "has 100 tokens and the texts have 35: leave --network.weights"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_of_another_network_is_refused(name, published, tmp_path):
    change, settings, message = BAD[name]
    settings = {"attention_heads": 3, **settings}
    with pytest.raises(SharedqError, match=message) as error:
        reading(change(published), tmp_path, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*w\.safetensors \(No such file"),
        (b"", "is no safetensors file"),
        (b"\x80\x04K\x05.", r"is no safetensors file \(its header does not lie in the file\)"),
        (b"\2" + bytes(7) + b"[]", "is no safetensors file"),
        (b"\7" + bytes(7) + b'{"a":1}', "is no safetensors file"),
        (PUBLISHED.read_bytes()[:-1], r"is no safetensors file \('.*' ends behind the end of the file\)"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(content, message, tmp_path):
    file = tmp_path / "w.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SharedqError, match=message):
        dataclasses.replace(SMALL, weights=str(file)).pinned()


def test_an_agent_that_is_trained_needs_its_file_no_more():
    """Its weights are loaded into others of their form."""
    gone = dataclasses.replace(SMALL, weights="gone.safetensors").language_model(100).init
    assert jax.eval_shape(gone, KEY) == jax.eval_shape(small.init, KEY)


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "network.layers must be at least 1, not 0"),
        ({"layers": 101}, "network.layers can be 100 at most, not 101"),
        ({"width": 100}, "network.width must be a multiple of the 12 attention heads, not 100"),
        ({"attention_heads": 0}, "network.attention_heads must be at least 1, not 0"),
        ({"positions": 0}, "network.positions must be at least 1, not 0"),
        ({"dropout": 1.0}, "network.dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "network.dropout must be at least 0 and below 1, not -0.1"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, message):
    with pytest.raises(SharedqError, match=message):
        GPT2(**settings)


def test_it_serves_language_only():
    with pytest.raises(SharedqError, match="network 'gpt2' reads text, as algorithms ilql and bc do"):
        GPT2().build(3)
