"""Errors a user can cause: one clear line that says what is wrong and what to do."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    why = "the environment broke down"
    hint = "look at what the environment does there, or train with other --seeds"

    def __init__(self, what: str, seed: int = 0, step: int = 0):
        super().__init__(f"{what} is not a finite number: {self.why}")
        self.what, self.seed, self.step = what, seed, step


class Unlearned(Unphysical):
    """An agent gave an action that is not a finite number, so that the world cannot be blamed for what follows."""

    why = "learning diverged"
    hint = "gradient steps were too large: lower the learning rate, or bound rewards or gradients"


class EnvironmentFailed(SharedqError):
    """The code of an environment, which may be the user's own, raised an error: which environment, and what it said."""


class DeviceFailed(SharedqError):
    """The device gave up while it ran compiled code, or what that code called back raised an error."""


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


def told(error: BaseException) -> str:
    """What somebody else's code raised, as part of a line: its kind and its reason."""
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else reason(error)}"


def reason(error: BaseException) -> str:
    """The first line of what it says."""
    return str(error).strip().partition("\n")[0]


def visible(text: str) -> str:
    """The text with control characters spelt out: what comes from a file commands no terminal. Lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def device_errors() -> Iterator[None]:
    """Tells an error that JAX reports from compiled code in one line."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "JaxRuntimeError":  # known by its name, so that nothing imports JAX for it
            raise
        raise DeviceFailed(_device_error(str(error))) from error


def _device_error(text: str) -> str:
    if "RESOURCE_EXHAUSTED" in text:
        lower = "lower --replay.capacity, --replay.batch_size, --seeds, --training.environments or --episodes"
        return f"the device ran out of memory ({text.strip().splitlines()[0]}): {lower}"
    _, called_back, trace = text.partition("Traceback (most recent call last):")
    if not called_back:
        return f"the device failed: {text.strip().splitlines()[0]}"
    places = re.findall(r'^ +File "(.*)", line (\d+)', trace, re.M)
    raised = re.findall(r"^\S.*$", trace, re.M)
    place = f" ({places[-1][0]}:{places[-1][1]})" if places else ""
    return f"a function that compiled code calls back raised {raised[0] if raised else 'an error'}{place}"


def letters(name: str) -> str:
    """A name in any spelling, as its letters and digits alone: Space Invaders, space-invaders and SpaceInvaders."""
    return "".join(filter(str.isalnum, name)).lower()
