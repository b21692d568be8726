"""Load on a server on loopback: latencies and requests per second, and whether every answer is right.

    python -m benchmarks.serving
    python -m benchmarks.serving --requests 100000 --malformed 0.05

The server is `sharedq serve` in a process of its own, and all clients are in this one. The agents have the network of
Atari with random weights, in float32 and INT8; others are named with `--files`. Each client sends one request after
another as raw bytes. A share of the requests can be malformed. Each of these must be refused with its own status and
one line of `detail`. Every action is compared with that of onnxruntime alone. An action may differ only where two
values are equal but for their rounding. A request without an answer after 30 seconds counts as lost.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import uvloop

WAIT = 30.0  # seconds for one answer
CLOSE = 1e-4  # of the largest value: values that differ by less may change places
POOL = 64  # observations that are sent


class Load(NamedTuple):
    """What can be sent to a server, and the answers that are right."""

    requests: list[bytes]
    right: list[set[bytes]]  # of each request the bodies that are right; none of a malformed one
    malformed: list[tuple[bytes, int]]  # requests with the status that is right


def request(body: bytes, kind: str = "application/octet-stream", path: str = "/act") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def load_of(file: Path) -> Load:
    """Random observations, with the actions of onnxruntime alone."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    spec = json.loads(session.get_modelmeta().custom_metadata_map["sharedq.agent"])["spec"]
    shape, dtype = spec["observation"]["shape"], np.dtype(spec["observation"]["dtype"])
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256 if dtype == np.uint8 else 2, (POOL, *shape)).astype(dtype)
    batch = drawn if dtype.kind in "iub" else rng.normal(size=drawn.shape).astype(dtype)
    right: list[set[bytes]] = []
    for obs in batch:
        (values,) = session.run(["values"], {"observation": obs[None]})[0]
        near = np.nonzero(values >= values.max() - CLOSE * np.abs(values).max())[0] + spec["actions"]["first"]
        right.append({b'{"action":%d}' % action for action in near})
    one = batch[0].tobytes()
    malformed = [
        (request(one[:-1]), 422),
        (request(b""), 422),
        (request(b'{"observation": [1, 2', "application/json"), 422),
        (request(b'{"observation": [[1, 2], [3]]}', "application/json"), 422),
        (request(one, "text/plain"), 415),
        (request(one, path="/nowhere"), 404),
        (request(one, path="/act?softmax=0"), 422),
    ]
    return Load([request(obs.tobytes()) for obs in batch], right, malformed)


def is_line_of_detail(body: bytes) -> bool:
    """Whether this is the answer to a mistake."""
    try:
        (detail,) = json.loads(body)["detail"].splitlines()
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(detail)


@contextlib.contextmanager
def server_of(file: Path, core: int | None) -> Iterator[tuple[subprocess.Popen, int]]:
    """`sharedq serve` in a process, and its port."""
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    command = [*pinned, sys.executable, "-m", "sharedq", "serve", str(file), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+); Ctrl-C", process.stdout.readline())
        assert found is not None, "the server did not start"
        try:
            yield process, int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "the server did not stop as it should"


def resident(pid: int) -> float:
    """Megabytes of memory of a process."""
    kilobytes = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert kilobytes is not None
    return int(kilobytes[1]) / 1e3


async def send(port: int, load: Load, clients: int, requests: int, share: float) -> tuple[list[float], Counter, float]:
    """Sends so many requests. Gives the milliseconds of each answer to a good one, counts, and the seconds of all."""
    times: list[float] = []
    counts: Counter[str] = Counter()

    async def client(number: int, own: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        chosen = random.Random(number)
        for _ in range(own):
            is_malformed, place = chosen.random() < share, chosen.randrange(POOL)
            sent, status = chosen.choice(load.malformed) if is_malformed else (load.requests[place], 200)
            began = time.perf_counter()
            try:
                async with asyncio.timeout(WAIT):
                    writer.write(sent)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
                    body = await reader.readexactly(length)
            except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                counts["lost"] += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            if not is_malformed:
                times.append((time.perf_counter() - began) * 1e3)
            is_told = is_line_of_detail(body) if is_malformed else body in load.right[place]
            is_right = int(head[9:12]) == status and is_told
            counts[("refused" if is_malformed else "answered") if is_right else "wrong"] += 1
            if b"connection: close" in head.lower():
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    began = time.perf_counter()
    shares = [requests // clients + (number < requests % clients) for number in range(clients)]
    await asyncio.gather(*(client(number, own) for number, own in enumerate(shares)))
    return times, counts, time.perf_counter() - began


def made_files(folder: Path) -> dict[str, Path]:
    """The float32 and the INT8 file of the network of Atari, made in a process of its own, for JAX stays in it."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.export import agent_with, files_of;"
        "files_of(agent_with('atari-cnn-ln', 9), Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    return {f"Atari {name}": folder / f"{name}.onnx" for name in ("float32", "INT8")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, nargs="+", help="exported agents (default: Atari's network, made here)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="(default: 1 8 32)")
    parser.add_argument("--requests", type=int, default=3_000, help="of each row (default: %(default)s)")
    parser.add_argument("--malformed", type=float, default=0.0, help="share of malformed requests (default: none)")
    parser.add_argument("--core", type=int, help="the core of the server (default: any)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {file.name: file for file in arguments.files or ()} or made_files(Path(folder))
        bad = sum(measure(name, file, arguments) for name, file in files.items())
    sys.exit(f"{bad} requests were lost or answered wrongly" if bad else 0)


def measure(name: str, file: Path, arguments: argparse.Namespace) -> int:
    """Prints a row for each number of clients. Gives how many requests were lost or answered wrongly."""
    load, bad = load_of(file), 0
    with server_of(file, arguments.core) as (process, port):
        uvloop.run(send(port, load, 8, 200, 0.0))  # the first ones take longer
        for clients in arguments.clients:
            before = resident(process.pid)
            times, counts, seconds = uvloop.run(send(port, load, clients, arguments.requests, arguments.malformed))
            middle, late = np.percentile(times, [50, 99])
            bad += counts["lost"] + counts["wrong"] + arguments.requests - sum(counts.values())
            print(
                f"{name:20} {clients:3} clients {arguments.requests / seconds:8,.0f} requests/s  p50 {middle:7.2f} ms  "
                f"p99 {late:7.2f} ms  RSS {before:5.0f} -> {resident(process.pid):5.0f} MB  "
                + ", ".join(f"{counts[what]:,} {what}" for what in ("answered", "refused", "wrong", "lost")),
                flush=True,
            )
    return bad


if __name__ == "__main__":
    main()
