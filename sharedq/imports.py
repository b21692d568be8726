"""What an import string `package.module:name` points at, for the parts that users bring themselves."""

import importlib
import sys
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError


def resolve(reference: str, what: str) -> Any:
    """The object behind `package.module:name`; `what` says in an error what was looked for.

    The current directory is searched first, as it is by `python -m`, so that a file beside the user is found.
    An error inside the user's own module passes through with its traceback.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise SharedqError(f"{what} '{reference}' is not of the form package.module:name")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise SharedqError(f"{what} '{reference}': no module '{error.name}' here or among the packages") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise SharedqError(f"{what} '{reference}': '{found.__name__}' has no '{part}'")
        found = getattr(found, part)
    return found
