"""JSON files that carry a checksum of themselves, in the field `sha256`: an edited number is noticed.

The checksum is of what the file says and not of how it is laid out. It is no signature: whoever wants to can make it
anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError
from sharedq.json_files import Maybe, read_json


def sealed(content: dict[str, Any]) -> bytes:
    """The text of the file, ready to be written."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # names are texts then, as they will be when it is read
    return (json.dumps(plain | {"sha256": _seal(plain)}, indent=2) + "\n").encode()


def read_sealed(path: Path, form: dict[str, Any], remedy: str) -> dict[str, Any]:
    """What a file of this form says. Version 0.1.0 sealed none, so one without a checksum is taken as it is."""
    content = read_json(path, form | {"sha256": Maybe(str)}, remedy)
    try:
        seal = _seal({name: value for name, value in content.items() if name != "sha256"})
    except RecursionError:
        seal = ""
    if content.get("sha256", seal) != seal:
        raise SharedqError(f"{path} was edited or damaged (its checksum differs): {remedy}")
    return content


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
