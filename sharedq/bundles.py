"""A run as one archive that opens safely on another machine: a zip file with the run's files, a card, and a list.

`bundle.json` lists every file with its size and checksum, and is sealed. Opening a bundle writes only files that a run
can have, into a new folder that gets its name when all of them are there and right. Nothing in it is executed or
imported. The card, README.md, begins as the model cards of the Hugging Face Hub do, so that a bundle that was opened
can be uploaded as it is.
"""

import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError
from sharedq.imports import names_code
from sharedq.json_files import check_form, is_as_sealed, parse_json
from sharedq.reports import card
from sharedq.runs import RunDirectory, run_files
from sharedq.runs.durable import BLOCK, checksum, open_new, sync, sync_folder, write_synced
from sharedq.runs.run_directory import rename_onto_nothing, sweep_beside
from sharedq.runs.sealed import sealed
from sharedq.runs.verify import verify
from sharedq.units import readable
from sharedq.validation import path as as_path

LIST, CARD = "bundle.json", "README.md"
FORMAT = 1
FORM: dict[str, Any] = {"schema": int, "files": {str: {"bytes": int, "sha256": str}}, "sha256": str}
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in the archive, so that the same run gives the same bytes
LONGEST_LIST = 10_000_000  # ours: bytes of bundle.json
LARGEST = 2**40  # ours: bytes of all files together
SUFFIX = ".sharedq.zip"
NOT_PACKED = ("lock", "report.html", "summary.json", *run_files.TABLES_OF_PAGES)  # the lock, and what a report writes
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def bundle(run: str | Path, out: str | Path | None = None, licence: str | None = None, overwrite: bool = False) -> Path:
    """Packs a finished run into one archive, by default beside it. Returns its path."""
    directory = RunDirectory.open(run)
    if directory.finished() is None:
        raise SharedqError(f"{directory.path} is not finished: end it with 'sharedq resume {run}', then bundle it")
    if broken := next((finding for finding in verify(directory.path) if not finding.whole), None):
        raise SharedqError(f"{directory.path} is not bundled, because it is damaged: {broken}")
    path = as_path(out or directory.path.with_name(directory.path.name + SUFFIX), "the bundle").absolute()
    if path.is_relative_to(directory.path):
        raise SharedqError(f"{path} lies in the run that it would hold: choose another --out")
    if os.path.lexists(path) and not overwrite:
        raise SharedqError(f"{path} already exists: choose another --out, or add --overwrite")
    if os.path.lexists(path) and not _is_bundle(path):
        raise SharedqError(f"{path} is no bundle, so it is not replaced: choose another --out")
    names = sorted(name for name, is_folder in run_files.paths(directory.path) if not is_folder and _belongs(name))
    trust = names_code(directory.experiment())
    text = card.markdown(directory.path, licence, trust).encode()
    files = {name: _told(directory.path / name) for name in names}
    files[CARD] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open_new(unfinished) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(_entry(LIST), sealed({"schema": FORMAT, "files": files}))
                archive.writestr(_entry(CARD), text)
                for name in names:
                    with archive.open(_entry(name), "w") as target:
                        _copy(directory.path / name, files[name], target)
            sync(file)
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise SharedqError(f"cannot write {path} ({error.strerror}): choose another --out") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _copy(path: Path, told: dict[str, Any], target: Any) -> None:
    """Copies a file, which must still be as it is told."""
    hashed = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            hashed.update(block)
            target.write(block)
    if hashed.hexdigest() != told["sha256"]:
        raise SharedqError(f"{path} was changed while the run was bundled: bundle it again")


def _told(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def _belongs(name: str) -> bool:
    """Whether a path in a run is packed: what a run writes, and its film, but no pages."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    return run_files.ours(name) and not hidden and name not in NOT_PACKED and not name.startswith("figures/")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, DATE)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
    return entry


def _is_bundle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return LIST in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def load_bundle(bundle: str | Path, out: str | Path) -> Path:
    """Opens a bundle as the folder of a run, which must not be there yet. Returns the folder.

    Files are written under another name first. Only if each is as the bundle lists it does the folder get its name.
    """
    path, folder = as_path(bundle, "the bundle"), as_path(out, "the folder of a run").absolute()
    if os.path.lexists(folder):
        raise SharedqError(f"{folder} already exists: choose another --out")
    unfinished, made = folder.with_name(f".{folder.name}.{os.getpid()}.new"), False
    try:
        with zipfile.ZipFile(path) as archive:
            entries, files = _listed(archive)
            _check_room(folder, sum(told["bytes"] for told in files.values()))
            folder.parent.mkdir(parents=True, exist_ok=True)
            sweep_beside(folder)
            unfinished.mkdir()
            made = True
            for name, told in files.items():
                _extract(archive, entries[name], told, unfinished / name)
        if broken := next((finding for finding in verify(unfinished) if not finding.whole), None):
            raise ValueError(f"its run is damaged: {broken}")
        sync_folder(unfinished)
        rename_onto_nothing(unfinished, folder)
        sync_folder(folder.parent)
    except (FileNotFoundError, IsADirectoryError):
        raise SharedqError(f"there is no file {path}: give a bundle that 'sharedq bundle' wrote") from None
    except OSError as error:
        raise SharedqError(f"cannot open {path} into {folder} ({error.strerror or error})") from None
    except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise SharedqError(f"{path} is no bundle, or was damaged ({error}): get it again") from None
    finally:
        if made:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check_room(folder: Path, size: int) -> None:
    """Raises unless the disk has room for so many bytes."""
    there = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise SharedqError(f"the run needs {readable(size)}, and {there} has room for {readable(free)}: make room")


def _listed(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], dict[str, Any]]:
    """The entries of the archive by their names, and what bundle.json says of each. Raises `ValueError`."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if entry.filename in entries:
            raise ValueError(f"'{entry.filename}' is in it twice")
        if entry.compress_type not in COMPRESSIONS:
            raise ValueError(f"'{entry.filename}' is compressed in another way than ours")
        entries[entry.filename] = entry
    if LIST not in entries:
        raise ValueError(f"it has no {LIST}")
    with archive.open(LIST) as file:
        text = file.read(LONGEST_LIST + 1)
    if len(text) > LONGEST_LIST:
        raise ValueError(f"its {LIST} is too large")
    try:
        content = parse_json(text, FORM, LIST, "get it again")
    except SharedqError as error:
        raise ValueError(str(error)) from None
    check_form(content, FORM)
    if content["schema"] != FORMAT:
        raise ValueError(f"it has format {content['schema']}, and this version reads format {FORMAT}")
    if not is_as_sealed(content):
        raise ValueError(f"its {LIST} was edited")
    files = content["files"]
    if entries.keys() != {LIST, *files}:
        raise ValueError(f"it does not hold the files that its {LIST} lists")
    for name in files:
        if name != CARD and not _belongs(name):
            raise ValueError(f"'{name}' is no file of a run")
    if any(told["bytes"] < 0 for told in files.values()) or sum(told["bytes"] for told in files.values()) > LARGEST:
        raise ValueError("its files are too large")
    return entries, files


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, told: dict[str, Any], path: Path) -> None:
    """Writes one file, and no more bytes than it is said to have."""
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ValueError(f"'{entry.filename}' is no plain file")
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed, left = hashlib.sha256(), told["bytes"]

    def chunks():
        nonlocal left
        with archive.open(entry) as file:
            while block := file.read(BLOCK):
                left -= len(block)
                if left < 0:
                    raise ValueError(f"'{entry.filename}' is larger than it is said to be")
                hashed.update(block)
                yield block

    write_synced(path, chunks())
    if left or hashed.hexdigest() != told["sha256"]:
        raise ValueError(f"'{entry.filename}' is not as its {LIST} lists it")
