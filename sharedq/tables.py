"""Tables of kinds: our own, those of installed packages, and those in a user's modules.

A kind is the frozen dataclass of settings behind a name, such as `shared_heads` of `--target`. A package names its
kinds as entry points, in the groups `sharedq.targets`, `sharedq.algorithms`, `sharedq.networks`,
`sharedq.environments`, `sharedq.replays`, `sharedq.samplers`, `sharedq.trainings` and `sharedq.measures`. A kind in a
user's module has the name `package.module:Class`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from sharedq.errors import SharedqError, unknown
from sharedq.imports import own_errors, resolve

COMPARED = ("online_network", "target_network", "shared_heads:heads=1", "shared_heads:heads=9")  # if none are named


class Table(Mapping[str, type]):
    """The kinds of one part of an experiment, by name."""

    def __init__(self, part: str, ours: Mapping[str, type]):
        self.part, self.ours = part, ours

    def __getitem__(self, name: str) -> type:
        if name in self.ours:
            return self.ours[name]
        if name in (found := entry_points(f"sharedq.{self.part}s")):
            return self._checked(load_entry_point(found[name]), name)
        if needs_import(name):
            return self._checked(resolve(name, f"{self.part}"), name)
        raise unknown(self.part, name, self)

    def __iter__(self) -> Iterator[str]:
        return iter({**self.ours, **entry_points(f"sharedq.{self.part}s")})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        """Whether the name is ours or a package's. This imports nothing."""
        return name in self.ours or name in entry_points(f"sharedq.{self.part}s")

    def is_ours(self, kind: type) -> bool:
        return any(one is kind for one in self.ours.values())

    def name_of(self, kind: type) -> str:
        """The name of a kind, by which another process finds it too."""
        for name, one in self.ours.items():
            if one is kind:
                return name
        for name, entry in entry_points(f"sharedq.{self.part}s").items():
            imported = entry.module.partition(".")[0] == kind.__module__.partition(".")[0]
            if name not in self.ours and imported and load_entry_point(entry) is kind:
                return name
        self._checked(kind, kind.__qualname__)
        if "<locals>" in kind.__qualname__:
            raise SharedqError(
                f"{self.part} '{kind.__name__}' must be defined at the top of a module, to be found again"
            )
        return f"{kind.__module__}:{kind.__qualname__}"

    def package_of(self, name: str) -> str | None:
        """The installed package that brings the kind of this name; None if it is ours, or in a user's module."""
        entry = None if name in self.ours else entry_points(f"sharedq.{self.part}s").get(name)
        return entry.dist.name if entry is not None and entry.dist is not None else None

    def _checked(self, kind: Any, name: str) -> type:
        """The kind. Raises an error if a part cannot be built from it."""
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise SharedqError(f"{self.part} '{name}' is not a dataclass of settings")
        if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise SharedqError(f"{self.part} '{name}' can be changed: write @dataclass(frozen=True)")
        if not callable(getattr(kind, "build", None)):
            raise SharedqError(f"{self.part} '{name}' has no method build: see docs/adding.md")
        return kind


def require_packages(packages: Mapping[str, str]) -> None:
    """Raises if one of these packages, each by the name of a kind that it brings, is not installed."""
    for name, package in packages.items():
        try:
            metadata.distribution(package)
        except (metadata.PackageNotFoundError, ValueError):
            raise SharedqError(
                f"{name} is of the package '{package}', which is not installed here: install it, and run this again"
            ) from None


def needs_import(name: str) -> bool:
    """Whether a kind's name is `package.module:Class`, so that looking it up imports a module."""
    return ":" in name


@cache
def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of installed packages in this group, by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=group)}


def load_entry_point(entry: metadata.EntryPoint) -> Any:
    """What an entry point names. An error in the package's code is reported with its file and line."""
    package = entry.dist.name if entry.dist else entry.value
    with own_errors(f"'{entry.name}' of the package {package} cannot be loaded: it", entry.module):
        return entry.load()
