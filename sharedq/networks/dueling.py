"""Dueling heads: the value of a state, plus the advantage of each action over their mean (Wang et al., 2016).

    Q(s, a) = V(s) + A(s, a) - mean_b A(s, b)

V and A have a hidden layer each, which belongs to the trunk. For distributions the equation holds for each output of a
value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sharedq.errors import SharedqError


class Streams(NamedTuple):
    """The features [B, F] of the two hidden layers."""

    value: Any
    advantage: Any


def dueling(linear: Callable[[int], tuple[Callable, Callable]], outputs: int, each: int) -> tuple[Callable, Callable]:
    """The functions `init_heads` and `heads` on features that are `Streams`.

    `linear(outputs)` makes the functions of linear heads. A value has `each` outputs, so there are `outputs / each`
    actions.
    """
    if outputs == each:
        raise SharedqError("a dueling network needs several actions: leave network.dueling out")
    (init_value, value), (init_advantage, advantage) = linear(each), linear(outputs)

    def init_heads(key, features, count):
        keys = jax.random.split(key)
        return Streams(init_value(keys[0], features.value, count), init_advantage(keys[1], features.advantage, count))

    def heads(params, features, *noise):
        of_state = value(params.value, features.value, *noise)[..., None, :]  # [H, B, 1, each]
        of_actions = advantage(params.advantage, features.advantage, *noise)
        of_actions = of_actions.reshape(*of_actions.shape[:-1], -1, each)  # [H, B, A, each]
        found = of_state + of_actions - of_actions.mean(axis=-2, keepdims=True)
        return found.reshape(*found.shape[:-2], outputs)

    return init_heads, heads
