"""What a next state is worth, given the values of its actions.

Where actions can be listed a backup takes `values` [..., actions], the values that are bootstrapped on, and `chooser`
[..., actions], the values of the network that learns, and returns one value per state. Only `double` looks at the
chooser.
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


def soft(next_value: jax.Array, log_density: jax.Array, temperature: jax.Array) -> jax.Array:
    """Q(s', a') - temperature log pi(a'|s') for an action that the policy drew (Haarnoja et al., 2018)."""
    return next_value - temperature * log_density


def cautious(outputs: jax.Array, values: jax.Array) -> jax.Array:
    """Of critics' outputs [..., C, A] those of the critic with the smallest value [..., C] (Fujimoto et al., 2018)."""
    return jnp.take_along_axis(outputs, values.argmin(axis=-1)[..., None, None], axis=-2)[..., 0, :]
