"""A small data set of a tabular problem, in which every action was taken in every state, and its one batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharedq.environments import Discrete, EnvironmentSpec
from sharedq.transitions import Batch, Transition

KEY = jax.random.key(2)
STATES, ACTIONS, GAMMA = 3, 3, 0.8
SPEC = EnvironmentSpec("logged", jax.ShapeDtypeStruct((STATES,), jnp.float32), Discrete(ACTIONS))

STATE, ACTION, REWARD, TERMINATED, NEXT = np.array(
    [
        (0, 0, 0.0, 0, 1),
        (0, 0, 0.2, 0, 1),
        (0, 1, 0.5, 0, 2),
        (0, 2, -0.5, 1, 0),
        (1, 0, 1.0, 1, 0),
        (1, 1, 0.0, 0, 2),
        (1, 1, 0.4, 0, 0),
        (1, 2, 0.3, 0, 1),
        (2, 0, 0.9, 1, 0),
        (2, 1, 0.7, 1, 0),
        (2, 1, 0.1, 0, 0),
        (2, 2, -0.2, 0, 1),
        (2, 2, 0.0, 0, 1),
    ]
).T
STATE, ACTION, NEXT = (x.astype(int) for x in (STATE, ACTION, NEXT))
DISCOUNT = GAMMA * (1 - TERMINATED)
ROWS = len(STATE)

COUNTS = np.zeros((STATES, ACTIONS))
np.add.at(COUNTS, (STATE, ACTION), 1)
FREQUENCIES = COUNTS / COUNTS.sum(axis=1, keepdims=True)


def batch() -> Batch:
    """All rows; in float64 within `jax.enable_x64`."""
    eye = jnp.eye(STATES)
    rows = Transition(
        eye[STATE], jnp.array(ACTION, jnp.int32), jnp.array(REWARD) + 0.0, jnp.array(DISCOUNT) + 0.0, eye[NEXT]
    )
    return Batch(rows, jnp.ones(ROWS), jnp.zeros(ROWS, jnp.int32))


def widened(tree):
    """In float64, where there is one: within `jax.enable_x64`."""
    wide = jnp.zeros(()).dtype
    return jax.tree.map(lambda x: x.astype(wide) if x.dtype == jnp.float32 else x, tree)


def close(one, other, tolerance=1e-10):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other)


def mean_of_rows(values) -> np.ndarray:
    """The mean [S, A] over the rows of each state and action."""
    total = np.zeros((STATES, ACTIONS))
    np.add.at(total, (STATE, ACTION), values)
    return total / COUNTS


def descent(beta=0.0, epsilon=0.0):
    """Gradient descent with a learning rate that is given at each step, in the place of `adam_with_rate`."""

    def update(gradient, state, params=None, *, rate):
        return jax.tree.map(lambda slope: -rate * slope, gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def learned(algorithm, updates: int, batch: Batch):
    """The state after so many updates on one batch, and the losses, in float64 within `jax.enable_x64`."""

    def update(state, number):
        state, _, metrics = algorithm.update(state, batch, jax.random.fold_in(KEY, number), number)
        return state, metrics["loss"]

    start = widened(jax.jit(algorithm.init)(KEY, batch))
    return jax.jit(lambda state: jax.lax.scan(update, state, jnp.arange(1, updates + 1)))(start)
