"""Backups: the value of a next state, given the values of its actions.

For discrete actions a backup takes `values` [..., actions], on which it bootstraps, and `selector` [..., actions], the
values of the network that learns. It returns one value for each state. Only `double` uses the selector.

A distribution has no maximum. So a `Backup` also says which distribution is that of the next state: the distribution of
one action, or the mixture over the actions of a policy.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sharedq.bellman.shapes import check_aligned, check_equal


def bellman(reward: jax.Array, discount: jax.Array, next_value: jax.Array) -> jax.Array:
    """r + discount * V(s'). The discount is 0 if the episode terminated. Only `next_value` may have axes of heads."""
    check_equal("discount", discount.shape, "reward", reward.shape)
    check_aligned("reward", reward.shape, "next_value", next_value.shape)
    return reward + discount * next_value


def of_action(values: jax.Array, action: jax.Array, rest: int = 0) -> jax.Array:
    """The values [...] of the actions taken, from values [..., actions] and action [...].

    With `rest`, the values have so many axes behind that of the actions, which are kept.
    """
    axis = values.ndim - 1 - rest
    check_equal("action", action.shape, "values in front of their axis of actions", values.shape[:axis])
    place = action.reshape(*action.shape, *(1 for _ in range(rest + 1)))
    return jnp.take_along_axis(values, place, axis=axis).squeeze(axis)


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


def epsilon_greedy(values: jax.Array, epsilon: float) -> jax.Array:
    """The probabilities [..., actions] of a policy that takes any action with probability epsilon, else the best."""
    best = jax.nn.one_hot(values.argmax(axis=-1), values.shape[-1], dtype=values.dtype)
    return epsilon / values.shape[-1] + (1 - epsilon) * best


def scaled_log_softmax(values: jax.Array, tau: float) -> jax.Array:
    """tau log softmax(values / tau), which is near 0 for the best action and never infinite."""
    values = values - values.max(axis=-1, keepdims=True)
    return values - tau * jax.nn.logsumexp(values / tau, axis=-1, keepdims=True)


class Backup(NamedTuple):
    """The functions take (values, selector), both [..., actions]. At most one of `action` and `policy` is given."""

    value: Callable[[jax.Array, jax.Array], jax.Array]  # the value [...] of the next state
    action: Callable[[jax.Array, jax.Array], jax.Array] | None = None  # [...] whose distribution is the state's
    policy: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None  # probabilities and bonuses


MAXIMUM = Backup(maximum, action=lambda values, selector: values.argmax(axis=-1))
DOUBLE = Backup(double, action=lambda values, selector: selector.argmax(axis=-1))


def mellowmax_of(omega: float) -> Backup:
    """The mellowmax is a function of values alone, so no distribution has it as its mean for sure."""
    return Backup(partial(mellowmax, omega=omega))


def of_policy(policy: Callable[[jax.Array], tuple[jax.Array, jax.Array]]) -> Backup:
    """The mean over a policy: `policy(values)` gives probabilities and bonuses, both [..., actions]."""

    def value(values: jax.Array, selector: jax.Array) -> jax.Array:
        probabilities, bonus = policy(values)
        return jnp.sum(probabilities * (values + bonus), axis=-1)

    return Backup(value, policy=lambda values, selector: policy(values))


def expected_sarsa(epsilon: float) -> Backup:
    """The mean over the epsilon-greedy policy of the values themselves (van Seijen et al., 2009)."""

    def policy(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        return epsilon_greedy(values, epsilon), jnp.zeros_like(values)

    return of_policy(policy)


def munchausen(tau: float) -> Backup:
    """The soft value sum_a pi(a) (Q(a) - tau log pi(a)) with pi = softmax(Q / tau) (Vieillard et al., 2020)."""

    def policy(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        log = scaled_log_softmax(values, tau)
        return jnp.exp(log / tau), -log

    return of_policy(policy)


def soft(next_value: jax.Array, log_density: jax.Array, temperature: jax.Array) -> jax.Array:
    """Q(s', a') - temperature log pi(a'|s'), for an action drawn from the policy (Haarnoja et al., 2018)."""
    check_aligned("log_density", log_density.shape, "next_value", next_value.shape)
    return next_value - temperature * log_density


def min_over_critics(outputs: jax.Array, values: jax.Array) -> jax.Array:
    """The outputs of the critic with the smallest value: [..., C, n], [..., C] -> [..., n] (Fujimoto et al., 2018).

    Outputs can also be values themselves, [..., C] -> [...].
    """
    check_equal("values", values.shape, "the first axes of the outputs", outputs.shape[: values.ndim])
    return of_action(outputs, values.argmin(axis=-1), outputs.ndim - values.ndim)
