"""What bounds the time and the memory that requests take."""

import math
from typing import Any, NamedTuple

import numpy as np

# The most characters that one number takes in JSON by the kind of its dtype, with its comma, space and brackets.
CHARACTERS = {"b": 7, "u": 6, "i": 22, "f": 26}


class Limits(NamedTuple):
    """The limits of one server. We chose all of these numbers, and tests take smaller ones."""

    max_batch_size: int = 32  # The agent decides on at most so many observations at once, and a request has no more.
    max_queue: int = 256  # So many observations can wait for a decision.
    body: int = 65_536  # A body has at most so many bytes, or what `max_batch_size` observations need in JSON.
    bodies: int = 64 * 2**20  # All bodies together hold at most so many bytes, or the room of four bodies.
    dropped: int = 16 * 2**20  # The server reads so many bytes beyond a full body, so that its sender hears the answer.
    head: int = 32_768  # The head of a request has at most so many bytes, and so have its trailers.
    head_seconds: float = 10.0  # A head has to end so soon after its first byte, or after the start of a connection.
    body_seconds: float = 10.0  # The whole body has to come within this time.
    answer_seconds: float = 10.0  # The agent has to decide within this time.
    game_seconds: float = 30.0  # One step of the game may take so long, with the wait for those who asked before.
    send_seconds: float = 10.0  # A client has to take what was sent to it within this time.
    connections: int = 512  # So many connections can be open.
    spectators: int = 8  # So many requests can wait for the next step of the game.


def limits_for(spec: dict[str, Any], base: Limits | None = None) -> Limits:
    """The limits with room for the bodies of this agent."""
    base = base or Limits()
    observation = spec["observation"]
    numbers = math.prod(observation["shape"])
    text = numbers * CHARACTERS[np.dtype(observation["dtype"]).kind]
    body = max(base.body, base.max_batch_size * text)
    return base._replace(body=body, bodies=max(base.bodies, 4 * body))
