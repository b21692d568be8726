"""What the tests of serving share: small agents in files, and servers that run in a thread of this process."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sharedq import runtime
from sharedq.exporting.agent_file import content_of
from sharedq.serving.server import bound, new_server

JSON, BYTES = "application/json", "application/octet-stream"
DISCRETE = {"kind": "discrete", "n": 3, "first": 1}
CONTINUOUS = {"kind": "continuous", "dtype": "float32", "low": [-2.0, 0.0], "high": [2.0, 1.0]}


def spec_of(shape: tuple[int, ...], dtype: str, actions: dict[str, Any], name: str = "choices") -> dict[str, Any]:
    return {
        "name": name,
        "observation": {"shape": list(shape), "dtype": dtype},
        "actions": actions,
        "stacks": None,
    }


def written(path: Path, spec: dict[str, Any], heads: int = 3, **described: Any) -> Path:
    """A file with an agent that has one layer of drawn weights, and no bias."""
    shape, actions = spec["observation"]["shape"], spec["actions"]
    is_discrete = actions["kind"] == "discrete"
    count, rng = int(np.prod(shape)), np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec["observation"]["dtype"]))
    width = heads * actions["n"] if is_discrete else len(actions["low"])
    constants = {
        "weights": rng.normal(size=(count, width)).astype(np.float32),
        "flat": np.array([-1, count]),
        "by_head": np.array([-1, heads, actions.get("n", 1)]),
        "first": np.array(actions.get("first", 0)),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("Cast", ["observation"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["features"]),
    ]
    outputs = []
    if is_discrete:
        nodes += [
            helper.make_node("MatMul", ["features", "weights"], ["product"]),
            helper.make_node("Reshape", ["product", "by_head"], ["head_values"]),
            helper.make_node("ReduceMean", ["head_values", "axes"], ["values"], keepdims=0),
            helper.make_node("ArgMax", ["values"], ["best"], axis=1, keepdims=0),
            helper.make_node("Add", ["best", "first"], ["action"]),
        ]
        outputs.append(helper.make_tensor_value_info("action", TensorProto.INT64, ["B"]))
        outputs.append(helper.make_tensor_value_info("values", TensorProto.FLOAT, ["B", actions["n"]]))
        outputs.append(helper.make_tensor_value_info("head_values", TensorProto.FLOAT, ["B", heads, actions["n"]]))
    else:
        nodes.append(helper.make_node("MatMul", ["features", "weights"], ["action"]))
        outputs.append(helper.make_tensor_value_info("action", TensorProto.FLOAT, ["B", width]))
    given = [helper.make_tensor_value_info("observation", kind, ["B", *shape])]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "agent", given, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    about = {"spec": spec, "label": "shared heads K=3", "algorithm": "dqn", "seed": 0, "step": 7, "return": None}
    path.write_bytes(content_of(model, {**about, "precision": "float32"} | described.pop("instead", {}) | described))
    return path


def until(condition: Callable[[], Any]) -> None:
    """Returns once the condition holds, and fails if it does not within 20 seconds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A server of an agent, in a thread."""

    def __init__(self, agent: Any, host: str = "127.0.0.1", **options: Any):
        self.server = new_server(agent, **options)
        agent.begun = True
        self.host, self._listening = host, bound(host, 0, False).thing
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listening]})
        self._thread.start()
        until(lambda: self.server.started)

    def ask(self, method: str, path: str, body: Any = None, kind: str | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        with contextlib.closing(connection):
            kinds = {"Content-Type": kind} if kind else {}
            connection.request(method, path, body, {**kinds, **headers})
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())

    def post(self, path: str, sent: Any, **headers: str) -> Reply:
        """Bytes as they are, and anything else as JSON."""
        if isinstance(sent, bytes):
            return self.ask("POST", path, sent, BYTES, **headers)
        return self.ask("POST", path, json.dumps(sent), JSON, **headers)

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join()


class Held:
    """An agent that decides only once it is let go."""

    def __init__(self, agent: runtime.Agent):
        self._agent, self.go = agent, threading.Event()
        self.spec, self.metadata, self.batch_of = agent.spec, agent.metadata, agent.batch_of
        self.sizes: list[int] = []  # of the batches that it was given since its server began
        self.begun = False

    def outputs(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        if self.begun:
            self.sizes.append(len(batch))
            self.go.wait()
        return self._agent.outputs(batch)
