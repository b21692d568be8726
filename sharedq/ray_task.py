"""What a worker of Ray runs: one command of sharedq in a process of its own. Workers import this file and no JAX."""

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from sharedq.errors import visible

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
CODE = """
from sharedq.ray_task import end_with_the_worker
end_with_the_worker()
from sharedq.command_line import main
raise SystemExit(main())
"""


class Ended(NamedTuple):
    """How the process of a task ended."""

    code: int
    last_line: str  # of what it said of errors
    machine: str


def train_in_a_process(words: Sequence[str], folder: str) -> Ended:
    """Runs a command of sharedq in `folder`. If this process is cancelled or ends, the command saves and ends too."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the process that waits for all tasks, which then cancels them
    )
    try:
        _, said = process.communicate()
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    lines = said.decode(errors="replace").strip().splitlines() or [""]
    return Ended(process.returncode, visible(lines[-1]).removeprefix("sharedq: "), socket.gethostname())


def end_with_the_worker() -> None:
    """Asks the system to send SIGTERM to this process when its parent ends. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
