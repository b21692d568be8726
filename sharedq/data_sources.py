"""Data sets, for people who write code: `open_data`, `convert`, and every source that data can come from."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sharedq.datasets import converting
from sharedq.datasets.reader import Reader
from sharedq.datasets.readers import READERS
from sharedq.datasets.store import Store
from sharedq.errors import SharedqError, unknown
from sharedq.kept_replay import KeptReplay
from sharedq.output import bar

MINARI = "minari:"
FOR_MINARI = ("author", "email", "form")  # options for writing to it


def sources() -> dict[str, type]:
    """Every reader by the name of its format: those of files, and that of our own runs."""
    return {**READERS, "run": KeptReplay}


def open_data(path: str | Path) -> Store:
    """The data set in a folder, open for reading."""
    return Store(path)


def source_reader(source: str | Path, options: Mapping[str, Any]) -> Reader:
    """The reader of a source: `format:path`, or a path whose format shows."""
    return converting.reader_of(str(source), options, sources())


def convert(source: str | Path, out: str | Path, **options: Any) -> Store:
    """Makes a data set of a source: `format:path`, or a path whose format shows. The options are those of the format.

    If a conversion was killed, the same call goes on where it was. If `out` is `minari:namespace/name-v0`, the source
    is a data set of ours, which Minari gets under this name. The options are then the `author` and the `email` of who
    publishes it, and the `form` of the files: hdf5, arrow or parquet.
    """
    if str(out).startswith(MINARI):
        if not converting.is_store(source):
            raise SharedqError(f"only a data set of this program can go to Minari: convert {source} to a folder first")
        for option in set(options) - set(FOR_MINARI):
            raise unknown("option for writing to Minari", f"--{option}", {f"--{one}" for one in FOR_MINARI})
        store = Store(source)
        store.check()
        import_module("sharedq.datasets.minari_export").export(store, str(out).removeprefix(MINARI), **options)
        return store
    reader = source_reader(source, options)
    with bar(f"converting {source}", "steps") as progress:
        return converting.convert(reader, out, progress)
