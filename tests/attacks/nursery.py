"""A process that has imported everything and forks others, which run one command each: a start costs little so.

It reads a line of JSON for each, answers with its number, and says how it ended when it has.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path


class Nursery:
    """Starts processes in the time that a fork takes."""

    def __init__(self, *paths: Path):
        before = os.environ.get("PYTHONPATH", "")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), before])}
        code = "from attacks import nursery; nursery.serve()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)

    def start(self, words: list[object], folder: Path, at: int = 0) -> int:
        """Starts a command in `folder`, which is killed at its change number `at` there; the process's number."""
        wanted = {"words": [str(word) for word in words], "folder": str(folder), "at": at}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        """How the process ended: its exit code, or the negative number of the signal that killed it."""
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """Nothing here lets JAX begin: its threads would not live through a fork."""
    import sharedq.command_line
    import sharedq.reports
    import sharedq.trainer  # noqa: F401

    warnings.simplefilter("ignore")
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nowhere, number)
    for line in sys.stdin:
        wanted = json.loads(line)
        if not (process := os.fork()):
            _run(wanted["words"], Path(wanted["folder"]), wanted["at"])
        os.write(answers, f"{process}\n".encode())
        os.write(answers, f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n".encode())


def _run(words: list[str], folder: Path, at: int) -> None:
    from attacks.moments import Kills, watched
    from sharedq.command_line import main

    os.chdir(folder)
    code = 99
    try:
        with watched(folder, Kills(at)):
            code = main(words)
    finally:
        os._exit(code)
