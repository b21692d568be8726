"""What a next state is worth, given the values of its actions.

Every backup takes `values` [..., actions], the values that are bootstrapped on, and `chooser` [..., actions], the
values of the network that learns, and returns one value per state. Only `double` looks at the chooser.
"""

import jax
import jax.numpy as jnp


def bellman(reward: jax.Array, discount: jax.Array, next_value: jax.Array) -> jax.Array:
    """r + discount * V(s'); the discount is 0 where the world ended."""
    return reward + discount * next_value


def of_action(values: jax.Array, action: jax.Array) -> jax.Array:
    """The value of the action taken: values [..., actions], action [...]."""
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]


def maximum(values: jax.Array, chooser: jax.Array) -> jax.Array:
    """max_a Q(s', a) (Watkins, 1989)."""
    return values.max(axis=-1)


def double(values: jax.Array, chooser: jax.Array) -> jax.Array:
    """Q(s', argmax_a Q_online(s', a)): one network chooses, the other judges (van Hasselt et al., 2016)."""
    return of_action(values, chooser.argmax(axis=-1))


def mellowmax(values: jax.Array, chooser: jax.Array, omega: float) -> jax.Array:
    """log(mean_a exp(omega Q(s', a))) / omega: a maximum that is a smooth non-expansion (Asadi & Littman, 2017)."""
    return (jax.nn.logsumexp(omega * values, axis=-1) - jnp.log(values.shape[-1])) / omega
