"""Tables of kinds: our own, those of installed packages, and those in a user's modules.

A kind is the frozen dataclass of settings behind a name, such as `shared_heads` of `--target`. A package names its
kinds as entry points, in the groups `sharedq.targets`, `sharedq.algorithms`, `sharedq.networks`,
`sharedq.environments`, `sharedq.replays` and `sharedq.trainings`. A kind in a user's module has the name
`package.module:Class`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from sharedq.errors import SharedqError, told, unknown
from sharedq.imports import resolve


class Table(Mapping[str, type]):
    """The kinds of one part of an experiment, by name."""

    def __init__(self, part: str, ours: Mapping[str, type]):
        self.part = part
        self._ours = ours

    def __getitem__(self, name: str) -> type:
        if name in self._ours:
            return self._ours[name]
        if name in (found := entry_points(f"sharedq.{self.part}s")):
            return self._checked(load_entry_point(found[name]), name)
        if needs_import(name):
            return self._checked(resolve(name, f"{self.part}"), name)
        raise unknown(self.part, name, self)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._ours, **entry_points(f"sharedq.{self.part}s")})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def name_of(self, kind: type) -> str:
        """The name of a kind, by which another process finds it too."""
        for name, one in self._ours.items():
            if one is kind:
                return name
        for name, entry in entry_points(f"sharedq.{self.part}s").items():
            if entry.value == f"{kind.__module__}:{kind.__qualname__}":
                return name
        self._checked(kind, kind.__qualname__)
        if "<locals>" in kind.__qualname__:
            raise SharedqError(
                f"{self.part} '{kind.__name__}' must be defined at the top of a module, to be found again"
            )
        return f"{kind.__module__}:{kind.__qualname__}"

    def _checked(self, kind: Any, name: str) -> type:
        """The kind. Raises an error if a part cannot be built from it."""
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise SharedqError(f"{self.part} '{name}' is not a dataclass of settings")
        if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise SharedqError(f"{self.part} '{name}' can be changed: write @dataclass(frozen=True)")
        if not callable(getattr(kind, "build", None)):
            raise SharedqError(f"{self.part} '{name}' has no method build: see docs/adding.md")
        return kind


def needs_import(name: str) -> bool:
    """Whether a kind's name is `package.module:Class`, so that looking it up imports a module."""
    return ":" in name


@cache
def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of installed packages in this group, by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=group)}


def load_entry_point(entry: metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # the user needs to know any error of the other package
        package = entry.dist.name if entry.dist else entry.value
        raise SharedqError(f"'{entry.name}' of the package {package} cannot be loaded: {told(error)}") from error
