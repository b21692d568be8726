"""The numbers of a run while it runs: two tables for programs, TensorBoard events for people.

A resumed run cuts every file back to where the checkpoint saw it and goes on, so what was logged after the
checkpoint is not there twice.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from sharedq.errors import SharedqError
from sharedq.runs.durable import sync
from sharedq.runs.event_file import EventFile
from sharedq.runs.run_directory import RunDirectory

EVENTS = "tensorboard/seed_{seed}/events.out.tfevents.sharedq"  # TensorBoard knows the file by "tfevents"


class MetricsLog:
    """Appends to `metrics.csv`, `episodes.csv` and one TensorBoard folder per seed.

    `offsets=None` begins the log of a new run. A resumed run gives the `offsets()` that its checkpoint holds, or
    `{}` if there is no checkpoint yet: files are cut to their offset, and files without one are removed.
    """

    def __init__(
        self,
        run: RunDirectory,
        metric_names: Sequence[str],
        timing_names: Sequence[str] = (),
        offsets: Mapping[str, int] | None = None,
    ):
        self._path = run.path
        self._columns = (*metric_names, *timing_names)
        self._tags = {name: f"train/{name}" for name in metric_names} | {name: f"time/{name}" for name in timing_names}
        if offsets is not None:
            _cut(run.path, offsets)
        elif written := _written(run.path):
            raise SharedqError(
                f"{run.path} has a log already ({written[0]}): continue it with 'sharedq resume {run.path}'"
            )
        self._events: dict[int, EventFile] = {}
        self._metrics = _table(run.path / "metrics.csv", ("step", "seed", *self._columns))
        self._episodes = _table(run.path / "episodes.csv", ("step", "seed", "return", "length"))

    def metrics(self, step: int, seed: int, values: Mapping[str, Any]) -> None:
        """One row of metrics and timings; a column without a value stays empty."""
        if strange := set(values) - set(self._columns):
            raise ValueError(f"no columns {sorted(strange)} in {self._columns}")
        numbers = {name: np.float32(value) for name, value in values.items()}  # their text is as short as reads back
        row = ",".join(str(numbers.get(name, "")) for name in self._columns)
        self._metrics.write(f"{step},{seed},{row}\n".encode())
        events, now = self._events_of(seed), time.time()
        for name, number in numbers.items():
            events.scalar(self._tags[name], float(number), step, now)

    def episodes(self, step: Any, seed: int, returns: Any, lengths: Any) -> None:
        """Ended episodes: all of them to the table, only their mean to TensorBoard, whose files stay small so.

        `step` is one number, or one per episode; TensorBoard's point stands at the last.
        """
        returns, lengths = np.asarray(returns, np.float32), np.asarray(lengths)
        if returns.size == 0:
            return
        steps = np.broadcast_to(step, returns.shape)
        rows = zip(steps.tolist(), returns.astype(str).tolist(), lengths.tolist(), strict=True)
        self._episodes.write("".join(f"{at},{seed},{value},{length}\n" for at, value, length in rows).encode())
        events, last, now = self._events_of(seed), int(steps[-1]), time.time()
        events.scalar("episode/return", float(returns.mean(dtype=np.float64)), last, now)
        events.scalar("episode/length", float(lengths.mean()), last, now)

    def flush(self) -> None:
        """Returns once everything logged lies on the disk."""
        sync(self._metrics)
        sync(self._episodes)
        for events in self._events.values():
            events.flush()

    def offsets(self) -> dict[str, int]:
        """The length of every file, all of it on the disk: what a checkpoint keeps to continue the log."""
        self.flush()
        return {name: (self._path / name).stat().st_size for name in _written(self._path)}

    def close(self) -> None:
        self.flush()
        self._metrics.close()
        self._episodes.close()
        for events in self._events.values():
            events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _events_of(self, seed: int) -> EventFile:
        if seed not in self._events:
            path = self._path / EVENTS.format(seed=seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._events[seed] = EventFile(path)
        return self._events[seed]


def _table(path: Path, columns: Sequence[str]) -> BinaryIO:
    """The table open at its end; a new one gets its first line, an old one must have this one."""
    header = (",".join(columns) + "\n").encode()
    file = path.open("ab+")
    if file.tell() == 0:
        file.write(header)
        return file
    file.seek(0)
    found = file.readline()
    if found != header:
        file.close()
        raise SharedqError(f"{path} has other columns than this version writes: resume with the version that wrote it")
    return file


def _written(path: Path) -> list[str]:
    """The log's files that exist, relative to the run."""
    found = [*path.glob("metrics.csv"), *path.glob("episodes.csv"), *path.glob(EVENTS.format(seed="*"))]
    return sorted(file.relative_to(path).as_posix() for file in found)


def _cut(path: Path, offsets: Mapping[str, int]) -> None:
    """Cuts the log's files to `offsets`. Looks at all of them before it changes the first."""
    written = _written(path)
    for name, offset in offsets.items():
        if name not in written or (path / name).stat().st_size < offset:
            raise SharedqError(f"{path / name} is shorter than the checkpoint saw it: it was edited, train again")
    for name in written:
        if name not in offsets:
            (path / name).unlink()
        elif (path / name).stat().st_size > offsets[name]:
            os.truncate(path / name, offsets[name])
