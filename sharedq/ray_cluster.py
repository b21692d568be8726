"""Training the runs of a comparison as tasks of Ray, on a cluster or on a local one that listens on loopback only.

A task starts `sharedq resume COMPARISON --run NAME` as a process of its own, which takes the run and trains it as ever.
A task whose process or machine is lost is tried again, and goes on from the last checkpoint. All machines of the
cluster share the folder of the comparison, so what a task returns is only how its process ended.
"""

import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sharedq import child_process
from sharedq.child_process import Ended
from sharedq.errors import Diverged, SharedqError, Stopped, missing_extra, reason
from sharedq.runs import RunDirectory
from sharedq.training.signals import StopRequest, stop_requests

TRIES = 3  # ours: how often a run is begun or gone on with before it counts as lost
POLL = 0.5  # ours: seconds between two looks at the tasks
CONNECTED_IN = 5  # ours: the most seconds until a server accepts a connection
REACHED_IN = 60  # ours: the most seconds until a cluster answers
SAVED_IN = 60  # ours: the most seconds in which tasks that were asked to stop save their runs
REMEDY = "correct RAY_ADDRESS, or leave it out to start a cluster here"
DIVERGED = Diverged.exit_code


class Task(NamedTuple):
    """A run of the plan that is to be trained."""

    name: str  # for whoever reads the lines
    folder: str  # in the comparison
    words: tuple[str, ...]  # the arguments of the command


@contextmanager
def connected(say: Callable[[str], None]) -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS, to one that runs on this machine, or to a new one on loopback."""
    if find_spec("ray") is None:
        raise missing_extra("ray", "ray", "--on ray")
    address = _address()
    if address is None:
        # Ray asks for this before it keeps all its ports on 127.0.0.1. It is read when Ray is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    else:
        _check_cluster(address)
    import ray

    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        with warnings.catch_warnings():  # Ray forks to start its processes, which become other programs at once
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except Exception as error:  # of many types, by what is wrong with the cluster
        raise SharedqError(f"Ray does not start here: {reason(error)}") from error
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        say(f"Ray: {f'the cluster at {address}' if address else 'a local cluster'} with {cores} CPUs")
        yield ray
    finally:
        ray.shutdown()


def _address() -> str | None:
    """The address of the cluster to use. None if there is none, so that a local one is started."""
    if given := os.environ.get("RAY_ADDRESS"):
        return None if given == "local" else given
    noted = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    with suppress(OSError, ValueError):  # `ray start` writes it, and the cluster may be gone since
        address = noted.read_text().strip()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=1):
            return address
    return None


def _check_cluster(address: str) -> None:
    """Raises unless a cluster answers at the address.

    A process of its own asks, because Ray waits long for a server which is not Ray, or ends the process that asks.
    """
    _check_server(address)
    code = f"import ray; ray.init({address!r}, log_to_driver=False, logging_level='CRITICAL')"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, stdin=subprocess.DEVNULL, timeout=REACHED_IN, check=False
        )
    except subprocess.TimeoutExpired:
        raise SharedqError(f"no Ray cluster answers at {address} within {REACHED_IN} s: {REMEDY}") from None
    if asked.returncode:
        raise SharedqError(f"no Ray cluster answers at {address}: {REMEDY}")


def _check_server(address: str) -> None:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECTED_IN):
            pass
    except ValueError:
        raise SharedqError(f"RAY_ADDRESS is a host and a port, not {address}: {REMEDY}") from None
    except OSError as error:
        raise SharedqError(f"no Ray cluster answers at {address} ({error.strerror or error}): {REMEDY}") from None


def carry_out(out: Path, tasks: Sequence[Task], onwards: str, say: Callable[[str], None]) -> list[str]:
    """Trains the runs of a comparison at `out` as tasks. Returns the names of those that diverged.

    If other runs cannot be trained, the rest is trained to its end before an error tells of them. `onwards` is the
    command that goes on with the comparison if it is stopped.
    """
    if not tasks:
        return []
    with connected(say) as ray, stop_requests() as request:
        return _Tasks(ray, out, tasks, say).run(request, onwards)


class _Tasks:
    """The tasks that wait for a worker or have one."""

    def __init__(self, ray: Any, out: Path, tasks: Sequence[Task], say: Callable[[str], None]):
        self._ray, self._out, self._tasks, self._say = ray, out.resolve(), tasks, say
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # A run is tried again here, from its checkpoint. Ray would begin the task anew without telling.
        self._function = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(child_process.run)
        self._tried: Counter[str] = Counter()
        self._waiting: dict[Any, Task] = {}
        self._diverged: list[str] = []
        self._lost: list[str] = []

    def run(self, request: StopRequest, onwards: str) -> list[str]:
        for task in self._tasks:
            self._submit(task)
        while self._waiting:
            if request.number is not None:
                self._say("stopping: each run saves a checkpoint first")
                self._cancel()
                raise Stopped(f"stopped the tasks; to continue: {onwards}", request.number)
            ready, _ = self._ray.wait(list(self._waiting), timeout=POLL)
            for one in ready:
                self._finish(self._waiting.pop(one), one)
        if self._lost:
            raise SharedqError(f"{'; '.join(self._lost)}; once that is corrected, continue with: {onwards}")
        return self._diverged

    def _submit(self, task: Task) -> None:
        self._tried[task.folder] += 1
        self._waiting[self._function.remote(task.words, str(Path.cwd()))] = task

    def _finish(self, task: Task, reference: Any) -> None:
        """Tells how a task ended, and tries it again if its process was lost."""
        try:
            ended = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            ended = Ended(-1, f"its worker was lost ({type(error).__name__})", "a machine of the cluster")
        if ended.code == 0 and self._is_finished(task):
            self._say(f"{task.name} is finished, on {ended.machine}")
        elif ended.code == DIVERGED:
            self._say(f"{task.name} diverged: {ended.last_line}")
            self._diverged.append(task.name)
        elif _was_lost(ended.code) and self._tried[task.folder] < TRIES:
            self._say(f"{task.name} is tried again, from its last checkpoint: {_why(ended)}")
            self._submit(task)
        else:
            self._lost.append(f"{task.name} could not be trained on {ended.machine}: {_why(ended)}")
            self._say(self._lost[-1])

    def _is_finished(self, task: Task) -> bool:
        """Whether the run is finished in the folder that this process sees."""
        with suppress(SharedqError, OSError):
            return RunDirectory.open(self._out / task.folder).finished() is not None
        return False

    def _cancel(self) -> None:
        """Asks all tasks to save their runs, and waits for them."""
        for one in self._waiting:
            self._ray.cancel(one)
        with suppress(KeyboardInterrupt):
            self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=SAVED_IN)


def _was_lost(code: int) -> bool:
    """Whether a process was ended from outside, so that trying again may help. What it refuses, it refuses again."""
    return code < 0 or code > 128


def _why(ended: Ended) -> str:
    if ended.code == 0:
        return "it is not finished in the folder that is seen here, so put the folder where all machines share it"
    return ended.last_line or f"its process ended with {ended.code}"


def words_for(out: Path, name: str, trusts: bool) -> tuple[str, ...]:
    """The arguments of the command that trains one run of a comparison."""
    return ("resume", str(out.resolve()), "--run", name, *["--trust"] * trusts)


def onwards(out: Path, trust: str) -> str:
    """The command that goes on with a comparison on Ray."""
    return f"sharedq resume {shlex.quote(str(out))}{trust} --on ray"
