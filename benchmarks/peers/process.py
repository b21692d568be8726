"""A peer in a Python of its own, which makes as many updates as it is told and says how long they took."""

import subprocess
import sys
from pathlib import Path


class PeerProcess:
    def __init__(self, python: str, script: str, *arguments: str):
        """Starts a script of this folder with the Python of the peer's virtual environment."""
        command = [python, str(Path(__file__).parent / script), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, updates: int) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{updates}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"the peer stopped: {self._process.args}")
        return float(answer)

    def close(self) -> None:
        self._process.communicate()
