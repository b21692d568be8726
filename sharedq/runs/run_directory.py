"""The folder that a run leaves behind, readable without this library: what was asked, with what, and how it ended."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from sharedq.errors import SharedqError
from sharedq.runs.durable import atomic_write, sync_folder, write_synced

SCHEMA = 1
PACKAGES = ("sharedq", "jax", "jaxlib", "flax", "optax", "numpy")
WORLDS = ("pgx", "gymnasium", "ale-py", "opencv-python-headless", "box2d", "dm-control", "mujoco")  # those installed


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk. Made by `create` or found by `open`, which both check what is there."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, experiment: dict, command: str, overwrite: bool = False) -> Self:
        """Makes the folder of a new run. With `overwrite` it takes the place of a run, never of anything else."""
        path = Path(path).absolute()
        unfinished, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("new", "old"))
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise SharedqError(f"cannot make a run in {path.parent} ({error.strerror}): choose another --out") from None
        try:
            described = {"schema": SCHEMA, "experiment": experiment}
            write_synced(unfinished / "experiment.json", [_json(described)])
            write_synced(unfinished / "versions.json", [_json(versions())])
            write_synced(unfinished / "command.txt", [f"{command}\n".encode()])
            (unfinished / "checkpoints").mkdir()
            sync_folder(unfinished)
            if overwrite and (path / "experiment.json").is_file():
                with cls(path).writing():
                    path.rename(old)
                    unfinished.rename(path)
                shutil.rmtree(old)
            else:
                _rename_onto_nothing(unfinished, path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        sync_folder(path.parent)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The run in `path`, whose experiment can be read."""
        path = Path(path).absolute()
        if not path.is_dir():
            raise SharedqError(f"there is no folder {path}: give the folder of a run")
        if not (path / "experiment.json").is_file():
            raise SharedqError(f"{path} holds no run (it has no experiment.json): give the folder of a run")
        run = cls(path)
        described = run.read_json("experiment.json")
        if not isinstance(described, dict) or "experiment" not in described or "schema" not in described:
            raise SharedqError(f"{path / 'experiment.json'} describes no experiment: it was edited, train again")
        if described["schema"] != SCHEMA:
            raise SharedqError(
                f"{path} was written in format {described['schema']}, this version reads format {SCHEMA}: "
                "use the version named in its versions.json"
            )
        return run

    def experiment(self) -> dict:
        """What was asked for, as it was given to `create`."""
        return self.read_json("experiment.json")["experiment"]

    def digest(self) -> str:
        """A name for the experiment's content: two runs of the same experiment have the same one."""
        canonical = json.dumps(self.experiment(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def finish(self, summary: dict) -> None:
        """Marks the run as complete."""
        self.write_json("finished.json", summary)

    def finished(self) -> dict | None:
        """The summary that the run ended with, or None as long as it has not ended."""
        return self.read_json("finished.json") if (self.path / "finished.json").exists() else None

    def diverge(self, step: int, seed: int, message: str) -> None:
        """Marks the run as one that cannot end: going on would come to the same step again."""
        self.write_json("diverged.json", {"step": step, "seed": seed, "message": message})

    def diverged(self) -> dict | None:
        """Where and how the run diverged, or None if it did not."""
        return self.read_json("diverged.json") if (self.path / "diverged.json").exists() else None

    def write_json(self, name: str, value: Any) -> None:
        atomic_write(self.path / name, _json(value))

    def read_json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_bytes())
        except (OSError, ValueError) as error:
            raise SharedqError(f"cannot read {self.path / name} ({error}): restore the file or train again") from None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the run for this process. The lock lives as long as its file is open, so a killed process frees it."""
        with (self.path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SharedqError(
                    f"another process is writing {self.path}: wait for it, stop it, or choose another --out"
                ) from None
            yield


def versions() -> dict:
    """What the run was made with; nothing that names a person or a machine."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            return None

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        **{package: version(package) for package in PACKAGES},
        **{package: found for package in WORLDS if (found := version(package))},
    }


def _rename_onto_nothing(unfinished: Path, path: Path) -> None:
    """The system itself refuses to rename onto a folder that holds anything, so two runs cannot both win."""
    try:
        unfinished.rename(path)
    except OSError:
        if (path / "experiment.json").is_file():
            raise SharedqError(
                f"{path} already holds a run: choose another --out, continue it with 'sharedq resume {path}', "
                "or replace it with --overwrite"
            ) from None
        raise SharedqError(f"{path} exists and is not a run, so it is left alone: choose another --out") from None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
