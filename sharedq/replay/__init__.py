"""Replays, on the device. To add one, write a file with a frozen dataclass with `build(...)`, and add a line here."""

from sharedq.replay.frame_stacks import FrameStacks
from sharedq.replay.none import NoReplay
from sharedq.replay.replay import Replay
from sharedq.replay.uniform import Uniform

REPLAYS = {"uniform": Uniform, "frame_stacks": FrameStacks, "none": NoReplay}

__all__ = ["REPLAYS", "FrameStacks", "NoReplay", "Replay", "Uniform"]
