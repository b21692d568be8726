"""Walks through worlds on the host, for every test of them."""

import numpy as np


def walk(worlds, actions):
    """Every outcome of these actions, stacked over time."""
    outcomes = [worlds.step(action) for action in actions]
    return type(outcomes[0])(*map(np.stack, zip(*outcomes, strict=True)))


def walk_from_start(worlds, actions):
    worlds.reset()
    return walk(worlds, actions)


def assert_same(one, other):
    for field in one._fields:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
