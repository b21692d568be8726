"""The equations against closed forms, bounds, and loops written out slowly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq.bellman import backups, categorical, losses, readings
from sharedq.bellman.returns import n_step

numbers = st.floats(-10, 10, width=32)
rows = st.lists(numbers, min_size=4, max_size=4).map(lambda row: np.array(row, np.float32))
omegas = st.floats(0.5, 50, width=32)


def test_bellman_adds_the_discounted_future_unless_the_world_ended():
    target = backups.bellman(jnp.array([1.0, 1.0]), jnp.array([0.5, 0.0]), jnp.array([8.0, 8.0]))
    assert target.tolist() == [5.0, 1.0]


@pytest.mark.parametrize(
    "equation",
    [
        lambda b, b1: backups.bellman(b, b, b1),
        lambda b, b1: backups.bellman(b1, b1, b),
        lambda b, b1: backups.bellman(b, b1, b),
        lambda b, b1: backups.soft(b, b1, 1.0),
        lambda b, b1: backups.double(b1, b[None]),
        lambda b, b1: backups.of_action(b[None], jnp.zeros(3, int)),
        lambda b, b1: backups.min_over_critics(b1[None], b),
    ],
)
def test_a_row_does_not_become_a_square(equation):
    """[B] against [B, 1] would broadcast to [B, B] without a word."""
    with pytest.raises(ValueError, match="shape"):
        equation(jnp.ones(3), jnp.ones((3, 1)))


def test_heads_in_front_and_an_axis_of_one_on_purpose_are_broadcast():
    assert backups.bellman(jnp.ones(3), jnp.ones(3), jnp.ones((2, 3))).shape == (2, 3)
    assert backups.bellman(jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.ones((2, 3, 5))).shape == (2, 3, 5)


def test_of_action_takes_one_value_per_row_on_any_axes():
    values = jnp.arange(24.0).reshape(2, 3, 4)
    action = jnp.array([[0, 1, 2], [3, 0, 1]])
    assert backups.of_action(values, action).tolist() == [[0, 5, 10], [15, 16, 21]]


def test_the_maximum_judges_by_itself_and_double_by_the_choosers_choice():
    values, selector = jnp.array([[1.0, 5.0, 3.0]]), jnp.array([[0.0, 1.0, 2.0]])
    assert backups.maximum(values, selector).tolist() == [5]
    assert backups.double(values, selector).tolist() == [3]


@given(rows, rows)
def test_double_never_exceeds_the_maximum_and_equals_it_when_the_judge_chooses(values, selector):
    assert backups.double(values, selector) <= backups.maximum(values, selector)
    assert backups.double(values, values) == backups.maximum(values, selector)


@given(rows, omegas)
def test_mellowmax_lies_between_the_maximum_less_its_gap_and_the_maximum(values, omega):
    result, slack = float(backups.mellowmax(values, values, omega)), 1e-5
    assert values.max() - math.log(4) / omega - slack <= result <= values.max() + slack
    assert result >= values.mean() - slack  # Jensen


@given(rows, rows, omegas)
def test_mellowmax_is_a_non_expansion(one, other, omega):
    apart = abs(float(backups.mellowmax(one, one, omega) - backups.mellowmax(other, other, omega)))
    assert apart <= np.abs(one - other).max() + 1e-5


@given(rows, numbers, omegas)
def test_mellowmax_moves_with_a_constant(values, constant, omega):
    moved = backups.mellowmax(values + constant, values, omega)
    np.testing.assert_allclose(moved, backups.mellowmax(values, values, omega) + constant, atol=1e-5)


def test_mellowmax_closed_form_and_limits():
    values = jnp.array([0.0, math.log(3.0)])
    np.testing.assert_allclose(backups.mellowmax(values, values, 1.0), math.log(2.0), rtol=1e-6)  # log((1 + 3) / 2)
    np.testing.assert_allclose(backups.mellowmax(values, values, 1e6), math.log(3.0), rtol=1e-5)
    np.testing.assert_allclose(backups.mellowmax(values, values, 1e-3), math.log(3.0) / 2, rtol=1e-3)


def test_huber_is_half_the_square_near_zero_and_a_line_beyond():
    error = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert losses.huber(error).tolist() == [2.5, 0.5, 0.125, 0, 0.125, 0.5, 2.5]
    assert jax.vmap(jax.grad(losses.huber))(error).tolist() == [-1, -1, -0.5, 0, 0.5, 1, 1]
    assert losses.huber(jnp.array(5.0), bend=2.0) == 8  # 2 * (5 - 2 / 2)
    assert losses.squared(error).tolist() == [9, 1, 0.25, 0, 0.25, 1, 9]


def slow_n_step(reward, terminated, truncated, gamma):
    total, power = 0.0, 1.0
    for i, (r, dead, cut) in enumerate(zip(reward, terminated, truncated)):
        total += power * r
        power *= gamma
        if dead:
            return total, 0.0, i
        if cut:
            break
    return total, power, i


ends = st.sampled_from([(False, False), (False, False), (True, False), (False, True)])


@given(st.lists(st.tuples(numbers, ends), min_size=1, max_size=5), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_n_step_equals_the_loop_written_out(steps, gamma):
    reward = np.array([r for r, _ in steps], np.float32)
    terminated, truncated = (np.array([end[i] for _, end in steps]) for i in (0, 1))
    total, discount, last = n_step(reward, terminated, truncated, gamma)
    wanted = slow_n_step(reward, terminated, truncated, gamma)
    np.testing.assert_allclose([total, discount, last], wanted, rtol=1e-5, atol=1e-4)


def test_n_step_works_on_every_row_of_a_batch():
    reward = jnp.ones((3, 3))
    nothing = jnp.zeros((3, 3), bool)
    terminated = nothing.at[0, 1].set(True)
    truncated = nothing.at[1, 1].set(True)
    total, discount, last = n_step(reward, terminated, truncated, 0.5)
    assert total.tolist() == [1.5, 1.5, 1.75]
    assert discount.tolist() == [0, 0.25, 0.125]
    assert last.tolist() == [1, 1, 2]


@pytest.mark.parametrize("later", [True, False])
def test_what_follows_an_end_does_not_matter(later):
    reward = jnp.array([1.0, 100.0])
    total, discount, last = n_step(reward, jnp.array([False, later]), jnp.array([True, False]), 0.5)
    assert (float(total), float(discount), int(last)) == (1.0, 0.5, 0)


# Distributions of returns

SUPPORT = jnp.linspace(-1, 1, 5)  # spaced by 0.5


def test_a_projection_by_hand():
    """0.25 lies halfway between 0 and 0.5; -0.9 is four fifths of the way to -1; 7 is beyond the end."""
    found = categorical.projected(jnp.array([0.25, -0.9, 7.0]), jnp.array([0.5, 0.3, 0.2]), SUPPORT)
    np.testing.assert_allclose(found, [0.24, 0.06, 0.25, 0.25, 0.2], atol=1e-6)


@given(reward=st.floats(-3, 3), discount=st.floats(0, 1), masses=st.lists(st.floats(0.01, 1), min_size=5, max_size=5))
def test_projections_keep_mass_and_within_the_support_the_mean(reward, discount, masses):
    probabilities = jnp.array(masses) / sum(masses)
    atoms = reward + discount * SUPPORT
    found = categorical.projected(atoms, probabilities, SUPPORT)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5) and (found >= 0).all()
    assert float(found @ SUPPORT) == pytest.approx(float(probabilities @ jnp.clip(atoms, -1, 1)), abs=1e-5)


def test_a_distribution_on_its_own_support_is_projected_to_itself():
    probabilities = jax.nn.softmax(jnp.arange(10.0).reshape(2, 5))  # two heads or two states at once
    np.testing.assert_allclose(categorical.projected(SUPPORT, probabilities, SUPPORT), probabilities, atol=1e-6)


def test_cross_entropy_is_least_where_the_prediction_is_the_target():
    logits = jnp.array([0.3, -1.0, 2.0])
    slope = jax.grad(lambda x: categorical.cross_entropy(jax.nn.softmax(logits), x))(logits)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_both_readings_back_up_alike():
    """The mean of a projected distribution is the backup of its mean, where nothing is cut off."""
    reading, plain = readings.distribution(-5, 5, 101), readings.scalar()
    logits = jax.random.normal(jax.random.key(0), (2, 3, 101))

    def backup(returns):
        return jnp.array([[0.5], [-1.0], [0.0]]) + 0.5 * backups.soft(returns, jnp.array([[2.0], [0.0], [-1.0]]), 0.1)

    returns, masses = reading.atoms(logits)
    wanted = reading.target(backup(returns), masses)
    np.testing.assert_allclose(wanted.sum(-1), 1, atol=1e-5)
    mean = reading.value(logits)
    returns, masses = plain.atoms(mean)
    expected = plain.target(backup(returns), masses)
    np.testing.assert_allclose(wanted @ jnp.linspace(-5, 5, 101), expected, atol=1e-4)
    np.testing.assert_allclose(plain.loss(mean, mean + 2), np.full((2, 3), 4.0), rtol=1e-5)


def test_the_cautious_critic_is_the_one_with_the_smallest_value():
    outputs = jnp.arange(12.0).reshape(2, 2, 3)  # two states, two critics
    found = backups.min_over_critics(outputs, jnp.array([[1.0, 0.5], [-1.0, 0.5]]))
    np.testing.assert_array_equal(found, jnp.stack([outputs[0, 1], outputs[1, 0]]))


def test_a_soft_backup_adds_what_certainty_costs():
    assert float(backups.soft(jnp.float32(3), jnp.float32(-2), jnp.float32(0.5))) == 4
