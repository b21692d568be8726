"""The manifest of a store: where the data came from, what they mean, and the checksums of its files."""

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sharedq.environments.spec import JSON_FORM, EnvironmentSpec, from_json, to_json
from sharedq.errors import SharedqError
from sharedq.json_files import Maybe
from sharedq.runs.durable import atomic_write
from sharedq.runs.sealed import read_sealed, sealed

FILE = "manifest.json"
FORMAT = 1
REMEDY = "restore the data set from a copy, or convert it again"


@dataclass(frozen=True)
class Description:
    """What is known about data before any of it is read. None means that the source does not say."""

    source: str  # where the data came from, as a person would type it: minari:D4RL/door/human-v2
    reader: str  # the name of the format
    spec: EnvironmentSpec  # observations and actions; the name is "unknown" if the source does not name the environment
    stack: int | None = None  # frames in an observation: the store keeps frames, and the feed stacks them
    rewards: str = "raw"  # "raw", "unknown", or how they were treated: "clipped to -1 .. 1"
    action_repeat: int | None = None  # environment steps for each action
    sticky_actions: float | None = None  # the probability that the environment repeats the action before
    action_meanings: tuple[str, ...] | None = None  # the name of each discrete action
    behaviour: str | None = None  # who acted: "random", "a mixture of ..."
    environment: dict[str, Any] | None = None  # the settings of our environment, if the data were collected in one
    reference_scores: tuple[float, float] | None = None  # returns of a random agent and of an expert (Atari: a human)
    notes: tuple[str, ...] = ()  # what a reader of the data should know; `inspect` and the report print them

    @property
    def stored(self) -> tuple[tuple[int, ...], Any]:
        """The shape and the dtype of what the store keeps for one observation: the observation, or one frame."""
        form = self.spec.observation
        return (form.shape[:-1] if self.stack else form.shape), form.dtype

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(replace(self, spec=None)), "spec": to_json(self.spec)}  # type: ignore[arg-type]


FORM = {
    "format": int,
    "source": str,
    "reader": str,
    "spec": JSON_FORM,
    "stack": int | None,
    "rewards": str,
    "action_repeat": int | None,
    "sticky_actions": float | None,
    "action_meanings": Maybe(Any),
    "behaviour": str | None,
    "environment": Maybe(Any),
    "reference_scores": Maybe(Any),
    "notes": [str],
    "episodes": int,
    "steps": int,
    "ends": {"unknown": int, "terminated": int, "truncated": int},
    "groups": int,
    "made": str,
    "version": str,
    "block": int,
    "files": {str: {"bytes": int, "blocks": [str]}},
    "content": str,
}


@dataclass(frozen=True)
class Manifest:
    """The description of a store with what was counted while it was written."""

    description: Description
    episodes: int
    steps: int
    ends: dict[str, int]  # how many episodes ended in which way
    groups: int
    made: str  # the date
    version: str  # of sharedq
    block: int  # bytes of a block that has a checksum of its own
    files: dict[str, dict[str, Any]]  # of each file: its bytes, and the checksums of its blocks
    content: str  # the checksum of the whole data set: of its description and of its files

    def write(self, folder: Path) -> None:
        own = asdict(replace(self, description=None))  # type: ignore[arg-type]
        del own["description"]
        atomic_write(folder / FILE, sealed({"format": FORMAT, **self.description.to_dict(), **own}))


def read(folder: Path) -> Manifest:
    """The manifest of the store in `folder`."""
    path = folder / FILE
    if not path.is_file():
        convert = f"sharedq data convert {shlex.quote(str(folder))} OUT"
        raise SharedqError(f"{folder} is not a data set: it has no {FILE}; '{convert}' makes one from other formats")
    plain = read_sealed(path, FORM, REMEDY)
    if "sha256" not in plain:
        raise SharedqError(f"{path} was edited or damaged (it has no checksum): {REMEDY}")
    if plain["format"] != FORMAT:
        raise SharedqError(f"{path} is of format {plain['format']}, and this version reads {FORMAT}: update sharedq")
    try:
        spec = from_json(plain["spec"])
        fields = {name: plain[name] for name in Description.__dataclass_fields__ if name not in ("spec", "source")}
        for name in ("action_meanings", "reference_scores", "notes"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        description = Description(source=plain["source"], spec=spec, **fields)
        depth = spec.observation.shape[-1] if spec.stacks == "black" else None
        if description.stack not in (None, depth):
            raise ValueError(
                f"its observations {list(spec.observation.shape)} are no stacks of {description.stack} frames"
            )
        own = {name: plain[name] for name in Manifest.__dataclass_fields__ if name != "description"}
        if own["content"] != content_of(description, own["files"]):
            raise ValueError("the checksum of the data set differs")
        return Manifest(description, **own)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise SharedqError(f"{path} was edited or damaged ({error}): {REMEDY}") from None


def content_of(description: Description, files: dict[str, dict[str, Any]]) -> str:
    """The checksum of a whole data set. It does not depend on when the data were converted, or from where."""
    plain = {name: value for name, value in description.to_dict().items() if name != "source"}
    text = json.dumps([plain, files], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
