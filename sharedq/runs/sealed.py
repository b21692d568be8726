"""JSON files that carry a checksum of themselves, in the field `sha256`: an edited number is noticed.

The checksum is of what the file says and not of how it is laid out. It is no signature: whoever wants to can make it
anew.
"""

import json
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError
from sharedq.json_files import Maybe, is_as_sealed, read_json, seal


def sealed(content: dict[str, Any]) -> bytes:
    """The text of the file, ready to be written."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # names are texts then, as they will be when it is read
    return (json.dumps(plain | {"sha256": seal(plain)}, indent=2) + "\n").encode()


def read_sealed(path: Path, form: dict[str, Any], remedy: str) -> dict[str, Any]:
    """What a file of this form says. Version 0.1.0 sealed none, so one without a checksum is taken as it is."""
    content = read_json(path, form | {"sha256": Maybe(str)}, remedy)
    if not is_as_sealed(content):
        raise SharedqError(f"{path} was edited or damaged (its checksum differs): {remedy}")
    return content
