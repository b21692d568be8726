"""JSON files, read in one way: a file that is missing, damaged or of another form ends in one line that names it.

A form says what is expected: a type, `X | None`, `[form]` for a list, `{str: form}` for an object with any names,
`{"name": form, ...}` for an object with these, and `Maybe(form)` for a name that may be absent. `Any` accepts all.
Names that a form does not list are left as they are.
"""

import hashlib
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

from sharedq.errors import SharedqError

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}
LARGEST = sys.float_info.max  # whole numbers in JSON may be larger than any float


class Maybe(NamedTuple):
    """The form of a name that may be absent."""

    form: Any


def read_json(path: Path, form: Any, remedy: str) -> Any:
    """The content of the JSON file `path`, which has this form; `remedy` says what to do if it has not."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SharedqError(f"cannot read {path} ({error.strerror}): {remedy}") from None
    return parse_json(content, form, str(path), remedy)


def parse_json(content: bytes | str, form: Any, what: str, remedy: str) -> Any:
    """The value of a JSON text, which has this form; `what` names its source in an error."""
    try:
        value = json.loads(content, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
        check_form(value, form)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _one_line(str(error))
        raise SharedqError(f"{what} was edited or damaged ({reason}): {remedy}") from None
    return value


def seal(content: dict[str, Any]) -> str:
    """The checksum that a JSON file can carry of itself, in the field `sha256`: of what it says besides."""
    plain = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_as_sealed(content: dict[str, Any]) -> bool:
    """Whether a JSON file says what it said when it got its checksum. One without a checksum is taken as it is."""
    try:
        return "sha256" not in content or content["sha256"] == seal(content)
    except RecursionError:  # nothing of ours is nested so deeply
        return False


def check_form(value: Any, form: Any, where: str = "") -> None:
    """Raises a `ValueError` that names the first place where `value` does not have the form."""
    if form is Any:
        return
    if isinstance(form, list):
        _expect(isinstance(value, list), where, "a list", value)
        for place, item in enumerate(value):
            check_form(item, form[0], f"{where}[{place}]")
    elif isinstance(form, dict):
        _expect(isinstance(value, dict), where, "an object", value)
        if str in form:
            for name, item in value.items():
                check_form(item, form[str], _inside(where, name))
            return
        for name, expected in form.items():
            absent, may_be_absent = name not in value, isinstance(expected, Maybe)
            if absent and not may_be_absent:
                raise ValueError(f"'{_inside(where, name)}' is missing")
            if not absent:
                check_form(value[name], expected.form if may_be_absent else expected, _inside(where, name))
    else:
        union = typing.get_origin(form) in (typing.Union, types.UnionType)
        kinds = typing.get_args(form) if union else (form,)
        right = any(_is(value, kind) for kind in kinds)
        _expect(right, where, " or ".join(NAMES.get(kind, str(kind)) for kind in kinds), value)


def _one_line(text: str) -> str:
    """The text without ends of lines and without what would control a terminal: names in a file may hold both."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(text.split()))


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _expect(right: bool, where: str, wanted: str, value: Any) -> None:
    if not right:
        shown = json.dumps(value)
        raise ValueError(f"{where or 'the content'} must be {wanted}, not {shown[:40] + '...' * (len(shown) > 40)}")


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' appears twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
