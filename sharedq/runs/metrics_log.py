"""The numbers of a run while it runs: two tables for programs, TensorBoard events for people.

A resumed run cuts every file back to where the checkpoint saw it and goes on, so what was logged after the
checkpoint is not there twice. The checkpoint knows the checksum of each file too, so an edited log is not gone on with.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from sharedq.errors import SharedqError
from sharedq.runs.durable import HashedFile, checksum, cut, refuse_links
from sharedq.runs.event_file import EventFile
from sharedq.runs.run_directory import RunDirectory
from sharedq.runs.run_files import EVALUATIONS, EVENTS, HISTOGRAMS, TABLES, is_log

EPISODE = ("step", "seed", "return", "length")  # the columns of an episode


class MetricsLog:
    """Appends to `metrics.csv`, `episodes.csv` and one TensorBoard folder per seed.

    A run that `evaluates` also has `evaluations.csv`. One with `histograms`, given by the edges of their bins, has
    `histograms.csv`, whose columns are called `name:from:to`.

    `offsets=None` begins the log of a new run. A resumed run gives the `offsets()` and `checksums()` that its
    checkpoint holds, or `{}` if there is no checkpoint yet: files are cut to their offset, and files without one are
    removed. A checkpoint of version 0.1.0 holds no checksums.
    """

    def __init__(
        self,
        run: RunDirectory,
        metric_names: Sequence[str],
        timing_names: Sequence[str] = (),
        offsets: Mapping[str, int] | None = None,
        checksums: Mapping[str, str] | None = None,
        evaluates: bool = False,
        histograms: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ):
        self._path = run.path
        self._columns = (*metric_names, *timing_names)
        self._tags = {name: f"train/{name}" for name in metric_names} | {name: f"time/{name}" for name in timing_names}
        refuse_links(run.path, [*TABLES, "tensorboard"])
        headers = {"metrics.csv": ("step", "seed", *self._columns), "episodes.csv": EPISODE}
        if evaluates:
            headers[EVALUATIONS] = EPISODE
        if histograms:
            bins = [(name, *ends) for name, edges in histograms.items() for ends in pairwise(edges)]
            headers[HISTOGRAMS] = ("step", "seed", *(f"{name}:{low:g}:{high:g}" for name, low, high in bins))
        self._edges = {name: np.asarray(edges, np.float64) for name, edges in histograms.items()}
        lines = {name: (",".join(columns) + "\n").encode() for name, columns in headers.items()}
        written = _written(run.path)
        if offsets is not None:
            check(run.path, offsets, checksums)
            _check_headers(run.path, lines, offsets)
            for name in written:
                _cut(run.path / name, offsets.get(name))
        elif written:
            onwards = f"sharedq resume {shlex.quote(str(run.path))}"
            raise SharedqError(f"{run.path} has a log already ({written[0]}): continue it with: {onwards}")
        self._files: dict[str, HashedFile] = {}
        self._events: dict[int, EventFile] = {}
        for name, line in lines.items():
            if len(file := self._open(name)) == 0:
                file.write(line)
        for name in sorted(offsets or {}):
            if name not in TABLES:
                self._open(name)

    def metrics(self, step: int, seed: int, values: Mapping[str, Any]) -> None:
        """One row of metrics and timings; a column without a value stays empty."""
        if strange := set(values) - set(self._columns):
            raise ValueError(f"no columns {sorted(strange)} in {self._columns}")
        numbers = {name: np.float32(value) for name, value in values.items()}  # their text is as short as reads back
        row = ",".join(str(numbers.get(name, "")) for name in self._columns)
        self._files["metrics.csv"].write(f"{step},{seed},{row}\n".encode())
        events, now = self._events_of(seed), time.time()
        for name, number in numbers.items():
            events.scalar(self._tags[name], float(number), step, now)

    def episodes(self, step: Any, seed: int, returns: Any, lengths: Any) -> None:
        """Episodes that ended: all of them to the table, only their mean to TensorBoard, whose files stay small so.

        `step` is one number, or one per episode; TensorBoard's point stands at the last.
        """
        self._played("episodes.csv", "episode", step, seed, returns, lengths)

    def evaluation(self, step: int, seed: int, returns: Any, lengths: Any) -> None:
        """The episodes that were played to evaluate the agent of a seed at this step."""
        self._played(EVALUATIONS, "evaluation", step, seed, returns, lengths)

    def histograms(self, step: int, seed: int, counts: Mapping[str, Any]) -> None:
        """One row of all histograms: how many numbers lie in each of their bins."""
        found = {name: np.asarray(counts[name]) for name in self._edges}
        numbers = ",".join(map(str, np.concatenate(list(found.values())).tolist()))
        self._files[HISTOGRAMS].write(f"{step},{seed},{numbers}\n".encode())
        events, now = self._events_of(seed), time.time()
        for name, edges in self._edges.items():
            events.histogram(f"train/{name}", edges, found[name], step, now)

    def _played(self, table: str, tag: str, step: Any, seed: int, returns: Any, lengths: Any) -> None:
        returns, lengths = np.asarray(returns, np.float32), np.asarray(lengths)
        if returns.size == 0:
            return
        steps = np.broadcast_to(step, returns.shape)
        rows = zip(steps.tolist(), returns.astype(str).tolist(), lengths.tolist(), strict=True)
        self._files[table].write("".join(f"{at},{seed},{value},{length}\n" for at, value, length in rows).encode())
        events, last, now = self._events_of(seed), int(steps[-1]), time.time()
        events.scalar(f"{tag}/return", float(returns.mean(dtype=np.float64)), last, now)
        events.scalar(f"{tag}/length", float(lengths.mean()), last, now)

    def publish(self) -> None:
        """Lets others read what was logged so far. It is not safe on the disk yet."""
        for file in self._files.values():
            file.publish()

    def flush(self) -> None:
        """Returns once everything logged lies on the disk."""
        for file in self._files.values():
            file.flush()

    def offsets(self) -> dict[str, int]:
        """The length of every file, all of it on the disk: what a checkpoint keeps to continue the log."""
        self.flush()
        return {name: len(file) for name, file in sorted(self._files.items())}

    def checksums(self) -> dict[str, str]:
        """The SHA-256 of every file up to its offset."""
        return {name: file.sha256 for name, file in sorted(self._files.items())}

    def close(self) -> None:
        with ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError) if kind else nullcontext():  # a full disk, say, which has been told already
            self.close()

    def _open(self, name: str) -> HashedFile:
        if name not in self._files:
            path = self._path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = HashedFile(path)
        return self._files[name]

    def _events_of(self, seed: int) -> EventFile:
        if seed not in self._events:
            self._events[seed] = EventFile(self._open(EVENTS.format(seed=seed)))
        return self._events[seed]


def check(path: Path, offsets: Mapping[str, int], checksums: Mapping[str, str] | None = None) -> None:
    """Raises a `SharedqError` for the first file of the log in `path` that is not as a checkpoint saw it."""
    written = _written(path)
    for name, offset in offsets.items():
        if offset < 0 or not is_log(name):
            raise SharedqError(
                f"'{name}' of {offset} bytes is no file of a log: the checkpoint was edited, train again"
            )
        if name not in written or (path / name).stat().st_size < offset:
            raise SharedqError(f"{path / name} is shorter than the checkpoint saw it: it was edited, train again")
        if checksums is not None and checksum(path / name, offset) != checksums.get(name):
            raise SharedqError(
                f"{path / name} is not as the checkpoint saw it: it was edited, restore it or train again"
            )


def _check_headers(path: Path, lines: Mapping[str, bytes], offsets: Mapping[str, int]) -> None:
    for name, line in lines.items():
        if offsets.get(name):
            with (path / name).open("rb") as file:
                found = file.readline(len(line))
            if found != line:
                raise SharedqError(
                    f"{path / name} has other columns than this version writes: resume with the version that wrote it"
                )


def _written(path: Path) -> list[str]:
    """The log's files that exist, relative to the run."""
    found = [file for name in (*TABLES, EVENTS.format(seed="*")) for file in path.glob(name)]
    return sorted(file.relative_to(path).as_posix() for file in found)


def _cut(path: Path, offset: int | None) -> None:
    """Cuts a file back, or removes it. It is made anew if it has a second name, which a copy by links may have."""
    if offset is None:
        path.unlink()
    elif (status := path.stat()).st_size > offset or status.st_nlink > 1:
        cut(path, offset)
