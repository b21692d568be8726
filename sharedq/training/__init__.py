"""Training loops. To add one, write a frozen dataclass whose `build` returns a `Program`, and add a line here."""

from sharedq.training.fused import Fused
from sharedq.training.interactive import Interactive
from sharedq.training.offline import Offline
from sharedq.training.remote import Remote
from sharedq.training.streaming import Streaming

TRAININGS = {"fused": Fused, "interactive": Interactive, "streaming": Streaming, "offline": Offline, "remote": Remote}

__all__ = ["TRAININGS", "Fused", "Interactive", "Offline", "Remote", "Streaming"]
