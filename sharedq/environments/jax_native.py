"""Classic control problems written in JAX: CartPole with the physics of Gymnasium's CartPole-v1."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.environments.contract import Environment, Outcome, time_limited
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.settings import check_count

GRAVITY = 9.8  # m/s^2
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
TOTAL_MASS = CART_MASS + POLE_MASS
HALF_LENGTH = 0.5  # m, from the joint to the pole's centre of mass
FORCE = 10.0  # N, to the left or to the right
TIME_STEP = 0.02  # s
ANGLE_LIMIT = 12 * math.pi / 180  # rad, beyond which the pole counts as fallen
POSITION_LIMIT = 2.4  # m, beyond which the cart has left the track


@dataclass(frozen=True)
class CartPole:
    """CartPole-v1 of Gymnasium, written in JAX: balance a pole for at most 500 steps."""

    time_limit: int = 500  # steps until an episode is truncated
    tell_time: bool = False  # add the elapsed time to the observation, as a fifth number from -0.5 to 0.5 at the limit

    def __post_init__(self):
        check_count("time_limit", self.time_limit)

    def build(self) -> Environment:
        spec = EnvironmentSpec("cartpole", jax.ShapeDtypeStruct((4,), jnp.float32), Discrete(2))
        environment = Environment(spec, _reset, _step)
        return time_limited(environment, self.time_limit, self.tell_time)


def _reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
    return state, state


def _step(key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Outcome]:
    state = _move(state, action)
    position, _, angle, _ = state
    outcome = Outcome(
        obs=state,
        reward=jnp.float32(1),
        terminated=(jnp.abs(position) > POSITION_LIMIT) | (jnp.abs(angle) > ANGLE_LIMIT),
        truncated=jnp.bool_(False),
        final_obs=state,
    )
    return state, outcome


def _move(state: jax.Array, action: jax.Array) -> jax.Array:
    """One Euler step of Florian (2005), "Correct equations for the dynamics of the cart-pole system"."""
    _, velocity, angle, angular_velocity = state
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    push = jnp.where(action == 1, FORCE, -FORCE)
    pull = (push + POLE_MASS * HALF_LENGTH * angular_velocity**2 * sine) / TOTAL_MASS
    angular_acceleration = (GRAVITY * sine - cosine * pull) / (
        HALF_LENGTH * (4 / 3 - POLE_MASS * cosine**2 / TOTAL_MASS)
    )
    acceleration = pull - POLE_MASS * HALF_LENGTH * angular_acceleration * cosine / TOTAL_MASS
    change = jnp.stack([velocity, acceleration, angular_velocity, angular_acceleration])
    return state + TIME_STEP * change
