"""What is given becomes the array that is wanted, number for number, or is refused in one line."""

import jax
import numpy as np
import pytest

from sharedq.errors import NotFinite, SharedqError
from sharedq.validation import numbers


def of(dtype, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0, 1], of(np.float32, 2)),
        ([True, 0.5], of(np.float32, 2)),
        (np.array([0.1, 3e38]), of(np.float32, 2)),  # a double that is rounded
        ([0.0, 255.0], of(np.uint8, 2)),
        (jax.numpy.array([[1], [0]]), of(bool, 2, 1)),
        (jax.numpy.ones(2, jax.numpy.bfloat16), of(np.float32, 2)),
        (3, of(np.float32)),
        ([], of(np.float32, 0)),
    ],
)
def test_numbers_are_taken_in_any_form(given, wanted):
    found = numbers(given, wanted, "x")
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, np.array(given, wanted.dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int32, bool])
def test_what_is_right_already_is_not_copied(dtype):
    array = np.ones((2, 3), dtype)
    assert numbers(array, array, "x") is array


@pytest.mark.parametrize(
    ("given", "wanted", "says"),
    [
        ("hot", of(np.float32), "x must be one number, not 'hot'"),
        (["1", "2"], of(np.float32, 2), "x must be numbers of shape (2,), not ['1', '2']"),
        ([1j, 0], of(np.float32, 2), "x must be numbers of shape (2,), not [1j, 0]"),
        ([0, [1, 2]], of(np.float32, 2), "x must be numbers of shape (2,), not [0, [1, 2]]"),
        ([None, 1], of(np.uint8, 2), "x must be numbers of shape (2,), not [None, 1]"),
        (10**400, of(np.float32), "x must be one number, not 100000000000000000...0000000000000000000"),
        ([["a"], ["b"]], of(np.float32, 2, 1), "x must be numbers of shape (2, 1), not [['a'], ['b']]"),
        (np.zeros((1, 2)), of(np.float32, 2), "x must be numbers of shape (2,), not of shape (1, 2)"),
        ([0.2, 1], of(np.uint8, 2), "x[0] is 0.2: it must be a whole number between 0 and 255"),
        ([[300, -1]], of(np.uint8, 1, 2), "x[0, 0] is 300: it must be a whole number between 0 and 255"),
        ([0, -1], of(np.uint8, 2), "x[1] is -1: it must be a whole number between 0 and 255"),
        ([0, np.nan], of(np.int32, 2), "x[1] is nan: it must be a whole number between -2147483648 and 2147483647"),
        (2, of(bool), "x is 2: it must be 0 or 1"),
    ],
)
def test_what_is_not_wanted_is_told(given, wanted, says):
    with pytest.raises(SharedqError) as caught:
        numbers(given, wanted, "x")
    assert str(caught.value) == says


@pytest.mark.parametrize("value", [np.nan, -np.inf, None, 1e39])
def test_a_float_that_is_not_finite_is_told_its_place(value):
    with pytest.raises(NotFinite) as caught:
        numbers([0, value], of(np.float32, 2), "x")
    assert str(caught.value) == f"x[1] is {value}: it must be a number between -3.40282e+38 and 3.40282e+38"


def test_floats_may_be_bounded_further():
    assert numbers(-1e18, of(np.float32), "x", largest=1e18) == np.float32(-1e18)
    for value in (1.1e18, np.nan):
        with pytest.raises(NotFinite, match=r"it must be a number between -1e\+18 and 1e\+18$"):
            numbers(value, of(np.float32), "x", largest=1e18)


def test_an_error_stays_one_line_whatever_was_given():
    with pytest.raises(SharedqError) as caught:
        numbers(np.full((3, 3), "x"), of(np.float32, 3, 3), "x")
    assert "\n" not in str(caught.value)
