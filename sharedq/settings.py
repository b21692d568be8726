"""Settings are frozen dataclasses: you can read them, print them, change a field, and write them to JSON.

A *kind* is a dataclass that has a name in a table (sources, networks, ...; see `tables.py`). In JSON a kind is its
fields plus `"kind": name`; on the command line `--target NAME` chooses the kind and `--target.period 500` sets a field.
The comment behind a field is its help text. Values are checked in `__post_init__`, which raises `SharedqError`.
"""

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from sharedq.errors import SharedqError, unknown
from sharedq.tables import Table

COUNTABLE = 2**31 - 1  # counters on the device have 32 bits, those of steps and seeds too
LAYERS = 100  # ours: a network with more layers takes minutes to compile
WIDTH = 1_000_000  # ours: the largest width of a layer
N_STEP = 10_000  # ours: the largest number of rewards summed
FITTED_Q_UPDATES = 20_000  # ours: updates of fitted-Q evaluation, if no other number is asked for


def require(condition: bool, message: str) -> None:
    """A check of a setting. The message says in one line what is wrong and what to write instead."""
    if not condition:
        raise SharedqError(message)


def check_count(name: str, value: int, least: int = 1, most: int = COUNTABLE) -> None:
    """Raises if a number is too small or too large for its use."""
    too_small = f"must be at least {least}, not" if least else "cannot be negative:"
    require(value >= least, f"{name} {too_small} {value}")
    require(value <= most, f"{name} can be {most:,} at most, not {value:,}")


def check_shares(part: str, of: Any, *names: str) -> None:
    """Raises if a field with one of these names is no share: a number from 0 to 1."""
    for name in names:
        share = getattr(of, name)
        require(0 <= share <= 1, f"{part}.{name} must lie in 0 .. 1, not {share}")


def check_layers(name: str, widths: tuple[int, ...], most: int = WIDTH) -> None:
    """Raises if there are too many layers, or if a layer is too wide."""
    require(len(widths) <= LAYERS, f"{name} can have {LAYERS} layers at most, not {len(widths):,}")
    check_count(f"{name} of a layer", max(widths, default=0), 0, most)


def hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@functools.cache
def comments(kind: type) -> dict[str, str]:
    """The comment behind each field, read from the source. It is the help text of the field."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            try:
                source = inspect.getsource(base)
            except OSError:  # defined at a prompt, so there is no source to read
                continue
            found.update({m[1]: m[2].strip() for m in re.finditer(r"^    (\w+):[^#\n]*#\s*(.*)$", source, re.M)})
    return found


class Chosen(typing.NamedTuple):
    """A part of an experiment that is not made yet: the name of its kind, and the fields that differ from defaults."""

    kind: str
    fields: Mapping[str, Any] = {}


def chosen(text: str, known: Collection[str] = ()) -> Chosen:
    """The part that a text names: `name:option=value,option=value` or `name:option=value:option=value`.

    Colons between the options are for lists, whose items are separated by commas. The name may itself be
    `package.module:Name`, unless what stands before its colon is a known name.
    """
    text = text.strip()
    kind, *rest = re.split(r"[,:](?=[^,:=]+=)", text)  # a part without = belongs to the value before it
    module, is_import, _ = kind.partition(":")
    right = "=" not in kind and f"{text}:".startswith(f"{kind}:") and not (is_import and module in known)
    require(right, f"'{text}' is not written as name:option=value:option=value")
    fields: dict[str, str] = {}
    for name, _, value in (field.partition("=") for field in rest):
        require(name not in fields, f"'{text}' gives {name} twice")
        fields[name] = value
    return Chosen(kind, fields)


def make(table: Table, given: Any) -> Any:
    """Makes a part from the name of a kind, a `Chosen`, or a settings object. Values get their declared types here."""
    if isinstance(given, str):
        given = Chosen(given)
    if isinstance(given, tuple) and len(given) == 2:
        kind, fields = table[given[0]], given[1]
        known = {field.name for field in dataclasses.fields(kind)}
        for field in fields:
            if field not in known:
                raise SharedqError(f"{table.part} '{given[0]}' has no option '{field}'{_options(field, known)}")
    else:
        kind = type(given)
        if not dataclasses.is_dataclass(kind):
            raise SharedqError(
                f"{table.part} must be one of {', '.join(table)}, or settings of your own, not {given!r}"
            )
        table.name_of(kind)  # raises if it cannot be a part
        fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(kind)}
    hinted = hints(kind)
    return kind(**{name: convert(value, hinted[name], f"{table.part}.{name}") for name, value in fields.items()})


def _options(field: str, known: set[str]) -> str:
    if not known:
        return " (it has none)"
    return ": " + str(unknown("option", field, known)).split(": ", 1)[1]


def to_plain(value: Any) -> Any:
    """The value of a setting in a form that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def parse(text: str, hint: Any, option: str) -> Any:
    """Reads `text` as a value for a field of type `hint`: bool, int, float, str, choices, tuples or None.

    A field of type `Any` takes a text, or any object from Python, and its kind makes a plain value of it.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        for choice in arguments:
            if str(choice) == text:
                return choice
        raise unknown(f"value for {option}", text, [str(choice) for choice in arguments])
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        for one in (argument for argument in arguments if argument is not type(None)):
            try:
                return parse(text, one, option)
            except SharedqError as error:
                last = error
        raise last
    if origin is tuple:
        return tuple(parse(part, arguments[0], option) for part in items(text))
    if hint is bool:
        if text.lower() in ("true", "yes", "1", "false", "no", "0"):
            return text.lower() in ("true", "yes", "1")
        raise SharedqError(f"{option} takes true or false, not '{text}'")
    if hint in (int, float):
        try:
            return _finite(text) if hint is float else _whole(text)
        except (ValueError, OverflowError):
            wanted = "a whole number" if hint is int else "a finite number"
            raise SharedqError(f"{option} takes {wanted}, not '{text}'") from None
    if hint in (str, Any):
        return text
    raise SharedqError(f"{option} cannot be set from the command line")


def as_typed(value: Any) -> str:
    """The text that `parse` reads as this value."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_typed, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def items(text: str) -> list[str]:
    """The items of a list as it is typed: 64,64 or [64, 64] or (64,); an empty text is an empty list."""
    text = text.strip()
    if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")):
        text = text[1:-1].strip().removesuffix(",")
    return [part.strip() for part in text.split(",")] if text else []


def convert(value: Any, hint: Any, option: str) -> Any:
    """Converts a value as if its text were parsed: 2e5 steps become 200,000, and a list becomes a tuple."""
    if hint is Any:
        return value
    return parse(as_typed(value), hint, option)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if float(text).is_integer():  # someone who types 2e5 means a whole number
            return int(float(text))
        raise


def type_name(hint: Any) -> str:
    """The type of a field as the help text shows it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "|".join(str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is tuple:
        return f"{type_name(arguments[0])},..."
    names = {int: "whole number", float: "number", bool: "true|false", str: "text", Any: "text", type(None): "none"}
    return names.get(hint, "value")


class Option(typing.NamedTuple):
    """A setting as the help text shows it."""

    takes: str
    value: Any
    about: str


def options_of(value: Any) -> dict[str, Option]:
    """Every field of a kind with its type, its value and the comment behind it."""
    kind: type = type(value)
    hinted, about = hints(kind), comments(kind)
    return {
        field.name: Option(type_name(hinted[field.name]), getattr(value, field.name), about.get(field.name, ""))
        for field in dataclasses.fields(kind)
    }
