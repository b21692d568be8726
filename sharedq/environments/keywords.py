"""Keyword arguments as a setting: they are typed as text, never change, and JSON holds them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sharedq.errors import SharedqError
from sharedq.json_files import parse_json
from sharedq.settings import require, to_plain

WORDS = {"True": True, "False": False, "None": None, "none": None}  # as in Python and as in our other options


class Keywords(Mapping[str, Any]):
    """Keyword arguments, from a mapping or from a text `name=value,name=value`.

    A value in the text is read as JSON, or as itself if it is not JSON. The whole text can be a JSON object too.
    """

    def __init__(self, given: Any, option: str):
        """`option` names the setting in errors."""
        if isinstance(given, str):
            given = _parsed(given, option)
        require(isinstance(given, Mapping), f"{option} must be names and values, as in {{'size': 5}}, not {given!r}")
        for name, value in given.items():
            right = isinstance(name, str) and name.isidentifier()
            require(right, f"{option} has the name {name!r}: write names of Python, such as size")
            _check_plain(value, f"{option} {name}")
        self._text = json.dumps(to_plain(given), sort_keys=True)

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._text)[name]  # a new value each time: nobody can change ours

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._text))

    def __len__(self) -> int:
        return len(json.loads(self._text))

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __str__(self) -> str:
        return self._text if len(self) else "none"

    __repr__ = __str__


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
