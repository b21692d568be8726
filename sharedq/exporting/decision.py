"""The greedy decision of a trained agent as a function of observations, with the values of every head beside it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.agent import Agent
from sharedq.environments.spec import Continuous, Tokens
from sharedq.errors import SharedqError

HEAD_OPTIONS = ("behaviour_head", "behaviour_network")  # by which sources let one of their heads act, from "1" on


def decision_of(agent: Agent) -> Callable[[Any], dict[str, jax.Array]]:
    """A function of observations [B, ...]: `action` [B, ...] in the environment's own form, and values if discrete.

    `values` [B, A] are those that the policy follows. `head_values` [B, H, A] are those of each head that learns.
    """
    actions, state = agent.built.spec.actions, jax.device_put(agent.state)
    if isinstance(actions, Tokens):
        raise SharedqError(
            f"the agent cannot be exported: it writes texts token by token in '{agent.built.spec.name}', and only "
            "agents that decide in one pass can be exported"
        )
    decide, of_heads = agent.built.algorithm.decide, [one.algorithm.decide for one in heads_of(agent)]

    def decision(obs: Any) -> dict[str, jax.Array]:
        action, values = decide(state, obs)
        found = {"action": in_units(actions, action)}
        if isinstance(actions, Continuous):
            return found
        heads = [one(state, obs)[1] for one in of_heads] or [values]
        return {**found, "values": values, "head_values": jnp.stack(heads, axis=1)}

    return decision


def heads_of(agent: Agent) -> list[Any]:
    """The same experiment with each head acting alone; nothing if the source has one head, or does not let one act."""
    if isinstance(agent.built.spec.actions, Continuous) or not agent.experiment.uses_target:
        return []
    target = agent.experiment.target
    option = next((name for name in HEAD_OPTIONS if hasattr(target, name)), None)
    count = getattr(target, "heads", None) or getattr(target, "networks", None) or 1
    if option is None or count == 1:
        return []
    return [agent.replace(**{f"target.{option}": str(head + 1)}).built for head in range(count)]


def in_units(actions: Any, action: jax.Array) -> jax.Array:
    """The `in_units` of the spec, in operations that can be exported."""
    if isinstance(actions, Continuous):
        return actions.in_units(action)
    if not actions.sizes:
        return action + actions.first if actions.first else action
    entries, rest = [], action
    for size, start in zip(reversed(actions.sizes), reversed(actions.starts), strict=True):
        entries.append(jax.lax.rem(rest, jnp.full_like(rest, size)) + start)
        rest = jax.lax.div(rest, jnp.full_like(rest, size))
    return jnp.stack(entries[::-1], axis=-1)


def from_units(actions: Any, action: np.ndarray) -> np.ndarray:
    """The algorithm's form of actions in the environment's own form, as `step` takes them."""
    if isinstance(actions, Continuous):
        middle, half = (actions.low + actions.high) / 2, (actions.high - actions.low) / 2
        return ((action - middle) / half).clip(-1, 1).astype(np.float32)
    if actions.sizes:
        entries = np.moveaxis(action - np.array(actions.starts), -1, 0)
        return np.ravel_multi_index(tuple(entries), actions.sizes).astype(np.int32)
    return (action - actions.first).astype(np.int32)
