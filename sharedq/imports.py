"""Resolves import strings `package.module:name`, for parts that users bring themselves.

An import runs code. `Experiment.from_dict` decides whether that is allowed; the strings that come here are trusted.
"""

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharedq.errors import SharedqError, told


def references(*texts: str) -> list[str]:
    """The texts that name a module to import. A text without a colon names none."""
    return [text for text in texts if ":" in text]


def import_strings(text: str) -> list[str]:
    """The words in a typed text that may be import strings: of a list, of name=value, or of name:option=value."""
    apart = r"\s,\[\](){}\"'"
    return references(*re.findall(rf"[^={apart}]+?(?=:[^:={apart}]+=|[{apart}]|$)", text))


def names_code(plain: Any) -> bool:
    """Whether one of the texts in plain settings looks like an import string, or like Gymnasium's own module:id."""
    if isinstance(plain, str):
        return any(re.match(r"[^\W\d][\w.]*:[^\W\d]", text) is not None for text in import_strings(plain))
    values = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return any(map(names_code, values))


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


def reference_to(found: Any, what: str) -> str:
    """The import string of a class or a function, by which another process finds it again; `what` names the setting."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        shown = " ".join(repr(found).split())
        raise SharedqError(f"{what} must be a text, a class or a function, not {shown}")
    if module == "__main__":
        raise SharedqError(
            f"{what} is {name} of the script or notebook that runs now, and a later command could not import it: move "
            f"it to a module of its own and write  from my_module import {name.partition('.')[0]}"
        )
    again: Any = sys.modules.get(module)
    for part in name.split("."):
        again = getattr(again, part, None)
    if again is not found:
        raise SharedqError(
            f"{what} is {name}, which is not found in the module {module} by this name, so that a run could not be "
            "resumed: define it at the top of a module"
        )
    return f"{module}:{name}"


class BrokenContract(Exception):
    """What a user's code returned is not what was asked of it. `own_errors` adds whose code it was, and where it is."""


@contextmanager
def own_errors(
    whose: str, module: str | Collection[str], kind: type[SharedqError] = SharedqError, called: Any = None
) -> Iterator[None]:
    """Turns an error of a user's code into one line, with the last place in `module` that it passed.

    `module` can be several modules. If the error passed none, the place is that of `called`, the function of the user's
    that was called. `sys.exit()` counts as an error. Ctrl-C does not.
    """
    try:
        yield
    except (SharedqError, KeyboardInterrupt):
        raise
    except BrokenContract as error:
        place = defined_at(called)
        raise kind(f"{whose} {error}{place and f' ({place})'}") from None
    except BaseException as error:  # any error, because the code is not ours
        raise kind(f"{whose} raised {told(error)} ({place_of(error, module, called)})") from error


def place_of(error: BaseException, module: str | Collection[str], called: Any = None) -> str:
    """File and line of the last place in `module` that an error passed.

    If it passed none, this is the place of the function `called`, or else the place where the error was raised.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    modules = [module] if isinstance(module, str) else module
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [place for place in frames if place[0].f_globals.get("__name__") in modules]
    if not own and (place := defined_at(called)):
        return place
    frame, line = (own or frames)[-1]
    return f"{frame.f_code.co_filename}:{line}"


def defined_at(found: Any) -> str:
    """File and line of the definition of a function or class; empty if that is not known."""
    function = inspect.unwrap(getattr(found, "__func__", found))
    if code := getattr(function, "__code__", None):
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (OSError, TypeError):
        return ""
