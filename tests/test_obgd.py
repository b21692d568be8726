"""ObGD and eligibility traces: steps worked out by hand, and the bound on how far a step goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharedq.optimizers import obgd

LIKE = {"w": jnp.zeros(2), "b": jnp.zeros(())}


def gradient(first: float, second: float, third: float):
    return {"w": jnp.array([first, second]), "b": jnp.array(third)}


def leaves(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in (tree["w"], tree["b"])])


def test_two_steps_by_hand():
    optimiser = obgd(alpha=1.0, kappa=2.0)
    updates, traces = optimiser.update(gradient(1, -2, 0.5), optimiser.init(LIKE), delta=0.5, decay=0.8)
    # |z| = 3.5 and |delta| counts as 1, so M = 7
    np.testing.assert_allclose(leaves(updates), np.array([1, -2, 0.5]) * 0.5 / 7, rtol=1e-6)
    updates, traces = optimiser.update(gradient(0, 1, 0), traces, delta=-3.0, decay=0.8)
    z = np.array([0.8, -0.6, 0.4])
    np.testing.assert_allclose(leaves(traces.z), z, rtol=1e-6)
    np.testing.assert_allclose(leaves(updates), -3 * z / (2 * 3 * 1.8), rtol=1e-6)
    updates, traces = optimiser.update(gradient(0, 0.1, 0), traces, delta=1.0, decay=0.0)  # cut; and M = 0.2 < 1
    np.testing.assert_allclose(leaves(traces.z), [0, 0.1, 0], rtol=1e-6)
    np.testing.assert_allclose(leaves(updates), [0, 0.1, 0], rtol=1e-6)


def test_without_a_bound_it_is_a_gradient_step():
    optimiser = obgd(alpha=0.25, kappa=0.0)
    updates, _ = optimiser.update(gradient(1, -2, 0.5), optimiser.init(LIKE), delta=8.0, decay=0.8)
    np.testing.assert_array_equal(leaves(updates), [2, -4, 1])


def test_a_newest_error_of_its_own_acts_on_the_newest_gradient_only():
    optimiser = obgd(kappa=0.0)
    _, traces = optimiser.update(gradient(1, 0, 0), optimiser.init(LIKE), delta=0.0, decay=0.5)
    updates, traces = optimiser.update(gradient(0, 1, 0), traces, delta=2.0, decay=0.5, newest=3.0)
    np.testing.assert_array_equal(leaves(updates), [1, 5, 0])  # 2 * 0.5 of the past, 2 + 3 of the newest
    np.testing.assert_array_equal(leaves(traces.z), [0.5, 1, 0])


def with_heads(values):
    """The same gradients for two errors: a leading axis."""
    return {"w": jnp.array(values)[:, :2], "b": jnp.array(values)[:, 2]}


TWO = [[1.0, -2.0, 0.5], [0.0, 4.0, 0.0]]
LIKE_TWO = with_heads(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("bound", "divisors"),
    [("joint", [2 * (3.5 + 3 * 4)] * 2), ("each", [2 * 3.5, 2 * 3 * 4])],
)
def test_several_errors_share_the_bound_as_asked(bound, divisors):
    optimiser = obgd(bound=bound)
    delta = jnp.array([0.5, -3.0])
    updates, _ = optimiser.update(with_heads(TWO), optimiser.init(LIKE_TWO), delta=delta, decay=0.0)
    wanted = np.array(TWO) * delta[:, None] / np.array(divisors)[:, None]
    np.testing.assert_allclose(jnp.column_stack([updates["w"], updates["b"]]), wanted, rtol=1e-6)


def test_parts_of_the_gradients_can_have_other_errors():
    optimiser = obgd(kappa=1.0)
    gradients = {"w": jnp.array([[1.0, 2.0]]), "b": jnp.array([3.0, 4.0])}  # one error for w, two for b
    delta = {"w": jnp.array([2.0]), "b": jnp.array([1.0, 3.0])}
    updates, _ = optimiser.update(gradients, optimiser.init(gradients), delta=delta, decay=0.0)
    reach = 2 * 3 + 1 * 3 + 3 * 4
    np.testing.assert_allclose(updates["w"], np.array([[2, 4]]) / reach, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], np.array([3, 12]) / reach, rtol=1e-6)


numbers = st.floats(-1e3, 1e3, width=32)
STEPS = {bound: jax.jit(obgd(kappa=4.0, bound=bound).update) for bound in ("joint", "each")}


@given(
    st.lists(numbers, min_size=12, max_size=12), st.lists(numbers, min_size=4, max_size=4), st.sampled_from(list(STEPS))
)
@settings(deadline=None, max_examples=60)
def test_a_step_never_goes_further_than_its_bound(gradients, errors, bound):
    """Up to rounding: for a joint bound 1 / kappa in all; else for each error, whose sum the parameters may move."""
    first, second = np.array(gradients, np.float32).reshape(2, 2, 3)
    step, traces = STEPS[bound], obgd().init(LIKE_TWO)
    _, traces = step(with_heads(first), traces, delta=jnp.array(errors[:2]), decay=0.9, newest=jnp.array(errors[2:]))
    updates, _ = step(with_heads(second), traces, delta=jnp.array(errors[2:]), decay=0.9, newest=jnp.array(errors[:2]))
    moved = np.abs(np.column_stack([updates["w"], updates["b"]])).sum(axis=1)
    limit = 0.25 * (1 + 1e-5)
    assert {"joint": moved.sum(), "each": moved.max()}[bound] <= limit
