"""No environment: observations and actions are described by a data set, and there is nothing to play in."""

from dataclasses import dataclass
from typing import Any, ClassVar

from sharedq.environments.contract import DescribedEnvironment
from sharedq.errors import SharedqError


@dataclass(frozen=True)
class Recorded:
    """No environment. The data set describes observations and actions, and nothing is evaluated by playing."""

    needs: ClassVar = ("replay",)  # the settings that `build` is given

    def build(self, replay: Any) -> DescribedEnvironment:
        if not hasattr(replay, "spec"):
            raise SharedqError(
                "environment 'recorded' is only known from a data set: add --replay dataset --data FOLDER and "
                "--training offline"
            )
        return DescribedEnvironment(replay.spec)
