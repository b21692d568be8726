"""Errors a user can cause: one clear line that says what is wrong and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class SharedqError(Exception):
    """Ends a command with its message as the only line, no traceback, and this exit code."""

    exit_code = 2


class Diverged(SharedqError):
    """A loss, a parameter or an environment stopped being a finite number while training."""

    exit_code = 3


class NotFinite(SharedqError):
    """A number that was given is not finite, or too large for what it is to be."""


class Unphysical(SharedqError):
    """A world gave something that is not a finite number: what, and while training of which seed and at which step."""

    exit_code = 3

    def __init__(self, what: str, seed: int = 0, step: int = 0):
        super().__init__(f"{what} is not a finite number: the environment broke down")
        self.what, self.seed, self.step = what, seed, step


class EnvironmentFailed(SharedqError):
    """The code of an environment, which may be the user's own, raised an error: which environment, and what it said."""


class Stopped(SharedqError):
    """A run was asked to stop (Ctrl-C, SIGTERM) and left a checkpoint to continue from."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unknown(kind: str, name: object, known: Iterable[str]) -> SharedqError:
    """The error for a name that is not in a table: the nearest names first, else all of them."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
    return SharedqError(f"unknown {kind} '{name}': {hint}")


def missing_extra(package: str, extra: str, purpose: str) -> SharedqError:
    """The error for an optional dependency that is not installed, with the line that installs it."""
    return SharedqError(f"{purpose} needs the package '{package}': run  pip install 'sharedq[{extra}]'")


def told(error: Exception) -> str:
    """What somebody else's code raised, as part of a line: its kind and its reason."""
    return f"{type(error).__name__}: {reason(error)}"


def reason(error: Exception) -> str:
    """The first line of what it says."""
    return str(error).strip().partition("\n")[0]


def letters(name: str) -> str:
    """A name in any spelling, as its letters and digits alone: Space Invaders, space-invaders and SpaceInvaders."""
    return "".join(filter(str.isalnum, name)).lower()
