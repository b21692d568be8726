"""Reads the tables of a run, metrics.csv, episodes.csv and evaluations.csv, and names the line of what is wrong."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sharedq.errors import SharedqError
from sharedq.reports.files import REMEDY, read

LARGEST_STEP = 2**53  # up to here a float64 tells every whole number from the next
LARGEST_NUMBER = float(np.finfo(np.float32).max)  # tables are written from float32


class Table(NamedTuple):
    """The columns of a CSV file; an absent file has the needed columns without rows, an empty cell is nan."""

    path: Path
    columns: dict[str, np.ndarray]
    sha256: str | None  # of the whole file; None if there is none
    cut: bool  # whether it ends in half a line, which is left out

    def refuse(self, wrong: np.ndarray, column: str, wanted: str) -> None:
        """Raises for the first row in which the cell of `column` is wrong."""
        if wrong.any():
            row = int(wrong.argmax())
            raise _line(self.path, row, f"{column} is {self.columns[column][row]:g}, but {wanted}")

    def by_seed(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of rows that puts each seed's together, and which of those are not the first of their seed."""
        seed = self.columns["seed"]
        order = np.argsort(seed, kind="stable")
        return order, np.append(False, np.diff(seed[order]) == 0)[: len(order)]


def read_metrics(folder: Path, seeds: range) -> Table:
    """metrics.csv: one row for each stop and seed. Numbers of a run that diverged may be no finite ones."""
    table = _read(folder, "metrics.csv", ("step", "seed"), seeds)
    _refuse_disorder(table, "each row of a seed must be later than the one before", twice=False)
    return table


def read_episodes(folder: Path, seeds: range, diverged: bool) -> Table:
    """episodes.csv: one row for each episode that ended. Only a run that diverged may have returns that are not finite.

    Its rows without a finite return are left out.
    """
    table, finite = _read_returns(folder, "episodes.csv", seeds, diverged)
    _refuse_too_many(table)
    return _rows(table, finite)


def read_evaluations(folder: Path, seeds: range, diverged: bool, episodes: int | None) -> Table:
    """evaluations.csv: one row for each episode of each evaluation, which has that many `episodes` if this is known.

    Rows without a finite return are treated as those of episodes.csv are.
    """
    table, finite = _read_returns(folder, "evaluations.csv", seeds, diverged)
    if episodes is not None:
        order, follows = table.by_seed()
        first = ~follows | (np.diff(table.columns["step"][order], prepend=-1) != 0)  # of its evaluation
        place = np.arange(len(order))
        since = place - np.maximum.accumulate(np.where(first, place, 0))
        wanted = f"the seed has more than {episodes:,} episodes at this step: rows may stand there twice"
        _refuse_ordered(table, order, since >= episodes, "step", wanted)
    return _rows(table, finite)


def read_histograms(folder: Path, seeds: range) -> Table:
    """histograms.csv: one row for each stop and seed, and a column `name:from:to` for each bin."""
    table = _read(folder, "histograms.csv", ("step", "seed"), seeds)
    _refuse_disorder(table, "each row of a seed must be later than the one before", twice=False)
    for name in set(table.columns) - {"step", "seed"}:
        counts = table.columns[name]
        table.refuse(~((counts >= 0) & (counts <= LARGEST_STEP)), name, "it must be a count")
    return table


def _read_returns(folder: Path, name: str, seeds: range, diverged: bool) -> tuple[Table, np.ndarray]:
    """A table of episodes, and which of its rows have a finite return."""
    table = _read(folder, name, ("step", "seed", "return", "length"), seeds)
    returns, length = table.columns["return"], table.columns["length"]
    finite = np.abs(returns) <= LARGEST_NUMBER
    if not diverged:
        table.refuse(~finite, "return", "it must be a finite float32 number")
    whole = (length >= 1) & (length <= LARGEST_STEP) & (np.floor(length) == length)
    table.refuse(~whole, "length", "it must be a whole number from 1 on")
    _refuse_disorder(table, "no row of a seed may be earlier than the one before", twice=True)
    return table, finite


def _rows(table: Table, chosen: np.ndarray) -> Table:
    return table._replace(columns={name: values[chosen] for name, values in table.columns.items()})


def _refuse_disorder(table: Table, wanted: str, twice: bool) -> None:
    order, follows = table.by_seed()
    step = table.columns["step"]
    late = np.diff(step[order], prepend=-1)
    _refuse_ordered(table, order, follows & ((late < 0) if twice else (late <= 0)), "step", wanted)


def _refuse_too_many(table: Table) -> None:
    """Every step belongs to one episode at most, so rows that stand there twice come to too many."""
    order, follows = table.by_seed()
    length, step = table.columns["length"][order], table.columns["step"][order]
    total = np.cumsum(length)
    before = np.maximum.accumulate(np.where(follows, 0, total - length))  # of the seeds that come before
    wanted = "the seed's episodes are then longer together than the steps it has done: rows may stand there twice"
    _refuse_ordered(table, order, total - before > step, "length", wanted)


def _refuse_ordered(table: Table, order: np.ndarray, wrong: np.ndarray, column: str, wanted: str) -> None:
    rows = np.zeros(len(order), bool)
    rows[order] = wrong
    table.refuse(rows, column, wanted)


def _read(folder: Path, name: str, needed: tuple[str, ...], seeds: range) -> Table:
    """A run that is being written, or was killed, may end in half a line: it is left out."""
    path, content = folder / name, read(folder, name)
    if content is None:
        return Table(path, {name: np.empty(0) for name in needed}, None, False)
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SharedqError(f"{path} cannot be read ({error}): {REMEDY}") from None
    *lines, rest = text.split("\n")
    if not lines:
        return Table(path, {name: np.empty(0) for name in needed}, hashlib.sha256(content).hexdigest(), bool(rest))
    names, rows = lines[0].split(","), lines[1:]
    if absent := [name for name in needed if names.count(name) != 1]:
        raise SharedqError(f"{path} has no column '{absent[0]}', or has it twice: {REMEDY}")
    columns = dict(zip(names, _numbers(path, rows, len(names)).T))
    table = Table(path, columns, hashlib.sha256(content).hexdigest(), bool(rest))
    step, seed = columns["step"], columns["seed"]
    whole = (step >= 0) & (step <= LARGEST_STEP) & (np.floor(step) == step)
    table.refuse(~whole, "step", "it must be a whole number of steps")
    known = (seed >= seeds.start) & (seed < seeds.stop) & (np.floor(seed) == seed)
    table.refuse(~known, "seed", "experiment.json does not list it")
    return table


def _numbers(path: Path, rows: list[str], width: int) -> np.ndarray:
    if not rows:
        return np.empty((0, width))
    try:
        numbers = np.loadtxt(rows, delimiter=",", ndmin=2, comments=None, converters=_number, encoding=None)
    except ValueError:
        numbers = None
    if numbers is None or numbers.shape != (len(rows), width):  # find out where, which takes longer
        for row, cells in enumerate(line.split(",") for line in rows):
            if len(cells) != width:
                raise _line(path, row, f"it has {len(cells)} cells for {width} columns")
            for cell in cells:
                try:
                    _number(cell)
                except ValueError:
                    raise _line(path, row, f"{cell[:40]!a} is no number") from None
        raise SharedqError(f"{path} cannot be read as a table of numbers: {REMEDY}")
    return numbers


def _number(cell: str) -> float:
    return float(cell or "nan")


def _line(path: Path, row: int, reason: str) -> SharedqError:
    return SharedqError(f"{path} was edited or damaged (line {row + 2}: {reason}): {REMEDY}")
