"""The folder that a run leaves behind, readable without this library: what was asked, with what, and how it ended."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Self

from sharedq import formats
from sharedq.errors import SharedqError
from sharedq.imports import names_code
from sharedq.json_files import Maybe, read_json
from sharedq.processes import lives
from sharedq.runs import checkpoints, run_files
from sharedq.runs.begun_with import versions
from sharedq.runs.checkpoints import UNSEALED
from sharedq.runs.durable import atomic_write, checksum, refuse_links, sync_folder, write_synced
from sharedq.runs.lock import locked
from sharedq.runs.sealed import read_sealed, sealed
from sharedq.validation import path as as_path

UNKNOWN = "it describes no experiment, so restore it or train again"
UNKNOWN_DATA = "restore it from a copy of the run, or train again"
NOTED: dict[str, Any] = {"reward_shift": Maybe(float), "reward_scale": Maybe(float)}
DESCRIBED: dict[str, Any] = {"schema": int, "experiment": {str: Any}, "earlier": Maybe([str])}
VERSIONS: dict[str, Any] = {"checkpoint_format": Maybe(int), "jax": Maybe(str | None)}
FINISHED: dict[str, Any] = {"steps": int, "steps_per_second": float, "seconds": float, "compile_seconds": float}
FINISHED |= {"evaluation_seconds": Maybe(float), "logs": Maybe({str: str}), "files": Maybe({str: str})}
DIVERGED: dict[str, Any] = {"step": int, "seed": int, "message": str}


class Start(NamedTuple):
    """The agents of all seeds that a run starts from."""

    agent: Any
    origin: dict[str, Any]  # where they come from, in a form that JSON can hold
    remark: str | None = None  # what somebody who starts from them should know


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk. Made by `create` or found by `open`, which both check what is there."""

    path: Path

    @classmethod
    def create(
        cls,
        path: str | Path,
        experiment: dict,
        command: str,
        overwrite: bool = False,
        spec: dict | None = None,
        start: Start | None = None,
        data: dict | None = None,
    ) -> Self:
        """Makes the folder of a new run. With `overwrite` it takes the place of a run, never of anything else.

        `data` describes the data set that a run learns from.
        The agents that a run starts from become its checkpoint of step 0, so it does not need the other run again.
        """
        path = as_path(path, "the folder of a run").absolute()
        if Path.cwd().is_relative_to(os.path.realpath(path)):
            raise SharedqError(f"{path} is the folder that this command runs in, or one above: choose another --out")
        if path.name in ("", ".."):
            path = Path(os.path.realpath(path))
        try:
            sweep_beside(path)  # first, for it may bring back a run, which is to be replaced then
        except OSError as error:
            raise _cannot_make(path, error) from None
        replaced = overwrite and os.path.lexists(path)
        if replaced:
            _check_replaceable(path)
        unfinished, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("new", "old"))
        described = {"schema": formats.RUN, "experiment": experiment}
        if start is not None:
            described["started_from"] = start.origin
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise _cannot_make(path, error) from None
        try:
            write_synced(unfinished / "experiment.json", [_json(described)])
            if spec is not None:
                write_synced(unfinished / "spec.json", [_json(spec)])
            if data is not None:
                write_synced(unfinished / "data.json", [sealed(data)])
            write_synced(unfinished / "versions.json", [_json(versions(experiment.get("packages", {}).values()))])
            write_synced(unfinished / "command.txt", [f"{command}\n".encode(errors="surrogateescape")])
            (unfinished / "checkpoints").mkdir()
            if start is not None:
                checkpoints.save(unfinished / "checkpoints", 0, {"agent": start.agent}, _digest(experiment), {})
            sync_folder(unfinished)
            if replaced:
                with cls(path).writing():
                    path.rename(old)
                    unfinished.rename(path)
                with suppress(OSError):  # the next start removes the rest
                    run_files.remove(old)
            else:
                rename_onto_nothing(unfinished, path)
        except OSError as error:
            raise SharedqError(
                f"cannot make a run at {path} ({error.strerror}: {error.filename or path}): choose another --out"
            ) from None
        finally:
            if unfinished.exists():
                run_files.remove(unfinished)
        sync_folder(path.parent)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The run in `path`, whose experiment can be read."""
        path = as_path(path, "the folder of a run").absolute()
        if not path.is_dir():
            raise SharedqError(f"there is no folder {path}: give the folder of a run")
        refuse_links(path, (*run_files.FILES, *run_files.FOLDERS))
        if not (path / "experiment.json").is_file():
            raise SharedqError(f"{path} holds no run (it has no experiment.json): give the folder of a run")
        run = cls(path)
        run.experiment()
        return run

    def spec(self, form: Any) -> dict | None:
        """The description of the environment, as it was given to `create`; None of a run of 0.1.0, which has none."""
        path = self.path / "spec.json"
        return read_json(path, form, UNKNOWN) if path.exists() else None

    def data(self) -> dict:
        """What the run noted of the data set that it learned from; empty if it learned from none."""
        path = self.path / "data.json"
        return read_sealed(path, NOTED, UNKNOWN_DATA) if path.exists() else {}

    def experiment(self) -> dict:
        """What was asked for, as it was given to `create` or to `extend`."""
        return self._described()["experiment"]

    def _described(self) -> dict:
        described = read_json(self.path / "experiment.json", DESCRIBED, UNKNOWN)
        if described["schema"] != formats.RUN:
            raise SharedqError(
                f"{self.path} was written in format {described['schema']}, this version reads format {formats.RUN}: "
                "use the version named in its versions.json"
            )
        return described

    def digest(self) -> str:
        """A name for the experiment's content: two runs of the same experiment have the same one."""
        return _digest(self.experiment())

    def digests(self) -> list[str]:
        """The digest of the experiment, and those that it had before the run was extended: of older checkpoints."""
        return [self.digest(), *self._described().get("earlier", [])]

    def extend(self, experiment: dict) -> None:
        """Gives the run an experiment that goes on from its checkpoints. It is not finished then.

        The caller holds the run (see `writing`), and knows that the run can go on from its newest checkpoint. The file
        of the experiment is replaced at once, and remembers the digests that the checkpoints have. If the process is
        killed before that, the run is as it was, and only has to be finished again.
        """
        described = self._described() | {"experiment": experiment, "earlier": self.digests()}
        (self.path / "finished.json").unlink(missing_ok=True)
        sync_folder(self.path)
        self.write_json("experiment.json", described)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, wanted: str | int = "last") -> Path:
        """The folder of a checkpoint: "last", "best", or that of a step."""
        kept = {str(step): self.checkpoints / f"{step:012d}" for step in checkpoints.all_steps(self.checkpoints)}
        if wanted == "last" and not kept:
            raise SharedqError(f"{self.path} has no checkpoint yet: wait until it has trained to the first one")
        named = {"last": checkpoints.latest(self.checkpoints), "best": checkpoints.best(self.checkpoints)} | kept
        path = named.get(str(wanted))
        if path is None:
            there = ", ".join(name for name, path in named.items() if path) or "none yet"
            hint = "; a run keeps its best agent if it trains with --training.evaluation_period" * (wanted == "best")
            raise SharedqError(f"{self.path} has no checkpoint '{wanted}': choose from {there}{hint}")
        self.check_unedited(path)
        return path

    def check_unedited(self, checkpoint: Path | None) -> None:
        """Raises if the experiment is not that of a checkpoint of the run because experiment.json was edited."""
        if checkpoint is None or checkpoints.experiment_of(checkpoint) in self.digests():
            return
        name, end = "experiment.json", self.finished()
        known, where = (end or {}).get("files"), "finished.json"
        if known is None:
            known, where = checkpoints.read_meta(checkpoint).get("files") or {}, str(checkpoint)
        if name in known and known[name] != checksum(self.path / name):
            other = "" if end else ", or remove the checkpoint if it is of another run"
            raise SharedqError(
                f"{self.path / name} was edited or damaged (its checksum is not the one in {where}): restore it{other}"
            )

    def begun_with(self) -> dict:
        """What the run was begun with; nothing if that was not written down."""
        path = self.path / "versions.json"
        return read_json(path, VERSIONS, "restore it, or remove it") if path.exists() else {}

    def oldest_checkpoint(self) -> int:
        """The oldest format that a checkpoint of this run can have: that of the version that began it."""
        return self.begun_with().get("checkpoint_format", UNSEALED)

    def remarks(self, described: Mapping[str, str] | None = None) -> Iterator[str]:
        """What is worth knowing before the run is gone on with; `described` is its description as it was."""
        now = self.description()
        for name, known in (described or {}).items():
            if name in run_files.DESCRIPTIONS and now.get(name) != known:
                yield f"{self.path / name} is not as the checkpoint saw it: it was edited or damaged, restore it"
        jax, then = metadata.version("jax"), self.begun_with().get("jax")
        if then is not None and _series(then) != _series(jax):
            yield f"this run was begun with jax {then} and goes on with {jax}: it may not equal one that never stopped"

    def description(self) -> dict[str, str]:
        """The checksums of the files that describe the run."""
        return {name: checksum(self.path / name) for name in run_files.DESCRIPTIONS if (self.path / name).exists()}

    def finish(self, summary: dict, logs: dict[str, str], files: dict[str, str] | None = None) -> None:
        """Marks the run as complete; `logs` and `files` are the checksums of its log and of what describes it.

        A run that was gone on with hands on the description that its checkpoint knows: an edit is not vouched for.
        """
        ended = summary | {"logs": logs, "files": self.description() if files is None else files}
        atomic_write(self.path / "finished.json", sealed(ended))

    def finished(self) -> dict | None:
        """The summary that the run ended with, or None as long as it has not ended."""
        return self._end("finished.json", FINISHED)

    def diverge(self, step: int, seed: int, message: str) -> None:
        """Marks the run as one that cannot end: going on would come to the same step again."""
        self.write_json("diverged.json", {"step": step, "seed": seed, "message": message})

    def diverged(self) -> dict | None:
        """Where and how the run diverged, or None if it did not."""
        return self._end("diverged.json", DIVERGED)

    def _end(self, name: str, form: dict[str, Any]) -> dict | None:
        path = self.path / name
        remedy = f"remove it, and 'sharedq resume {shlex.quote(str(self.path))}' writes it again"
        return read_sealed(path, form, remedy) if path.exists() else None

    def write_json(self, name: str, value: Any) -> None:
        atomic_write(self.path / name, _json(value))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the run for this process, and removes what a process that was killed had only begun to write."""
        refuse_links(self.path, (*run_files.FILES, *run_files.FOLDERS))
        refusal = f"another process is writing {self.path}: wait for it, stop it, or choose another --out"
        with locked(self.path / "lock", refusal):
            sweep_beside(self.path)
            run_files.sweep(self.path)
            yield


def _digest(experiment: dict) -> str:
    canonical = json.dumps(experiment, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def rename_onto_nothing(unfinished: Path, path: Path) -> None:
    """The system itself refuses to rename onto a folder that holds anything, so two runs cannot both win."""
    try:
        unfinished.rename(path)
    except OSError:
        if not os.path.lexists(path):  # a full disk, say
            raise
        if (path / "experiment.json").is_file():
            finished = (path / "finished.json").exists()
            resume = f"sharedq resume {shlex.quote(str(path))}"
            onwards = f"train it for longer with '{resume} --steps N{_to_trust(path)}'"
            if not finished:
                onwards = f"continue it with '{resume}{_to_trust(path)}'"
            raise SharedqError(
                f"{path} already holds a run{' that is finished' * finished}: choose another --out, {onwards}, "
                "or replace it with --overwrite"
            ) from None
        raise _not_a_run(path) from None


def _to_trust(path: Path) -> str:
    """The option that resuming the run at `path` needs, if its settings name code."""
    try:
        return " --trust" if names_code(RunDirectory.open(path).experiment()) else ""
    except SharedqError:  # resuming will tell what is wrong with the file
        return ""


def _cannot_make(path: Path, error: OSError) -> SharedqError:
    return SharedqError(f"cannot make a run in {path.parent} ({error.strerror}): choose another --out")


def _not_a_run(path: Path) -> SharedqError:
    return SharedqError(f"{path} exists and is not a run, so it is left alone: choose another --out")


def _check_replaceable(path: Path) -> None:
    """Raises if `path` is anything else than the folder of a run, with nothing in it but what a run leaves."""
    if path.is_symlink():
        raise SharedqError(f"{path} is a symbolic link, which is not replaced: name the folder that it leads to")
    if not (path / "experiment.json").is_file():
        if path.is_dir() and not any(path.iterdir()):
            return
        raise _not_a_run(path)
    RunDirectory(path).experiment()
    if found := run_files.stranger(path):
        raise SharedqError(
            f"{path / found} is no file of a run, so {path} is not replaced: move it, or choose another --out"
        )


def sweep_beside(path: Path) -> None:
    """Removes what processes that are no more left beside a run while they made or replaced it.

    A run that was moved aside, and that nothing took the place of, comes back.
    """
    if not path.parent.is_dir():
        return
    for found in path.parent.iterdir():
        named = re.fullmatch(re.escape(f".{path.name}.") + r"([0-9]{1,9})\.(new|old)", found.name)
        if not named or found.is_symlink() or not found.is_dir() or lives(int(named[1])):
            continue
        if named[2] == "old" and not os.path.lexists(path):
            found.rename(path)
        else:
            run_files.remove(found)


def _series(version: str) -> list[str]:
    """The part of a version that tells whether two of them compute alike: 0.10 of 0.10.2."""
    return version.split(".")[:2]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
