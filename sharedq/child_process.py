"""Commands of sharedq in processes of their own, which end with the process that started them. No JAX is imported."""

import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sharedq.errors import visible

POLL = 0.2  # ours: seconds between two looks at a process
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
CODE = """
from sharedq.child_process import end_with_parent
end_with_parent()
from sharedq.command_line import main
raise SystemExit(main())
"""


class Ended(NamedTuple):
    """How the process of a task ended."""

    code: int
    last_line: str  # of what it said of errors
    machine: str


def start(words: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts a command. Ctrl-C reaches this process alone, and the command gets SIGTERM when this process ends."""
    command = [sys.executable, "-c", CODE, *words]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, start_new_session=True, **options)


def run(words: Sequence[str], folder: str) -> Ended:
    """Runs a command in `folder`, as a task of Ray. If this process is cancelled or ends, the command ends too."""
    with suppress(ValueError):  # only the main thread may, and Ray runs tasks there
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored; Ray cancels by it
    with tempfile.TemporaryFile() as errors:
        process = start(words, cwd=folder, stderr=errors)
        try:
            while process.poll() is None:
                time.sleep(POLL)  # Ray cancels a task between two steps of Python, and not while it waits
        except BaseException:
            process.terminate()
            process.wait()
            raise
        errors.seek(0)
        return Ended(process.returncode, last_line(errors.read()), socket.gethostname())


def last_line(said: bytes) -> str:
    """The last line of what a command said of errors, without its name."""
    lines = said.decode(errors="replace").strip().splitlines() or [""]
    return visible(lines[-1]).removeprefix("sharedq: ")


def end_with_parent() -> None:
    """Asks the system to send SIGTERM to this process when its parent ends. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
