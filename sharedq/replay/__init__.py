"""Storages of replays, on the device. To add one, write a file with its settings, and add a line here."""

from sharedq.replay.frame_stacks import FrameStacks
from sharedq.replay.none import NoReplay
from sharedq.replay.replay import Replay, Storage, uniform_replay
from sharedq.replay.rollout import Rollout
from sharedq.replay.transitions import Transitions

REPLAYS = {"transitions": Transitions, "frame_stacks": FrameStacks, "rollout": Rollout, "none": NoReplay}

__all__ = ["REPLAYS", "FrameStacks", "NoReplay", "Replay", "Rollout", "Storage", "Transitions", "uniform_replay"]
