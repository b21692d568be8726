"""Keyword arguments as a setting: one text, which is compared, shown and written to JSON like any other."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sharedq.errors import SharedqError
from sharedq.json_files import parse_json
from sharedq.settings import require, to_plain

WORDS = {"True": True, "False": False, "None": None, "none": None}  # of Python, and our word for None


def keywords_as_text(given: Any, option: str) -> str | None:
    """Keyword arguments as one JSON text with sorted names; None if there are none.

    They are given as a mapping, as a text `name=value,name=value`, or as such a JSON text. A value in the text is read
    as JSON, or as itself if it is not JSON. `option` names the setting in errors.
    """
    if given is None or isinstance(given, str):
        given = _parsed(given or "", option)
    require(isinstance(given, Mapping), f"{option} must be names and values, as in {{'size': 5}}, not {given!r}")
    for name, value in given.items():
        right = isinstance(name, str) and name.isidentifier()
        require(right, f"{option} has the name {name!r}: write names of Python, such as size")
        _check_plain(value, f"{option} {name}")
    return json.dumps(to_plain(given), sort_keys=True) if given else None


def keywords_of(text: str | None) -> dict[str, Any]:
    """The keyword arguments in a text that `keywords_as_text` wrote."""
    return json.loads(text) if text else {}


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a plain value, also the names in its dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_in([*value.keys(), *value.values()])
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)


def _parsed(text: str, option: str) -> Any:
    if text in ("", "none"):
        return {}
    if text.startswith("{"):
        try:
            return parse_json(text, dict, "", "")
        except SharedqError:
            raise SharedqError(f"{option} begins like a JSON object and is none: write name=value,name=value") from None
    found: dict[str, Any] = {}
    for pair in re.split(r",(?=\s*\w+=)", text):
        name, equals, value = pair.strip().partition("=")
        require(bool(equals), f"{option} takes name=value,name=value, not '{text}'")
        require(name not in found, f"{option} has '{name}' twice: give it once")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    try:
        return parse_json(text, Any, "", "")
    except SharedqError:
        return text


def _check_plain(value: Any, what: str) -> None:
    """Raises if JSON cannot hold the value."""
    try:
        plain = to_plain(value)
        if json.loads(json.dumps(plain, allow_nan=False)) == plain:
            return
    except (TypeError, ValueError, RecursionError):
        pass
    raise SharedqError(
        f"{what} is {type(value).__name__} {' '.join(repr(value).split())}, which no settings file can hold: give a "
        "finite number, a text, true, false, none, or lists and dictionaries of them"
    )
