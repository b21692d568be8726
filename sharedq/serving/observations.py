"""Reads observations from the body of a request, and the rule by which an action is drawn from its query."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sharedq.errors import reason
from sharedq.runtime import Agent, AgentError

JSON, BYTES = "application/json", "application/octet-stream"
KEYS = ("observation", "observations")


class Unusable(Exception):
    """What is wrong with a request, in one line. It is answered with 422."""


class ParsedBody(NamedTuple):
    batch: np.ndarray  # [N, ...]
    is_one: bool  # whether one observation was sent, and not a list of them


def form_of(spec: dict[str, Any]) -> str:
    """The dtype and shape of one observation, for people."""
    observation = spec["observation"]
    return f"{observation['dtype']} [{', '.join(map(str, observation['shape']))}]"


def read(agent: Agent, kind: str, body: bytes, rows: int) -> ParsedBody:
    """The observations in a body of this content type; at most so many rows."""
    given = _from_bytes(agent, body) if kind == BYTES else _from_json(agent, body)
    if len(given.batch) > rows:
        raise Unusable(f"{len(given.batch)} observations are too many for one request: send at most {rows}")
    return given


def _from_bytes(agent: Agent, body: bytes) -> ParsedBody:
    observation = agent.spec["observation"]
    dtype, shape = np.dtype(observation["dtype"]), tuple(observation["shape"])
    one = dtype.itemsize * math.prod(shape)
    if not body or len(body) % one:
        raise Unusable(
            f"the body has {len(body)} bytes, and one observation, {form_of(agent.spec)} in little-endian order, has "
            f"{one}: send one of them, or several one after another"
        )
    if dtype.kind == "b" and max(body) > 1:
        raise Unusable("the body has bytes other than 0 and 1, and the observation is of bool")
    batch = np.frombuffer(body, dtype.newbyteorder("<")).reshape(-1, *shape)
    return ParsedBody(_checked(agent, batch)[0], len(batch) == 1)


def _from_json(agent: Agent, body: bytes) -> ParsedBody:
    wanted = f'send {{"observation": ...}} with {form_of(agent.spec)}, or {{"observations": [...]}} with several'
    try:
        sent = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise Unusable(f"the body is nested too deeply: {wanted}") from None
    except ValueError as error:  # also bytes that are no text
        raise Unusable(f"the body is no JSON ({reason(error)}): {wanted}") from None
    if not isinstance(sent, dict) or len(sent) != 1 or next(iter(sent)) not in KEYS:
        raise Unusable(f"the body has another form: {wanted}")
    if body.count(b'"') > 2:  # numpy would give every text in a list the room of the longest one
        raise Unusable(f"the observation has texts where numbers belong: {wanted}")
    key, value = next(iter(sent.items()))
    batch, is_one = _checked(agent, value)
    if is_one != (key == "observation"):
        raise Unusable(f"'{key}' has {'one observation' if is_one else 'several observations'}: {wanted}")
    return ParsedBody(batch, is_one)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _checked(agent: Agent, value: Any) -> tuple[np.ndarray, bool]:
    try:
        return agent.batch_of(value)
    except (AgentError, OverflowError, RecursionError) as error:
        raise Unusable(reason(error)) from None
    except MemoryError:
        raise Unusable("the observation needs more memory than the server has") from None


class Rule(NamedTuple):
    """How an action is drawn from the values of all actions. The agent itself has no such rule: it takes the best."""

    kind: str  # "softmax" with a temperature, or "epsilon" with the probability of any action
    number: float

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """The probability of each action [N, A], for values [N, A]."""
        values = values.astype(np.float64)
        if self.kind == "softmax":
            with np.errstate(over="ignore"):  # a tiny temperature makes infinities, whose likelihoods are 0
                likelihoods = np.exp((values - values.max(axis=1, keepdims=True)) / self.number)
            return likelihoods / likelihoods.sum(axis=1, keepdims=True)
        best = values.argmax(axis=1)[:, None] == np.arange(values.shape[1])
        return (1 - self.number) * best + self.number / values.shape[1]


def rule_of(query: Mapping[str, str], is_discrete: bool) -> Rule | None:
    """The rule that a query such as `softmax=0.5` names; None without one."""
    if not query:
        return None
    if len(query) > 1 or (kind := next(iter(query))) not in ("softmax", "epsilon"):
        raise Unusable("the query takes one rule, softmax=TEMPERATURE or epsilon=PROBABILITY")
    if not is_discrete:
        raise Unusable(f"the rule {kind} is for discrete actions, and those of this agent are continuous")
    try:
        number = float(query[kind])
    except ValueError:
        number = math.nan
    if kind == "softmax" and not 0 < number < math.inf:
        raise Unusable(f"softmax takes a temperature above 0, not {query[kind][:40]!r}")
    if kind == "epsilon" and not 0 <= number <= 1:
        raise Unusable(f"epsilon takes a probability from 0 to 1, not {query[kind][:40]!r}")
    return Rule(kind, number)


def own_actions(actions: dict[str, Any], numbers: np.ndarray) -> np.ndarray:
    """The environment's own form of the actions with these numbers [N], which count from 0."""
    if sizes := actions.get("sizes"):
        entries = np.stack(np.unravel_index(numbers, sizes), axis=-1) + np.array(actions["starts"])
        return entries.astype(actions["dtype"])
    return numbers + actions["first"]
