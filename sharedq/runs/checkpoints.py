"""Checkpoints: a folder per step with a safetensors file per part and a JSON that vouches for them; no pickle.

A part that changes little from one checkpoint to the next is written in pieces instead (see `pieces.py`): a replay
costs what it gained.

A checkpoint is built under another name and renamed when all of it lies on the disk, and it is renamed away before
it is removed. So a folder named by a step is complete, whenever the process was killed. The same holds for the folder
`best`, the one checkpoint that is replaced: the old one is moved aside, and it comes back if the new one did not.
"""

import hashlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharedq.errors import SharedqError
from sharedq.json_files import check_form
from sharedq.runs import pieces, tensor_file
from sharedq.runs.durable import sync_folder, write_synced
from sharedq.runs.sealed import read_sealed, sealed

SCHEMA = 4
SEALED = 3  # of checkpoints whose agents are not packed
UNSEALED = 2  # of those of version 0.1.0, which also lack a checksum of checkpoint.json itself
AGENT = "agent"  # the part whose arrays are packed where that makes them smaller
BEST = "best"  # the name of the checkpoint that holds the best agent of each seed
ASIDE = ".best"  # its name while a better one takes its place
UNFINISHED = ".unfinished"  # the name of a checkpoint while it is written
REMOVED = ".removed"  # the name of a checkpoint while its files are removed
UNNAMED = (UNFINISHED, REMOVED)

FORM = {"schema": int, "step": int, "experiment": str, "parts": {str: Any}, "meta": {str: Any}}
TOLD = {"bytes": int, "sha256": str}  # of a file
WEIGHTS = ("params", "target_params")  # in the path of an agent's leaf: what it acts with, which is never without end


def save(
    folder: Path,
    step: int,
    parts: Mapping[str, Any],
    experiment: str,
    meta: dict,
    keep: int = 2,
    in_pieces: Collection[str] = (),
) -> Path:
    """Writes the checkpoint of `step`, those parts named by `in_pieces` in pieces; removes what it makes superfluous.

    That is the older ones beyond the newest `keep`, and any of a later step: they belong to a course of the run that
    was given up when an older checkpoint was taken up again. So the one saved last is always the latest.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    unfinished, path = _write(folder, step, parts, experiment, meta, in_pieces), folder / f"{step:012d}"
    if path.exists():  # saved twice at one step, where a rename cannot replace a full folder
        _remove(path)
    unfinished.replace(path)
    sync_folder(folder)
    _prune(folder, step, keep)
    return path


def save_best(folder: Path, step: int, agent: Any, experiment: str, meta: dict) -> None:
    """Writes the checkpoint `best`, in place of the one before; `step` is that of the newest agent in it."""
    unfinished, path, aside = _write(folder, step, {"agent": agent}, experiment, meta), folder / BEST, folder / ASIDE
    if path.exists():
        path.rename(aside)
    unfinished.rename(path)
    sync_folder(folder)
    shutil.rmtree(aside, ignore_errors=True)


def best(folder: Path) -> Path | None:
    """The checkpoint of the best agents, if there is one.

    If a process was killed while it replaced the checkpoint, this is the one that was moved aside.
    """
    return next((path for path in (folder / BEST, folder / ASIDE) if path.is_dir()), None)


def is_best(path: Path) -> bool:
    """Whether a checkpoint is that of the best agents, which has no step for a name."""
    return path.name in (BEST, ASIDE)


def _write(
    folder: Path, step: int, parts: Mapping[str, Any], experiment: str, meta: dict, in_pieces: Collection[str] = ()
) -> Path:
    """Writes a checkpoint under the name that it has before it gets its own."""
    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    known = _pieces(latest(folder)) if in_pieces else {}
    written = {
        part: pieces.write(unfinished / part, tensor_file.chunks(tree), known)
        if part in in_pieces
        else tensor_file.write(_file(unfinished, part), tree, packs=part == AGENT)
        for part, tree in parts.items()
    }
    manifest = {"schema": SCHEMA, "step": step, "experiment": experiment, "parts": written, "meta": meta}
    try:
        text = sealed(manifest)
    except (TypeError, ValueError) as error:
        raise SharedqError(f"the checkpoint of step {step:,} needs what JSON can hold of each world: {error}") from None
    write_synced(unfinished / "checkpoint.json", [text])
    sync_folder(unfinished)
    return unfinished


def sweep(folder: Path, keep: int) -> None:
    """Removes what a save that was killed has left: a checkpoint half written, and those beyond the newest `keep`.

    A best agent that was moved aside, and that no better one took the place of, comes back.
    """
    if (folder / ASIDE).exists() and not (folder / BEST).exists():
        (folder / ASIDE).rename(folder / BEST)
    for name in (*UNNAMED, ASIDE):
        shutil.rmtree(folder / name, ignore_errors=True)
    if steps := all_steps(folder):
        _prune(folder, steps[-1], keep)


def all_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order. What has another name than `save` gives is none."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if re.fullmatch("[0-9]{12,}", path.name) and path.is_dir()]
    return sorted(int(name) for name in names if name == f"{int(name):012d}")


def all_paths(folder: Path) -> list[Path]:
    """Every checkpoint: those of the steps, in order, and that of the best agents."""
    found = best(folder)
    return [folder / f"{step:012d}" for step in all_steps(folder)] + ([found] if found else [])


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, if there is one."""
    steps = all_steps(folder)
    return folder / f"{steps[-1]:012d}" if steps else None


def read_meta(path: Path, experiments: Collection[str] | None = None, form: Any = Any, oldest: int = UNSEALED) -> dict:
    """The `meta` given to `save`, which has this form.

    With the digests that the run's experiment has had, refuses a checkpoint of another one; with the `oldest` schema
    that the run can have, one that claims to be older, and so to need no checksum.
    """
    manifest = _manifest(path)
    if manifest["schema"] < oldest:
        raise SharedqError(f"{path / 'checkpoint.json'} was edited (it lost its checksum): {_remedy(path)}")
    if experiments is not None and manifest["experiment"] not in experiments:
        raise SharedqError(f"{path} is a checkpoint of another experiment: resume the run that it belongs to")
    try:
        check_form(manifest["meta"], form, "meta")
    except ValueError as error:
        raise SharedqError(f"{path / 'checkpoint.json'} was edited or damaged ({error}): {_remedy(path)}") from None
    return manifest["meta"]


def experiment_of(path: Path) -> str:
    """The digest of the experiment that a checkpoint is of."""
    return _manifest(path)["experiment"]


def holds(path: Path, part: str) -> bool:
    return part in _manifest(path)["parts"]


def load(path: Path, part: str, like: Any) -> Any:
    """One part, bit for bit as it was saved, in the structure of `like` (arrays or `jax.ShapeDtypeStruct`s).

    Numpy leaves of `like` come back as numpy arrays, all others as jax arrays.
    """
    content = _part(path, part)
    try:
        return tensor_file.restore(content, like)
    except ValueError as damaged:
        raise _no_tensors(path, part, damaged) from None
    except SharedqError as misfit:
        raise SharedqError(
            f"part '{part}' of {path} does not fit: {misfit}; use the settings and version that wrote it"
        ) from None


def load_arrays(path: Path, part: str) -> dict[str, np.ndarray]:
    """The arrays of one part by their names of now, whatever it is a part of."""
    try:
        return tensor_file.read_arrays(_part(path, part))
    except ValueError as damaged:
        raise _no_tensors(path, part, damaged) from None


def _part(path: Path, part: str) -> np.ndarray:
    """The bytes of one part, verified."""
    parts = _manifest(path)["parts"]
    if part not in parts:
        raise SharedqError(f"{path} holds no part '{part}', only {', '.join(parts)}")
    return _content(path, files(path, part, parts[part]))


def _no_tensors(path: Path, part: str, damaged: ValueError) -> SharedqError:
    return SharedqError(f"part '{part}' of {path} is no safetensors file ({damaged}): {_remedy(path)}")


def load_agent(path: Path, like: Any) -> Any:
    """The part `agent`, whose weights are finite numbers."""
    agent = load(path, "agent", like)
    for name, leaf in tensor_file.named_leaves(agent).items():
        if set(name.split("/")) & set(WEIGHTS) and not np.isfinite(np.asarray(leaf, np.float32)).all():
            raise SharedqError(f"'{name}' in the agent of {path} is not finite in every number: {_remedy(path)}")
    return agent


def check(path: Path) -> Iterator[tuple[Path, str]]:
    """Every file of a checkpoint, with what is wrong with it, or nothing."""
    try:
        manifest = _manifest(path)
    except SharedqError as error:
        yield path / "checkpoint.json", str(error)
        return
    yield path / "checkpoint.json", ""
    for part, told in manifest["parts"].items():
        for file, one in files(path, part, told):
            try:
                content = _content(path, [(file, one)])
                if isinstance(told, dict):  # a part in pieces is not joined for this: it may be most of the memory
                    tensor_file.read_header(content)
                yield file, ""
            except SharedqError as error:
                yield file, str(error)
            except ValueError as error:
                yield file, f"{file} is no safetensors file ({error}): {_remedy(path)}"


def files(path: Path, part: str, told: dict | list[dict]) -> list[tuple[Path, dict]]:
    """The files that a part lies in, with what the checkpoint says of them."""
    if isinstance(told, dict):
        return [(_file(path, part), told)]
    return [(pieces.file_of(path / part, number), one) for number, one in enumerate(told)]


def _content(path: Path, files: list[tuple[Path, dict]]) -> np.ndarray:
    """The bytes of files, one after another and verified. No more memory is taken than the files have bytes."""
    for file, told in files:
        try:
            size = file.stat().st_size
        except OSError as error:
            raise SharedqError(f"cannot read {file} ({error.strerror}): {_remedy(path)}") from None
        if size < told["bytes"]:
            raise SharedqError(f"{file} is truncated ({size} of {told['bytes']} bytes): {_remedy(path)}")
        if size > told["bytes"]:
            raise SharedqError(
                f"{file} was edited or damaged (it has {size} bytes, not {told['bytes']}): {_remedy(path)}"
            )
    content, end = np.empty(sum(told["bytes"] for _, told in files), np.uint8), 0
    for file, told in files:
        begin, end = end, end + told["bytes"]
        room = content[begin:end].data
        try:
            with file.open("rb") as opened:
                whole = opened.readinto(room) == told["bytes"]
        except OSError as error:
            raise SharedqError(f"cannot read {file} ({error.strerror}): {_remedy(path)}") from None
        if not whole or hashlib.sha256(room).hexdigest() != told["sha256"]:
            raise SharedqError(f"{file} was edited or damaged (its checksum differs): {_remedy(path)}")
    return content


def _pieces(path: Path | None) -> dict[str, Path]:
    """The pieces of a checkpoint by their checksums; none of one that cannot be read."""
    if path is None:
        return {}
    try:
        parts = _manifest(path)["parts"]
    except SharedqError:
        return {}
    found = [files(path, part, told) for part, told in parts.items() if isinstance(told, list)]
    return {told["sha256"]: file for one in found for file, told in one}


def _file(path: Path, part: str) -> Path:
    return path / f"{part}.safetensors"


def _manifest(path: Path) -> dict:
    file = path / "checkpoint.json"
    manifest = read_sealed(file, {"schema": int}, _remedy(path))
    if manifest["schema"] not in (SCHEMA, SEALED, UNSEALED):
        raise SharedqError(
            f"{path} was written in format {manifest['schema']}, this version reads format {SCHEMA}: "
            "use the version that wrote it"
        )
    try:
        check_form(manifest, FORM if manifest["schema"] == UNSEALED else FORM | {"sha256": str})
        for part, told in manifest["parts"].items():
            check_form(told, [TOLD] if isinstance(told, list) else TOLD, f"parts.{part}")
            if not told or not re.fullmatch(r"\w+", part):
                raise ValueError(f"'{part}' is no part, or has no file")
    except ValueError as error:
        raise SharedqError(f"{file} was edited or damaged ({error}): {_remedy(path)}") from None
    if not is_best(path) and path.name != f"{manifest['step']:012d}":
        raise SharedqError(
            f"{path} holds the checkpoint of step {manifest['step']:,}: it was renamed or exchanged, {_remedy(path)}"
        )
    return manifest


def _remedy(path: Path) -> str:
    if is_best(path):
        return f"remove {path}, and the best agent is the best of those that are evaluated from then on"
    older = [step for step in all_steps(path.parent) if path.name.isdecimal() and step < int(path.name)]
    if not older:
        return "there is no older checkpoint, train again"
    return f"remove {path.name} to continue from the older checkpoint {older[-1]:012d}"


def _prune(folder: Path, newest: int, keep: int) -> None:
    """Keeps `keep` checkpoints up to the step `newest`."""
    steps = all_steps(folder)
    kept = [one for one in steps if one <= newest][-keep:]
    for one in steps:
        if one not in kept:
            _remove(folder / f"{one:012d}")


def _remove(path: Path) -> None:
    removed = path.with_name(REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    path.rename(removed)
    shutil.rmtree(removed)
