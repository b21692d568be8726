"""The spaces of Gymnasium: what observations and actions become, how images are read, and what is refused."""

import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces.utils import flatten

from sharedq.environments import Continuous, Discrete, EnvironmentSpec
from sharedq.environments.gymnasium_spaces import actions, observations
from sharedq.environments.spec import from_json, to_json
from sharedq.errors import SharedqError
from sharedq.imports import BrokenContract
from sharedq.networks import Convolutional, Dense
from sharedq.recipes import recipe

UNIT = spaces.Box(0.0, 1.0, (2,), np.float32)

# Dictionaries, tuples and vectors of actions

NESTED = spaces.Dict(
    speed=spaces.Box(-1, 1, (2,), np.float64),
    where=spaces.Tuple([spaces.Discrete(3, start=-1), spaces.Dict(map=spaces.Box(0, 255, (2, 2), np.uint8))]),
    keys=spaces.MultiBinary(3),
    gears=spaces.MultiDiscrete([2, 4], start=[5, 0]),
)


def test_dictionaries_and_tuples_are_flattened_as_gymnasium_does():
    NESTED.seed(0)
    seen = observations("mine", NESTED)
    assert seen.form == jax.ShapeDtypeStruct((2 + 3 + 4 + 3 + 6,), np.float32)
    for _ in range(9):
        sample = NESTED.sample()
        found = seen.read(sample)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, flatten(NESTED, sample).astype(np.float32))
    assert "'mine', a Dict, are flattened into one vector of 18 numbers" in seen.remark and "0 to 255" in seen.remark
    assert "255" not in observations("mine", spaces.Tuple([spaces.Discrete(2)])).remark
    assert observations("mine", UNIT).remark == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": np.zeros(3)}, r"gave observation\['speed'\] of float64\[3\] and declared float64\[2\]"),
        ({"where": (0,)}, r"gave observation\['where'\] of a tuple of 1 and declared a tuple of 2"),
        ({"where": (2, {"map": np.zeros((2, 2), np.uint8)})}, r"observation\['where'\]\[0\] of 2 .* from -1 to 1"),
        ({"gears": np.array([4, 0])}, r"\['gears'\] of \[4, 0\] and declared whole numbers \[2\] from 0 to 6"),
        ({"keys": np.array([0, 1, 2])}, r"\['keys'\] of \[0, 1, 2\] and declared whole numbers \[3\] from 0 to 1"),
        ({"more": 1}, "gave an observation of a dictionary with .*, more and declared a dictionary with .*"),
    ],
)
def test_a_part_that_is_not_as_declared_is_named(change, message):
    with pytest.raises(BrokenContract, match=message):
        observations("mine", NESTED).read({**NESTED.sample(), **change})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Sequence(UNIT), "observations of Sequence, which have no fixed size .*TransformObservation"),
        (spaces.Dict(a=spaces.Tuple([UNIT, spaces.Text(3)])), r"observations of Text at \['a'\]\[1\], which have"),
        (spaces.Dict({}), "observations of Dict, which have no fixed size"),
    ],
)
def test_observations_without_a_fixed_size_are_refused(space, message):
    with pytest.raises(SharedqError, match=message) as caught:
        observations("mine", space)
    assert "\n" not in str(caught.value)


def test_a_description_without_vectors_of_actions_is_as_it_was():
    plain = {"kind": "discrete", "n": 3, "first": -1}
    spec = EnvironmentSpec("mine", jax.ShapeDtypeStruct((2,), np.float32), Discrete(3, -1))
    assert to_json(spec)["actions"] == plain and from_json(to_json(spec)) == spec
    for damaged in ({"sizes": [2, 2], "starts": [0, 0]}, {"sizes": [3], "starts": []}, {"dtype": "float32"}):
        with pytest.raises(ValueError, match="3 actions are not the vectors"):
            from_json({**to_json(spec), "actions": {**plain, **damaged}})


# Images


def image(*shape, dtype=np.uint8):
    return spaces.Box(0, 255, shape, dtype)


@pytest.mark.parametrize("shape", [(3, 84, 96), (1, 8, 8), (4, 84, 84), (2, 5, 6), (6, 20, 20)])
def test_images_that_begin_with_channels_are_asked_about(shape):
    for dtype in (np.uint8, np.float32):
        with pytest.raises(SharedqError, match=r"looks like \[channels, height, width\].*channels first, or last if"):
            observations("mine", image(*shape, dtype=dtype))
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    first, last = (observations("mine", image(*shape), channels) for channels in ("first", "last"))
    assert first.form == jax.ShapeDtypeStruct((*shape[1:], shape[0]), np.uint8) and last.form.shape == shape
    np.testing.assert_array_equal(first.read(pixels), pixels.transpose(1, 2, 0))
    np.testing.assert_array_equal(last.read(pixels), pixels)


@pytest.mark.parametrize("shape", [(84, 84, 4), (210, 160, 3), (7, 7, 20), (2, 3, 4), (84, 84), (5,)])
def test_other_observations_are_not_asked_about(shape):
    assert observations("mine", image(*shape)).form.shape == shape


def test_only_images_have_their_channels_turned():
    with pytest.raises(SharedqError, match=r"channels first needs images of three axes, .*a Box \[8, 8\]: set it"):
        observations("mine", image(8, 8), "first")
    with pytest.raises(SharedqError, match=r"for environment\.channels 'fist': did you mean first"):
        recipe("lunar-lander").replace(**{"environment.channels": "fist"})


def test_a_grey_image_is_an_image_of_one_channel():
    network = Convolutional().build(3)
    of_one, of_grey = (
        jax.eval_shape(network.init_trunk, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), np.uint8))
        for shape in ((9, 9, 1), (9, 9))
    )
    assert of_one == of_grey


def test_a_dense_network_on_images_is_remarked_on():
    def remarks(shape, dtype=np.uint8, acts=None, network=None):
        spec = EnvironmentSpec("mine", jax.ShapeDtypeStruct(shape, dtype), acts or Discrete(2))
        return list((network or Dense()).remarks(None, spec))

    (remark,) = remarks((32, 32))
    assert "network is dense" in remark and "images [32, 32]: --network convolutional" in remark
    assert remarks((9, 9, 4)) == remarks((2000,)) == remarks((84, 84), np.float32) == []
    assert remarks((84, 84), acts=Continuous(-np.ones(1), np.ones(1))) == []  # SAC reads vectors only
    assert not hasattr(Convolutional(), "remarks")


# What is refused


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(3), "has actions of Text; they must be Discrete, a MultiDiscrete"),
        (spaces.MultiBinary((2, 2)), "has actions of MultiBinary; .* of one axis"),
        (
            spaces.Box(0, 255, (2,), np.uint8),
            "has actions of Box of uint8; they must be .* or a Box of floats: wrap it",
        ),
        (spaces.MultiBinary(10), "MultiBinary with 1,024 combinations, and up to 1,000 are .*TransformAction.* sac"),
        (spaces.MultiDiscrete([99] * 99), "MultiDiscrete with .* combinations, and up to 1,000 are enumerated: wrap"),
    ],
)
def test_other_actions_are_refused(space, message):
    with pytest.raises(SharedqError, match=message) as caught:
        actions("mine", space)
    assert "\n" not in str(caught.value)
