"""Backups: the value of a next state, given the values of its actions.

For discrete actions a backup takes `values` [..., actions], on which it bootstraps, and `selector` [..., actions], the
values of the network that learns. It returns one value for each state. Only `double` uses the selector.
"""

import jax
import jax.numpy as jnp

from sharedq.bellman.shapes import check_aligned, check_equal


def bellman(reward: jax.Array, discount: jax.Array, next_value: jax.Array) -> jax.Array:
    """r + discount * V(s'). The discount is 0 if the episode terminated. Only `next_value` may have axes of heads."""
    check_equal("discount", discount.shape, "reward", reward.shape)
    check_aligned("reward", reward.shape, "next_value", next_value.shape)
    return reward + discount * next_value


def of_action(values: jax.Array, action: jax.Array) -> jax.Array:
    """The values [...] of the actions taken, from values [..., actions] and action [...]."""
    check_equal("action", action.shape, "values without their last axis", values.shape[:-1])
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]


def maximum(values: jax.Array, selector: jax.Array) -> jax.Array:
    """max_a Q(s', a) (Watkins, 1989)."""
    return values.max(axis=-1)


def double(values: jax.Array, selector: jax.Array) -> jax.Array:
    """Q(s', argmax_a Q_online(s', a)): one network selects, the other evaluates (van Hasselt et al., 2016)."""
    check_equal("selector", selector.shape, "values", values.shape)
    return of_action(values, selector.argmax(axis=-1))


def mellowmax(values: jax.Array, selector: jax.Array, omega: float) -> jax.Array:
    """log(mean_a exp(omega Q(s', a))) / omega, a smooth maximum and a non-expansion (Asadi & Littman, 2017)."""
    return (jax.nn.logsumexp(omega * values, axis=-1) - jnp.log(values.shape[-1])) / omega


def soft(next_value: jax.Array, log_density: jax.Array, temperature: jax.Array) -> jax.Array:
    """Q(s', a') - temperature log pi(a'|s'), for an action drawn from the policy (Haarnoja et al., 2018)."""
    check_aligned("log_density", log_density.shape, "next_value", next_value.shape)
    return next_value - temperature * log_density


def min_over_critics(outputs: jax.Array, values: jax.Array) -> jax.Array:
    """The outputs of the critic with the smallest value: [..., C, A], [..., C] -> [..., A] (Fujimoto et al., 2018)."""
    check_equal("values", values.shape, "outputs without their last axis", outputs.shape[:-1])
    return jnp.take_along_axis(outputs, values.argmin(axis=-1)[..., None, None], axis=-2)[..., 0, :]
