"""Errors that a user can cause. Each is one line that says what is wrong and what to do."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class SharedqError(Exception):
    """Ends a command with this exit code. Its message is the only output, without a traceback."""

    exit_code = 2


class Diverged(SharedqError):
    """A loss, a parameter or a value of the environment became a number that is not finite during training."""

    exit_code = 3


class NotFinite(SharedqError):
    """A given number is not finite, or too large for its use."""


class Unphysical(SharedqError):
    """An environment returned a number that is not finite. `what` names it; seed and step say when it happened."""

    exit_code = 3
    why = "the environment broke down"
    hint = "look at what the environment does there, or train with other --seeds"

    def __init__(self, what: str, seed: int = 0, step: int = 0):
        super().__init__(f"{what} is not a finite number: {self.why}")
        self.what, self.seed, self.step = what, seed, step


class Unlearned(Unphysical):
    """An agent chose an action that is not finite, so the environment is not the cause of what follows."""

    why = "learning diverged"
    hint = "gradient steps were too large: lower the learning rate, or bound rewards or gradients"


class EnvironmentFailed(SharedqError):
    """The code of an environment, which may be the user's own, raised an error."""


class DeviceFailed(SharedqError):
    """The device failed while it ran compiled code, or a callback of that code raised an error."""


class Stopped(SharedqError):
    """A run was asked to stop (Ctrl-C, SIGTERM) and has saved a checkpoint to resume from."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unknown(kind: str, name: object, known: Iterable[str]) -> SharedqError:
    """The error for a name that is not in a table. It lists similar or longer names, or else all names."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=3, cutoff=0.5)
    near = near or [one for one in known if len(str(name)) > 2 and one.startswith(str(name))]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
    return SharedqError(f"unknown {kind} '{name}': {hint}")


def missing_extra(package: str, extra: str, purpose: str) -> SharedqError:
    """The error for an optional dependency that is not installed, with the line that installs it."""
    return SharedqError(f"{purpose} needs the package '{package}': run  pip install 'sharedq[{extra}]'")


def told(error: BaseException) -> str:
    """The type and reason of an error, as part of a line."""
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else reason(error)}"


def reason(error: BaseException) -> str:
    """The first line of the error's message."""
    return str(error).strip().partition("\n")[0]


def visible(text: str) -> str:
    """The text with control characters escaped, so that text from a file cannot control a terminal. Lines are kept."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def device_errors() -> Iterator[None]:
    """Turns an error that JAX reports from compiled code into one line."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "JaxRuntimeError":  # recognised by its name, so that JAX is not imported for it
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
    """The letters and digits of a name, equal for Space Invaders, space-invaders and SpaceInvaders."""
    return "".join(filter(str.isalnum, name)).lower()
