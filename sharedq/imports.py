"""Resolves import strings `package.module:name`, for parts that users bring themselves.

An import runs code. `Experiment.from_dict` decides whether that is allowed; the strings that come here are trusted.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError, told


def references(*texts: str) -> list[str]:
    """The texts that name a module to import. A text without a colon names none."""
    return [text for text in texts if ":" in text]


def resolve(reference: str, what: str) -> Any:
    """The object behind `package.module:name`; `what` names it in errors.

    An error inside the user's own module is told with the line of that module.
    """
    module_name, _, name = reference.partition(":")
    if not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise SharedqError(f"{what} '{reference}' is not of the form package.module:name")
    search_here()
    with own_errors(f"the module of {what} '{reference}'", module_name):
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module exists, but something that it imports does not
            raise SharedqError(f"{what} '{reference}': no module '{error.name}' here or among the packages") from error
        for part in name.split("."):
            if not hasattr(found, part):
                where = getattr(found, "__file__", None)  # it may not be the module that the user means
                found_in = f" ({where})" if where else ""
                raise SharedqError(f"{what} '{reference}': '{found.__name__}' has no '{part}'{found_in}")
            found = getattr(found, part)
    return found


def search_here() -> None:
    """Lets Python search the current directory too, after all packages: a file there cannot shadow a package."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


@contextmanager
def own_errors(whose: str, module: str, kind: type[SharedqError] = SharedqError) -> Iterator[None]:
    """Turns an error of a user's code into one line, with the last place in `module` that it passed.

    `sys.exit()` counts as such an error. Ctrl-C does not.
    """
    try:
        yield
    except (SharedqError, KeyboardInterrupt):
        raise
    except BaseException as error:  # any error, because the code is not ours
        raise kind(f"{whose} raised {told(error)} ({place_of(error, module)})") from error


def place_of(error: BaseException, module: str) -> str:
    """File and line of the last place in `module` that an error passed, or else of the place where it was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [place for place in frames if place[0].f_globals.get("__name__") == module]
    frame, line = (own or frames)[-1]
    return f"{frame.f_code.co_filename}:{line}"
