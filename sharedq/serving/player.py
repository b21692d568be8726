"""The game that an exported agent plays on the page, in the environment that its file names.

All of our environments are described with JAX, so this is the only part of serving that imports it.
"""

import base64
import contextlib
import struct
import zlib
from typing import Any

import numpy as np

from sharedq.environments.contract import DescribedEnvironment, HostEnvironment, autoreset
from sharedq.environments.spec import from_json
from sharedq.errors import SharedqError, reason
from sharedq.experiment import Built, Experiment, Trust
from sharedq.exporting.decision import from_units
from sharedq.playing.episodes import OneOnDevice
from sharedq.runtime import Agent


class Player:
    """One environment with pictures, if it can draw. Episodes follow each other."""

    def __init__(self, agent: Agent, seed: int, trust: Trust = False):
        """Raises if there is no environment to play in. It is opened by the first call of `observation`."""
        try:
            self._spec = from_json(agent.spec)
            experiment = Experiment.from_dict(agent.metadata["experiment"], trust)
        except (KeyError, ValueError) as error:
            raise SharedqError(f"the file does not describe what to play in ({reason(error)})") from None
        self._environment = Built(experiment, self._spec, None, None).environment  # type: ignore[arg-type]
        if isinstance(self._environment, DescribedEnvironment):
            raise SharedqError(
                "--play has nothing to play in: the agent was trained from recorded data, without an environment"
            )
        self.names = experiment.action_meanings()
        self._seed, self._draws = seed, False
        self._worlds: Any = None
        self._episode, self._steps, self._return = 1, 0, 0.0
        self._last: float | None = None  # the return of the last episode

    def observation(self) -> np.ndarray:
        if self._worlds is None:
            worlds, self._draws = self._opened()
            try:
                self._obs = worlds.reset()
            except Exception:  # the next call opens another one
                worlds.close()
                raise
            self._worlds = worlds
            self._episode, self._steps, self._return, self._last = 1, 0, 0.0, None
        return self._obs

    def step(self, action: np.ndarray) -> None:
        try:
            outcome = self._worlds.step(from_units(self._spec.actions, action))
        except SharedqError:  # the environment broke down: the next step begins anew
            self.close()
            raise
        self._obs, self._steps = outcome.obs, self._steps + 1
        self._return += float(outcome.reward[0])
        if outcome.terminated[0] or outcome.truncated[0]:
            self._last = self._return
            self._episode, self._steps, self._return = self._episode + 1, 0, 0.0

    def frame(self) -> dict[str, Any]:
        told = {"episode": self._episode, "step": self._steps, "return": self._return, "last_return": self._last}
        picture = base64.b64encode(png(self._worlds.picture())).decode() if self._draws else None
        return {**told, "picture": picture}

    def close(self) -> None:
        if self._worlds is not None:
            self._worlds.close()
            self._worlds = None

    def _opened(self) -> tuple[Any, bool]:
        """The environment, and whether it draws pictures."""
        if not isinstance(self._environment, HostEnvironment):
            one = OneOnDevice(autoreset(self._environment), self._seed)
            return one, one.has_picture
        with contextlib.suppress(SharedqError):  # it has no pictures, or cannot draw on this machine
            return self._environment.open(1, self._seed, render=True), True
        return self._environment.open(1, self._seed), False


def png(picture: np.ndarray) -> bytes:
    """A picture, uint8 [H, W, 3], in the format PNG."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = picture.reshape(height, -1)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),  # 8 bits, red green blue
        b"IDAT": zlib.compress(rows.tobytes(), 1),
        b"IEND": b"",
    }
    framed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
