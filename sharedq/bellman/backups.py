"""What a next state is worth, given the values of its actions.

Where actions can be listed a backup takes `values` [..., actions], the values that are bootstrapped on, and `selector`
[..., actions], the values of the network that learns, and returns one value per state. Only `double` looks at the
selector.
"""

import jax
import jax.numpy as jnp

from sharedq.bellman.shapes import check_aligned, check_equal


def bellman(reward: jax.Array, discount: jax.Array, next_value: jax.Array) -> jax.Array:
    """r + discount * V(s'); the discount is 0 where the world ended. Heads are axes in front of `next_value` alone."""
    check_equal("discount", discount.shape, "reward", reward.shape)
    check_aligned("reward", reward.shape, "next_value", next_value.shape)
    return reward + discount * next_value


def of_action(values: jax.Array, action: jax.Array) -> jax.Array:
    """The value of the action taken: values [..., actions], action [...]."""
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
    """log(mean_a exp(omega Q(s', a))) / omega: a maximum that is a smooth non-expansion (Asadi & Littman, 2017)."""
    return (jax.nn.logsumexp(omega * values, axis=-1) - jnp.log(values.shape[-1])) / omega


def soft(next_value: jax.Array, log_density: jax.Array, temperature: jax.Array) -> jax.Array:
    """Q(s', a') - temperature log pi(a'|s') for an action that the policy drew (Haarnoja et al., 2018)."""
    check_aligned("log_density", log_density.shape, "next_value", next_value.shape)
    return next_value - temperature * log_density


def min_over_critics(outputs: jax.Array, values: jax.Array) -> jax.Array:
    """Of critics' outputs [..., C, A] those of the critic with the smallest value [..., C] (Fujimoto et al., 2018)."""
    check_equal("values", values.shape, "outputs without their last axis", outputs.shape[:-1])
    return jnp.take_along_axis(outputs, values.argmin(axis=-1)[..., None, None], axis=-2)[..., 0, :]
