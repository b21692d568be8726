"""From a source to a store: which reader a source needs, with which options, and the copying itself."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharedq import settings
from sharedq.datasets.manifest import FILE
from sharedq.datasets.reader import Reader
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
from sharedq.errors import SharedqError, unknown
from sharedq.output import Counted, uncounted


def convert(reader: Reader, out: str | Path, progress: Counted = uncounted) -> Store:
    """Writes everything that a reader reads into a new store.

    If a conversion was killed, or the source had an error, it goes on behind the last episode that was surely written.
    The store gets its name when it is complete.
    """
    with StoreWriter(out, reader.describe(), reader.files()) as writer:
        total = reader.count()
        for found in reader.episodes(writer.episodes_written):
            writer.add(found.episode, found.where, found.files)
            progress(writer.steps_written, total)
        return writer.finish()


def is_store(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def reader_of(source: str, options: Mapping[str, Any], readers: Mapping[str, type]) -> Reader:
    """The reader of a source: `format:path`, or a path whose format one of the readers recognises.

    The options are the fields of the reader, as text or as values from Python.
    """
    name, path = _format_of(source, readers)
    kind, typed = readers[name], settings.hints(readers[name])
    known = _options_of(kind)
    fields = {}
    for option, value in options.items():
        if option not in known:
            if not known:
                raise SharedqError(f"--{option} is no option of the format '{name}', which has none")
            raise unknown(f"option of the format '{name}'", f"--{option}", [f"--{one}" for one in known])
        fields[option] = settings.convert(value, typed[option], f"--{option}")
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name in known
        and field.name not in fields
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if needed:
        about = settings.comments(kind).get(needed[0], "")
        raise SharedqError(f"the format '{name}' needs --{needed[0]}: {about}")
    return kind(path, **fields)


def _options_of(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.name != "path"]


def _format_of(source: str, readers: Mapping[str, type]) -> tuple[str, str]:
    """The name of the format, and the path."""
    name, colon, path = source.partition(":")
    if colon and name in readers:
        if not path:
            raise SharedqError(f"'{source}' names no file or folder: write {name}:PATH")
        return name, path
    if not Path(source).exists():
        if colon and not Path(name).exists() and "/" not in name:
            raise unknown("format", name, readers)
        raise SharedqError(f"there is no {source}: give a file or a folder, or FORMAT:NAME")
    if is_store(source):
        raise SharedqError(f"{source} is a data set of this program already: there is nothing to convert")
    fitting = [name for name, kind in readers.items() if kind.recognises(source)]  # type: ignore[attr-defined]
    if len(fitting) == 1:
        return fitting[0], source
    if fitting:
        raise SharedqError(f"{source} may be of several formats: write {' or '.join(f'{n}:{source}' for n in fitting)}")
    raise SharedqError(f"the format of {source} is not known: write FORMAT:{source} with one of {', '.join(readers)}")


def formats_help(readers: Mapping[str, type]) -> str:
    """Every format with its options: their types, and the comments behind them."""
    lines = ["formats of a SOURCE, each with its own options; a path alone is enough where the format shows:", ""]
    for name, kind in readers.items():
        lines.append(f"  {name}:PATH  {(kind.__doc__ or '').strip().splitlines()[0]}")
        typed, about = settings.hints(kind), settings.comments(kind)
        for option in _options_of(kind):
            lines.append(f"      --{option} {settings.type_name(typed[option])}")
            lines.append(f"          {about.get(option, '')}")
    return "\n".join(lines)
