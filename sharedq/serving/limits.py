"""What bounds the time and the memory that requests take."""

import math
from typing import Any, NamedTuple

import numpy as np

CHARACTERS = {"b": 7, "u": 6, "i": 22, "f": 26}  # at most, of a number of this kind in JSON with what stands around it


class Limits(NamedTuple):
    """All of them are ours. Tests take smaller ones."""

    rows: int = 32  # observations that are decided at once, and the most of one request
    queue: int = 256  # observations that wait for a decision
    body: int = 65_536  # bytes of a body, where `rows` observations need no more
    bodies: int = 64 * 2**20  # bytes of all bodies that are held at one moment, where four bodies need no more
    dropped: int = 16 * 2**20  # bytes that are read of a body that is too large, so that its sender hears the answer
    head: int = 32_768  # bytes of a request before its body
    head_seconds: float = 10.0  # from the first byte of a request, or the start of a connection, to the body
    body_seconds: float = 10.0  # for the whole body
    answer_seconds: float = 10.0  # from the body to the decision
    connections: int = 512
    spectators: int = 8  # requests that wait for the next step of the game


def limits_for(spec: dict[str, Any], base: Limits | None = None) -> Limits:
    """The limits with room for the bodies of this agent."""
    base = base or Limits()
    observation = spec["observation"]
    numbers = math.prod(observation["shape"])
    text = numbers * CHARACTERS[np.dtype(observation["dtype"]).kind]
    body = max(base.body, base.rows * text)
    return base._replace(body=body, bodies=max(base.bodies, 4 * body))
