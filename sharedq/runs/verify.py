"""Whether every file of a run is as it was written, by the checksums that the run keeps. Nothing is changed.

A checkpoint vouches for its own files and for the log up to itself, `finished.json` for the whole log and for what
describes the run, and both for themselves. Runs of version 0.1.0 have fewer checksums: what nothing vouches for is said
to be so, and counts as whole as long as it can be read.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sharedq import formats
from sharedq.errors import SharedqError
from sharedq.json_files import Maybe, read_json
from sharedq.runs import checkpoints, run_files
from sharedq.runs.durable import checksum, refuse_links
from sharedq.runs.run_directory import RunDirectory

PLAN = formats.PLAN_FILE
META = {"offsets": Maybe({str: int}), "logs": Maybe({str: str}), "files": Maybe({str: str})}  # of a run's checkpoint
NOT_VOUCHED = "nothing vouches for it"


class Finding(NamedTuple):
    """What is to be said of a file: its path, whether it may be as it was written, and why not or what is not known."""

    path: Path
    whole: bool
    remark: str = ""

    def __str__(self) -> str:
        remark = f" ({self.remark})" if self.remark else ""
        return f"{self.path}: whole{remark}" if self.whole else f"{self.path}: NOT WHOLE: {self.remark}"


def verify(folder: str | Path) -> Iterator[Finding]:
    """Every file of a run, or of all runs of a comparison, one after another; their paths are told in the folder."""
    folder = Path(folder).absolute()
    for finding in _comparison(folder) if (folder / PLAN).exists() else _run(folder):
        yield finding._replace(path=finding.path.relative_to(folder))


def _comparison(folder: Path) -> Iterator[Finding]:
    form = {"schema": int, "runs": [{"folder": str, "experiment": {str: Any}}]}
    try:
        refuse_links(folder, [PLAN])
        plan = read_json(folder / PLAN, form, "repeat the comparison with --overwrite")
    except SharedqError as error:
        yield Finding(folder / PLAN, False, str(error))
        return
    yield Finding(folder / PLAN, True)
    for planned in plan["runs"]:
        run = folder / planned["folder"]
        if not run.resolve().is_relative_to(folder.resolve()):
            yield Finding(folder / PLAN, False, f"its run {planned['folder']} lies outside the comparison")
        elif not run.exists():
            yield Finding(run, True, "it has not begun")
        else:
            yield from _run(run, planned["experiment"])


def _run(folder: Path, planned: dict[str, Any] | None = None) -> Iterator[Finding]:
    try:
        run = RunDirectory.open(folder)
    except SharedqError as error:
        yield Finding(folder / "experiment.json", False, str(error))
        return
    newest = checkpoints.latest(run.checkpoints)
    finished, end = _read(folder / "finished.json", run.finished)
    _, divergence = _read(folder / "diverged.json", run.diverged)
    meta, _ = _read(folder, lambda: checkpoints.read_meta(newest, form=META) if newest else None)
    vouched = (finished or meta or {}).get("files", {})
    if (
        newest and meta and not finished and checkpoints.experiment_of(newest) != run.digest()
    ):  # it was told to go on since
        vouched = {name: known for name, known in vouched.items() if name != "experiment.json"}
    other = "" if planned in (None, run.experiment()) else f"it is not the experiment that {PLAN} names"
    for name in run_files.DESCRIPTIONS:
        yield from _described(run, name, vouched, other if name == "experiment.json" else "")
    yield from _log(folder, finished, meta)
    yield from end
    yield from divergence
    if finished and (newest is None or int(newest.name) != finished["steps"]):
        yield Finding(run.checkpoints, False, f"the checkpoint of the last step, {finished['steps']:,}, is not there")
    if finished and run_files.EVALUATIONS in finished.get("logs", {}) and checkpoints.best(run.checkpoints) is None:
        yield Finding(run.checkpoints, False, "the best agent, which a run that evaluates keeps, is not there")
    kept = checkpoints.all_paths(run.checkpoints)
    for path in kept:
        yield from _checkpoint(run, path)
    for name, is_folder in sorted(run_files.paths(folder)):
        if not is_folder and not run_files.ours(name):
            yield Finding(folder / name, True, "it is no file of a run")
        elif not is_folder and _is_hidden(name) and (folder / name).parent not in kept:
            yield Finding(folder / name, True, "a process that was killed left it, and the next start removes it")


def _is_hidden(name: str) -> bool:
    """Whether a file of a run has the name, or lies in a folder with the name, that it has while it is written."""
    return any(step.startswith(".") for step in name.split("/"))


def _read(path: Path, read: Callable[[], dict | None]) -> tuple[dict | None, list[Finding]]:
    """What a file says, and the finding on it: none of a file that is not there."""
    try:
        content = read()
    except SharedqError as error:
        return None, [Finding(path, False, str(error))]
    if content is None:
        return None, []
    return content, [Finding(path, True, "" if "sha256" in content else NOT_VOUCHED)]


def _described(run: RunDirectory, name: str, vouched: Mapping[str, str], other: str) -> Iterator[Finding]:
    path = run.path / name
    try:
        if not path.exists():
            absent = name in vouched or name in ("versions.json", "command.txt")
            if absent:
                yield Finding(path, False, "it is not there")
        elif name in vouched:
            right = checksum(path) == vouched[name]
            yield Finding(path, right and not other, other if right else "its checksum differs")
        else:
            if name.endswith(".json"):
                read_json(path, {str: Any}, "restore it")
            by_checkpoint = name == "experiment.json" and checkpoints.latest(run.checkpoints)
            yield Finding(path, not other, other or ("" if by_checkpoint else NOT_VOUCHED))
    except (SharedqError, OSError) as error:
        yield Finding(path, False, str(error))


def _log(folder: Path, finished: dict | None, meta: dict | None) -> Iterator[Finding]:
    """The log against what the end of the run says of it, else against what the newest checkpoint saw of it."""
    whole = (finished or {}).get("logs")
    offsets = {} if whole is not None or meta is None else meta.get("offsets", {})
    sums = whole if whole is not None else (meta or {}).get("logs", {})
    there = {name for name, is_folder in run_files.paths(folder) if not is_folder and run_files.is_log(name)}
    for name in sorted(there | set(sums) | set(offsets)):
        path = folder / name
        try:
            if name not in there:
                yield Finding(path, False, "it is not there")
            elif path.stat().st_size < offsets.get(name, 0):
                yield Finding(path, False, f"it is shorter than the {offsets[name]} bytes that the checkpoint saw")
            elif name in sums and checksum(path, offsets.get(name)) != sums[name]:
                yield Finding(path, False, "its checksum differs")
            elif name in sums and path.stat().st_size > offsets.get(name, path.stat().st_size):
                yield Finding(path, True, "up to the newest checkpoint; nothing vouches for the rest")
            else:
                yield Finding(path, True, "" if name in sums else NOT_VOUCHED)
        except OSError as error:
            yield Finding(path, False, f"it cannot be read: {error.strerror}")


def _checkpoint(run: RunDirectory, path: Path) -> Iterator[Finding]:
    try:
        checkpoints.read_meta(path, run.digests(), oldest=run.oldest_checkpoint())
    except SharedqError as error:
        yield Finding(path / "checkpoint.json", False, str(error))
        return
    found = list(checkpoints.check(path))
    pieces = [file for file, wrong in found if file.parent != path and not wrong]
    for file, wrong in found:
        if wrong or file.parent == path:
            yield Finding(file, not wrong, wrong)
    if pieces:
        yield Finding(pieces[0].parent, True, f"{len(pieces)} piece{'s' * (len(pieces) > 1)}")
