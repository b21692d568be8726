"""Checkpoints: a folder per step with a safetensors file per part and a JSON that vouches for them; no pickle.

A part that changes little from one checkpoint to the next is written in pieces instead (see `pieces.py`): a replay
costs what it gained.

A checkpoint is built under another name and renamed when all of it lies on the disk, and it is renamed away before
it is removed. So a folder named by a step is complete, whenever the process was killed.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharedq.errors import SharedqError
from sharedq.runs import pieces, tensor_file
from sharedq.runs.durable import sync_folder, write_synced

SCHEMA = 2
UNFINISHED, REMOVED = UNNAMED = ".unfinished", ".removed"  # what a checkpoint is called before it has a step, and after


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
    path, unfinished = folder / f"{step:012d}", folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    known = _pieces(latest(folder)) if in_pieces else {}
    written = {
        part: pieces.write(unfinished / part, tensor_file.chunks(tree), known)
        if part in in_pieces
        else tensor_file.write(_file(unfinished, part), tree)
        for part, tree in parts.items()
    }
    manifest = {"schema": SCHEMA, "step": step, "experiment": experiment, "parts": written, "meta": meta}
    write_synced(unfinished / "checkpoint.json", [(json.dumps(manifest, indent=2) + "\n").encode()])
    sync_folder(unfinished)
    if path.exists():  # saved twice at one step, where a rename cannot replace a full folder
        _remove(path)
    unfinished.replace(path)
    sync_folder(folder)
    steps = all_steps(folder)
    kept = [one for one in steps if one <= step][-keep:]
    for one in steps:
        if one not in kept:
            _remove(folder / f"{one:012d}")
    return path


def all_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, if there is one."""
    steps = all_steps(folder)
    return folder / f"{steps[-1]:012d}" if steps else None


def read_meta(path: Path, experiment: str | None = None) -> dict:
    """The `meta` given to `save`. With the digest of an experiment, refuses a checkpoint of another one."""
    manifest = _manifest(path)
    if experiment is not None and manifest["experiment"] != experiment:
        raise SharedqError(f"{path} is a checkpoint of another experiment: resume the run that it belongs to")
    return manifest["meta"]


def load(path: Path, part: str, like: Any) -> Any:
    """One part, bit for bit as it was saved, in the structure of `like` (arrays or `jax.ShapeDtypeStruct`s).

    Numpy leaves of `like` come back as numpy arrays, all others as jax arrays.
    """
    parts = _manifest(path)["parts"]
    if part not in parts:
        raise SharedqError(f"{path} holds no part '{part}', only {', '.join(parts)}")
    content = _content(path, _files(path, part, parts[part]))
    try:
        return tensor_file.restore(content, like)
    except SharedqError as misfit:
        raise SharedqError(
            f"part '{part}' of {path} does not fit: {misfit}; use the settings and version that wrote it"
        ) from None


def _files(path: Path, part: str, told: dict | list[dict]) -> list[tuple[Path, dict]]:
    """The files that a part lies in, with what the checkpoint says of them."""
    if isinstance(told, dict):
        return [(_file(path, part), told)]
    return [(pieces.file_of(path / part, number), one) for number, one in enumerate(told)]


def _content(path: Path, files: list[tuple[Path, dict]]) -> np.ndarray:
    """The bytes of files, one after another and verified."""
    content, end = np.empty(sum(told["bytes"] for _, told in files), np.uint8), 0
    for file, told in files:
        begin, end = end, end + told["bytes"]
        room = content[begin:end].data
        try:
            with file.open("rb") as opened:
                size = opened.readinto(room) + len(opened.read())
        except OSError as error:
            raise SharedqError(f"cannot read {file} ({error.strerror}): {_remedy(path)}") from None
        if size < told["bytes"]:
            raise SharedqError(f"{file} is truncated ({size} of {told['bytes']} bytes): {_remedy(path)}")
        if size > told["bytes"] or hashlib.sha256(room).hexdigest() != told["sha256"]:
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
    found = [_files(path, part, told) for part, told in parts.items() if isinstance(told, list)]
    return {told["sha256"]: file for files in found for file, told in files}


def _file(path: Path, part: str) -> Path:
    return path / f"{part}.safetensors"


def _manifest(path: Path) -> dict:
    file = path / "checkpoint.json"
    try:
        manifest = json.loads(file.read_bytes())
        schema = manifest["schema"]
    except (OSError, ValueError, TypeError, KeyError):
        raise SharedqError(f"{file} is missing or was edited: {_remedy(path)}") from None
    if schema != SCHEMA:
        raise SharedqError(
            f"{path} was written in format {schema}, this version reads format {SCHEMA}: use the version that wrote it"
        )
    return manifest


def _remedy(path: Path) -> str:
    older = [step for step in all_steps(path.parent) if path.name.isdecimal() and step < int(path.name)]
    if not older:
        return "there is no older checkpoint, train again"
    return f"remove {path.name} to continue from the older checkpoint {older[-1]:012d}"


def _remove(path: Path) -> None:
    removed = path.with_name(REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    path.rename(removed)
    shutil.rmtree(removed)
