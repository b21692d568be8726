"""A server answers as its agent decides, refuses in one line what it cannot use, and stops without losing a request."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from served import BYTES, CONTINUOUS, DISCRETE, JSON, Held, Running, spec_of, until, written

from sharedq import runtime
from sharedq.command_line import main
from sharedq.environments import Discrete
from sharedq.environments.spec import to_json
from sharedq.errors import SharedqError
from sharedq.recipes import recipe
from sharedq.serving.batching import Batcher, Failed, Full, mixes_rows
from sharedq.serving.limits import Limits, limits_for
from sharedq.serving.observations import Rule, Unusable, own_actions, read
from sharedq.serving.player import Player, png

TOKEN = "a-token-of-the-tests"
OBS = np.random.default_rng(5).normal(size=(40, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    written(folder / "agent.onnx", spec_of((5,), "float32", DISCRETE))
    return folder


@pytest.fixture(scope="module")
def agent(folder):
    return runtime.load(folder / "agent.onnx")


@pytest.fixture(scope="module")
def server(agent):
    with contextlib.closing(Running(agent)) as running:
        yield running


@pytest.fixture
def serving():
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(contextlib.closing(Running(*args, **options)))


# Answers


def test_actions_are_those_of_the_agent_in_every_form(server, agent):
    wanted = agent.act(OBS[:32])
    assert len(set(wanted.tolist())) > 1 and wanted.min() >= 1
    assert server.post("/act", {"observations": OBS[:32].tolist()}).json == {"actions": wanted.tolist()}
    assert server.post("/act", OBS[:32].tobytes()).json == {"actions": wanted.tolist()}
    for obs, action in zip(OBS[:5], wanted):
        assert server.post("/act", {"observation": obs.tolist()}).json == {"action": action}
        assert server.post("/act", obs.tobytes()).json == {"action": action}
    raw = server.post("/act", OBS[:7].tobytes(), Accept=BYTES)
    assert raw.headers["Content-Type"] == BYTES and raw.body == wanted[:7].astype("<i8").tobytes()


def test_values_are_those_of_the_agent_and_of_every_head(server, agent):
    found = server.post("/values", {"observations": OBS[:4].tolist()}).json
    assert set(found) == {"actions", "values", "head_values"}
    np.testing.assert_allclose(found["values"], agent.values(OBS[:4]), rtol=1e-6)
    one = server.post("/values", OBS[0].tobytes()).json
    np.testing.assert_allclose(one["head_values"], agent.head_values(OBS[0]), rtol=1e-6)
    np.testing.assert_allclose(np.mean(one["head_values"], axis=0), one["values"], rtol=1e-5)
    assert one["action"] == agent.act(OBS[0])


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int32", "float64"])
def test_observations_of_any_dtype_are_read_from_bytes_and_from_json(tmp_path, serving, dtype):
    agent = runtime.load(written(tmp_path / "agent.onnx", spec_of((4, 3), dtype, DISCRETE)))
    obs = np.random.default_rng(0).integers(0, 2, (6, 4, 3)).astype(dtype)
    running, wanted = serving(agent), {"actions": agent.act(obs).tolist()}
    little = obs.astype(obs.dtype.newbyteorder("<"))
    assert running.post("/act", little.tobytes()).json == wanted
    assert running.post("/act", {"observations": obs.tolist()}).json == wanted
    assert running.ask("POST", "/act", json.dumps({"observation": obs[0].tolist()}), JSON + "; charset=utf-8").json == {
        "action": agent.act(obs[0])
    }


def test_continuous_actions_are_vectors_and_have_no_values(tmp_path, serving):
    agent = runtime.load(written(tmp_path / "agent.onnx", spec_of((5,), "float32", CONTINUOUS)))
    running = serving(agent)
    np.testing.assert_allclose(running.post("/act", OBS[:2].tobytes()).json["actions"], agent.act(OBS[:2]), rtol=1e-6)
    raw = running.post("/act", OBS[0].tobytes(), Accept=BYTES).body
    np.testing.assert_allclose(np.frombuffer(raw, "<f4"), agent.act(OBS[0]), rtol=1e-6)
    for path, status in (("/values", 404), ("/act?softmax=1", 422)):
        reply = running.post(path, OBS[0].tobytes())
        assert reply.status == status and "continuous" in reply.json["detail"]


def test_probabilities_follow_their_rule():
    values = np.float32([[1, 2, 4], [0, -1, -700]])
    softmax = Rule("softmax", 2.0).probabilities(values)
    np.testing.assert_allclose(softmax[0], np.exp([0.5, 1, 2]) / np.exp([0.5, 1, 2]).sum())
    np.testing.assert_allclose(np.log(softmax[:, 0] / softmax[:, 1]), [-0.5, 0.5])
    for tiny in (1e-300, 1e-320):
        np.testing.assert_array_equal(Rule("softmax", tiny).probabilities(values), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(Rule("epsilon", 0.3).probabilities(values), [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])


def test_an_action_is_drawn_only_by_a_rule_that_the_request_names(server, agent):
    sent = {"observations": [OBS[0].tolist()] * 32}
    greedy = agent.act(OBS[0])
    for rule in ("epsilon=0", "softmax=0.0001"):
        found = server.post(f"/act?{rule}", sent).json
        assert set(found["actions"]) == {greedy} and np.ptp(found["probabilities"], axis=0).max() == 0
        np.testing.assert_allclose(found["probabilities"][0], np.eye(3)[greedy - 1], atol=1e-9)
    drawn = [action for _ in range(4) for action in server.post("/act?epsilon=1", sent).json["actions"]]
    assert set(drawn) == {1, 2, 3}  # misses one of three in 128 draws with a chance below 1e-22
    assert server.post("/act", sent).json == {"actions": [greedy] * 32}
    raw = server.post("/act?softmax=0.0001", OBS[0].tobytes(), Accept=BYTES)
    assert raw.headers["Content-Type"] == BYTES and raw.body == np.array(greedy, "<i8").tobytes()


@pytest.mark.parametrize(
    "actions", [Discrete(4), Discrete(3, first=5), Discrete(24, sizes=(2, 3, 4), starts=(0, 1, -1))]
)
def test_drawn_actions_are_in_the_units_of_the_environment(actions):
    plain = to_json(recipe("cartpole").build().spec._replace(actions=actions))["actions"]
    numbers = np.arange(actions.n)
    np.testing.assert_array_equal(own_actions(plain, numbers), actions.in_units(numbers))


def test_the_server_says_what_the_agent_is_and_what_can_be_asked(server, agent):
    told = server.ask("GET", "/agent").json
    assert told["observation"] == {"shape": [5], "dtype": "float32"} and told["actions"] == DISCRETE
    assert told["label"] == "shared heads K=3" and told["play"] is False
    assert server.ask("GET", "/health").json == {"status": "ok"}
    described = server.ask("GET", "/openapi.json").json
    assert set(described["paths"]) == {"/act", "/values", "/health", "/metrics", "/agent", "/play"}
    docs = server.ask("GET", "/docs").body.decode()
    assert all(path in docs for path in described["paths"])


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(server, path):
    reply = server.ask("GET", path)
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert not re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", reply.body.decode())
    assert "http://" not in reply.body.decode() and "https://" not in reply.body.decode()


def test_requests_are_counted(agent, serving):
    running = serving(agent)
    for sent, times in ((OBS[:3].tobytes(), 3), (b"", 2)):
        for _ in range(times):
            running.post("/act", sent)
    running.ask("GET", "/nothing/of/the/kind")
    text = running.ask("GET", "/metrics").body.decode()
    count = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert count['sharedq_requests_total{path="/act",status="200"}'] == "3"
    assert count['sharedq_requests_total{path="/act",status="422"}'] == "2"
    assert count['sharedq_requests_total{path="other",status="404"}'] == "1"
    assert count["sharedq_request_seconds_count"] == count['sharedq_request_seconds_bucket{le="+Inf"}'] == "6"
    buckets = [int(n) for name, n in count.items() if name.startswith("sharedq_request_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert count['sharedq_batch_size_bucket{le="2"}'] == "0" and count['sharedq_batch_size_bucket{le="4"}'] == "3"
    assert 'sharedq_batch_size_bucket{le="32"}' in count and 'sharedq_batch_size_bucket{le="64"}' not in count
    assert count["sharedq_batch_size_sum"] == "9" and count["sharedq_queue_length"] == "0"


# Mistakes

ONE = b"\0" * 20
MISTAKES = {
    "no body": ("/act", b"", BYTES, 422, "0 bytes"),
    "a short body": ("/act", b"\0" * 17, BYTES, 422, "the body has 17 bytes, and one observation, float32 [5]"),
    "not finite": ("/act", np.full(5, np.nan, np.float32).tobytes(), BYTES, 422, "not finite"),
    "too many": ("/act", ONE * 33, BYTES, 422, "33 observations are too many for one request: send at most 32"),
    "no type": ("/act", ONE, None, 415, "send the observation as application/json or as application/octet-stream"),
    "another type": ("/act", ONE, "text/plain", 415, "not as 'text/plain'"),
    "no JSON": ("/act", b"{", JSON, 422, "is no JSON"),
    "no text": ("/act", b"\xff\xfe{", JSON, 422, "is no JSON"),
    "another shape": ("/act", b'{"observation": [1, 2]}', JSON, 422, "must be float32 [5], or a batch of them, and is"),
    "a rule for values": ("/values?softmax=1", ONE, JSON, 422, "/values takes no rule: ask /act"),
    "ragged": ("/values", b'{"observations": [[1, 2], [3]]}', JSON, 422, "is no array"),
    "texts": ("/act", b'{"observation": ["a", "b", "c", "d", "e"]}', JSON, 422, "has texts where numbers belong"),
    "one long text": ("/act", b'{"observation": ["%s"%s]}' % (b"x" * 20_000, b', "a"' * 4_000), JSON, 422, "has texts"),
    "a text in another encoding": ("/act", '{"observation": ["a"]}'.encode("utf-16"), JSON, 422, "has texts"),
    "one as several": ("/act", b'{"observations": [1, 2, 3, 4, 5]}', JSON, 422, "'observations' has one observation"),
    "several as one": ("/act", b'{"observation": [[1, 2, 3, 4, 5]]}', JSON, 422, "'observation' has several"),
    "another key": ("/act", b'{"obs": [1, 2, 3, 4, 5]}', JSON, 422, "another form"),
    "a list": ("/act", b"[1, 2, 3, 4, 5]", JSON, 422, "another form"),
    "a NaN in JSON": ("/act", b'{"observation": [1, 2, 3, 4, NaN]}', JSON, 422, "NaN is no number of JSON"),
    "a huge number": ("/act", b'{"observation": [1, 2, 3, 4, 1e999]}', JSON, 422, "not finite"),
    "a huge whole number": ("/act", b'{"observation": [1, 2, 3, 4, 1%s]}' % (b"0" * 400), JSON, 422, ""),
    "a number of many digits": ("/act", b'{"observation": 1%s}' % (b"0" * 9000), JSON, 422, ""),
    "deep": ("/act", b"[" * 60_000, JSON, 422, "nested too deeply"),
    "a deep observation": ("/act", b'{"observation": %s1%s}' % (b"[" * 90, b"]" * 90), JSON, 422, "must be float32"),
    "another rule": ("/act?boltzmann=1", ONE, BYTES, 422, "softmax=TEMPERATURE or epsilon=PROBABILITY"),
    "two rules": ("/act?softmax=1&epsilon=0.1", ONE, BYTES, 422, "takes one rule"),
    "a temperature of zero": ("/act?softmax=0", ONE, BYTES, 422, "a temperature above 0, not '0'"),
    "no temperature": ("/act?softmax=nan", ONE, BYTES, 422, "a temperature above 0"),
    "no probability": ("/act?epsilon=2", ONE, BYTES, 422, "a probability from 0 to 1, not '2'"),
    "no game": ("/play", b"", JSON, 404, "start the server with --play"),
    "no such address": ("/acts", ONE, BYTES, 404, ""),
    "an address with a slash": ("/act/", ONE, BYTES, 404, ""),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(server, name):
    path, body, kind, status, words = MISTAKES[name]
    reply = server.ask("POST", path, body, kind)
    assert reply.status == status and set(reply.json) == {"detail"}
    assert (
        words in reply.json["detail"] and "\n" not in reply.json["detail"] and "Traceback" not in reply.json["detail"]
    )


def test_a_body_that_would_need_a_huge_array_is_refused(agent):
    body = json.dumps({"observation": ["x" * 1_000_000] + ["a"] * 100_000}).encode()
    with pytest.raises(Unusable, match="has texts"):  # an array of these texts would take 373 GiB
        read(agent, JSON, body, 32)

    class Small:
        spec = agent.spec

        def batch_of(self, obs):
            raise MemoryError

    with pytest.raises(Unusable, match="more memory than the server has"):
        read(Small(), JSON, b'{"observation": [1, 2, 3, 4, 5]}', 32)


def test_another_method_is_refused(server):
    assert server.ask("GET", "/act").status == 405 and server.ask("DELETE", "/health").status == 405


BODIES = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda value: json.dumps(value).encode(), st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(
            st.sampled_from(["observation", "observations", "x"]), inner, max_size=2),
        max_leaves=12,
    )),
)  # fmt: skip


@settings(max_examples=150)
@given(body=BODIES, kind=st.sampled_from([JSON, BYTES]), path=st.sampled_from(["/act", "/values", "/act?softmax=1"]))
def test_any_body_is_answered_or_refused_and_never_an_error_of_the_server(server, body, kind, path):
    reply = server.ask("POST", path, body, kind)
    assert reply.status in (200, 422)
    assert ("detail" in reply.json) == (reply.status == 422)


@settings(max_examples=60)
@given(sent=st.binary(min_size=1, max_size=300))
def test_bytes_that_are_no_request_end_their_connection_only(server, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
    assert not answer or re.match(rb"HTTP/1.[01] [45]\d\d", answer)
    assert server.ask("GET", "/health").status == 200


# Bounds

TIGHT = Limits(head=2_000, head_seconds=0.3, body_seconds=0.3, answer_seconds=0.3, max_queue=40)


def opened(port, head):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(head.replace(b"\n", b"\r\n"))
    return connection


def heard(connection):
    """All that the server sends until it closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65_536), b""))


POST = b"POST /act HTTP/1.1\nHost: localhost\nContent-Type: application/octet-stream\n"


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(server):
    most = limits_for({"observation": {"shape": [5], "dtype": "float32"}}).body
    assert server.post("/act", b"\0" * (most - most % 20)).status == 422  # as many observations as that are too many
    reply = server.post("/act", b"\0" * (most + 1))
    assert reply.status == 413 and "larger than 65,536 bytes" in reply.json["detail"]
    assert reply.headers["Connection"] is None  # it was read to its end, so that others can follow
    endless = opened(server.port, POST + b"Transfer-Encoding: chunked\n\n")
    chunk, sent = b"10000\r\n" + b"\0" * 65_536 + b"\r\n", 0
    with contextlib.suppress(ConnectionError):  # the server stops listening
        while sent < 64 * 2**20:
            endless.sendall(chunk)
            sent += len(chunk)
    endless.close()
    assert 16 * 2**20 < sent < 64 * 2**20
    assert server.post("/act", OBS[0].tobytes()).status == 200


def test_a_body_to_an_address_that_takes_none_is_not_read(server):
    reply = server.ask("GET", "/health", b"\0" * 1000)
    assert reply.status == 200 and reply.headers["Connection"] == "close"


def test_the_bodies_of_all_requests_together_are_bounded(agent, serving):
    running = serving(agent, base=TIGHT._replace(body=1000, bodies=4000, body_seconds=20))
    most = limits_for(agent.spec, TIGHT._replace(body=1000, bodies=4000)).body
    heads = POST + b"Content-Length: %d\n\n" % most
    connections = [opened(running.port, heads + b"\0" * (most - 1)) for _ in range(4)]
    until(lambda: running.post("/act", OBS[0].tobytes()).status == 503)
    reply = running.post("/act", OBS[0].tobytes())
    assert reply.headers["Retry-After"] == "1" and "too many bodies" in reply.json["detail"]
    for connection in connections:
        connection.close()
    until(lambda: running.post("/act", OBS[0].tobytes()).status == 200)


def test_a_slow_request_is_ended(agent, serving):
    running = serving(agent, base=TIGHT)
    answer = heard(opened(running.port, POST + b"Content-Length: 20\n\n" + b"\0" * 10))
    assert answer.startswith(b"HTTP/1.1 408 ") and b"did not come within 0.3 seconds" in answer
    assert heard(opened(running.port, POST)) == b""
    assert heard(opened(running.port, b"")) == b""
    with opened(running.port, b"GET /health HTTP/1.1\nHost: localhost\n\n") as connection:  # and its next request
        assert b'"ok"' in connection.recv(1000)
        connection.sendall(b"GET /hea")
        assert connection.recv(1000) == b""


def test_a_head_that_is_too_large_is_refused(agent, serving):
    running = serving(agent, base=TIGHT._replace(head_seconds=5))
    with opened(running.port, b"GET /health HTTP/1.1\nHost: localhost\nX: ") as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"y" * 1000)
                time.sleep(0.002)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert running.ask("GET", "/health").status == 200


@pytest.mark.parametrize("begun", [b"0\r\n", b"1;x="], ids=["trailers", "the extensions of a chunk"])
def test_what_stands_beside_a_body_in_chunks_is_bounded(agent, serving, begun):
    running = serving(agent, base=TIGHT._replace(head_seconds=20, body_seconds=20))
    line, sent = b"x: " + b"y" * 995 + b"\r\n" if begun[:1] == b"0" else b"y" * 1000, 0
    with opened(running.port, POST + b"Transfer-Encoding: chunked\n\n") as connection:
        connection.sendall(begun)
        with contextlib.suppress(ConnectionError):  # the server stops listening
            while sent < 10_000_000:
                connection.sendall(line)
                sent += len(line)
                time.sleep(0.0002)
    assert sent < 10_000_000
    with opened(running.port, POST + b"Connection: close\nTransfer-Encoding: chunked\n\n") as connection:
        connection.sendall(b"4;x=1\r\n\0\0\0\0\r\n" * 5 + b"0\r\nx: y\r\n\r\n")
        assert heard(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("requests", "header"), [(300, b""), (1, b"Connection: close\n")], ids=["many requests", "one request"]
)
def test_a_client_that_takes_no_answers_is_cut_off(agent, serving, caplog, capfd, requests, header):
    running = serving(agent, base=TIGHT._replace(send_seconds=0.3))
    running._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # so that the system holds little
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        connection.connect(("127.0.0.1", running.port))
        sent = b"GET / HTTP/1.1\nHost: localhost\n" + header + b"\n"
        connection.sendall(sent.replace(b"\n", b"\r\n") * requests)
        until(lambda: running.server.server_state.total_requests)
        until(lambda: not running.server.server_state.connections)
        assert len(heard(connection)) < 40_000
    assert running.ask("GET", "/health").status == 200
    until(lambda: not running.server.server_state.tasks)
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_a_connection_too_many_is_told_and_counted(agent, serving):
    running = serving(agent, base=TIGHT._replace(connections=3, head_seconds=20))
    idle = [opened(running.port, b"") for _ in range(3)]
    until(lambda: len(running.server.server_state.connections) == 3)
    reply = running.post("/act", OBS[0].tobytes())
    assert reply.status == 503 and reply.json == {"detail": "3 connections are open: try again"}
    assert reply.headers["Retry-After"] == "1" and reply.headers["Connection"] == "close"
    for connection in idle:
        connection.close()
    until(lambda: not running.server.server_state.connections)
    assert b'path="/act",status="503"} 1' in running.ask("GET", "/metrics").body


def test_a_full_queue_and_a_slow_decision_are_told(agent, serving):
    held = Held(agent)
    running = serving(held, base=TIGHT._replace(answer_seconds=2, body_seconds=20, head_seconds=20))
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(running.post, "/act", OBS[0].tobytes())
        until(lambda: held.sizes)
        second = pool.submit(running.post, "/act", OBS[:32].tobytes())
        until(lambda: b"sharedq_queue_length 32" in running.ask("GET", "/metrics").body)
        full = running.post("/act", OBS[:9].tobytes())
        assert full.status == 503 and full.headers["Retry-After"] == "1" and "40 observations" in full.json["detail"]
        assert first.result().status == second.result().status == 504
        assert "no decision within 2 seconds" in first.result().json["detail"]
    held.go.set()
    assert running.post("/act", OBS[0].tobytes()).json == {"action": agent.act(OBS[0])}
    assert held.sizes == [1, 1]  # what nobody waited for any more was not decided


def test_clients_that_leave_are_counted_and_nothing_is_logged(agent, serving, caplog, capfd):
    running = serving(agent)
    opened(running.port, POST + b"Content-Length: 20\n\n" + b"\0" * 10).close()
    opened(running.port, POST + b"Content-Length: 20\n\n" + b"\0" * 20).close()  # before the answer
    until(lambda: b'path="/act",status="499"} 1' in running.ask("GET", "/metrics").body)
    assert running.post("/act", OBS[0].tobytes()).status == 200
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_an_agent_that_breaks_is_answered_in_one_line(agent, serving):
    class Broken(Held):
        def outputs(self, batch):
            return self.broken(batch) if self.begun else self._agent.outputs(batch)

    one = Broken(agent)
    running = serving(one)
    one.broken = lambda batch: {"action": np.full(len(batch), np.nan)}
    for accept in (JSON, BYTES):
        reply = running.post("/act", OBS[0].tobytes(), Accept=accept)
        assert (reply.status, reply.json["detail"]) == (500, "the agent gave a number that is not finite")
    one.broken = lambda batch: 1 / 0
    reply = running.post("/act", OBS[0].tobytes())
    assert (reply.status, reply.json["detail"]) == (500, "the agent failed: division by zero")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_decides_no_more_is_not_healthy(agent, serving):
    class Ending(Held):
        def outputs(self, batch):
            if self.begun:
                raise SystemExit  # ends the thread
            return self._agent.outputs(batch)

    running = serving(Ending(agent), base=TIGHT)
    assert running.ask("GET", "/health").json == {"status": "ok"}
    assert running.post("/act", OBS[0].tobytes()).status == 504
    reply = running.ask("GET", "/health")
    assert reply.status == 503 and "the thread that decides has ended" in reply.json["detail"]


def test_a_mistake_of_the_server_is_told_in_one_line_and_logged(agent, serving, monkeypatch, caplog):
    running = serving(agent)
    monkeypatch.setattr("sharedq.serving.application.named", lambda *_: 1 / 0)
    reply = running.post("/act", OBS[0].tobytes())
    assert reply.status == 500 and reply.json == {"detail": "the server failed (ZeroDivisionError)"}
    until(lambda: caplog.records)


# Many at once


def test_requests_that_wait_are_decided_together_as_they_are_one_by_one(agent, serving):
    held = Held(agent)
    running, requests = serving(held), [OBS[place : place + 1 + place % 3] for place in range(30)]
    with ThreadPoolExecutor(30) as pool:
        replies = [pool.submit(running.post, "/values", one.tobytes()) for one in requests]
        until(lambda: held.sizes and b"sharedq_queue_length 0" not in running.ask("GET", "/metrics").body)
        held.go.set()
        found = [reply.result().json for reply in replies]
    assert sum(held.sizes) == sum(map(len, requests)) and 2 < max(held.sizes) <= 32 < sum(held.sizes)
    for obs, each in zip(requests, found):
        np.testing.assert_allclose(np.reshape(each["values"], (-1, 3)), agent.values(obs), rtol=1e-5)


def test_an_agent_whose_decisions_depend_on_the_batch_decides_one_by_one(agent, serving):
    class Mixing(Held):
        def outputs(self, batch):
            found = self._agent.outputs(batch)
            return {**found, "values": found["values"] + batch.max()}

    wanted = agent.values(OBS[:9]) + OBS[:9].max(axis=1, keepdims=True)
    found = serving(Mixing(agent)).post("/values", OBS[:9].tobytes()).json["values"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not mixes_rows(agent.outputs, (5,), np.dtype("float32"))


def test_a_batcher_keeps_the_order_and_its_bounds():
    async def all_of(batcher, sizes):
        asked = [asyncio.create_task(batcher.ask(np.full((size, 1), place))) for place, size in enumerate(sizes)]
        return await asyncio.gather(*asked, return_exceptions=True)

    async def one_of(batcher):
        """Two observations of different shapes in one batch."""
        with batcher._changed:  # the thread takes both at once
            asked = [asyncio.create_task(batcher.ask(np.zeros((1, size)))) for size in (2, 3)]
            await asyncio.sleep(0)
        return await asyncio.gather(*asked, return_exceptions=True)

    sizes = [3, 32, 1, 31, 30, 3, 5, 200]
    batcher = Batcher(lambda batch: {"same": batch}, max_batch_size=32, max_queue=110)
    found = asyncio.run(all_of(batcher, sizes))
    assert isinstance(found.pop(), Full)
    for place, (size, each) in enumerate(zip(sizes, found)):
        np.testing.assert_array_equal(each["same"], np.full((size, 1), place))
    both = asyncio.run(asyncio.wait_for(one_of(batcher), 20))
    assert [type(each) for each in both] == [Failed, Failed] and batcher.is_alive
    batcher.stop()
    assert not batcher.is_alive
    assert batcher.waiting == 0 and batcher.batch_sizes @ np.arange(33) == sum(sizes[:-1])


# The token and the address


def test_a_token_is_asked_for_and_the_page_is_not(agent, serving):
    running = serving(agent, token=TOKEN)
    for given_ in (
        {},
        {"Authorization": "Bearer another"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
    ):
        reply = running.post("/act", OBS[0].tobytes(), **given_)
        assert reply.status == 401 and reply.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in reply.json["detail"]
        assert ("another token" in reply.json["detail"]) == (given_.get("Authorization") == "Bearer another")
        assert running.ask("GET", "/agent", **given_).status == running.ask("GET", "/metrics", **given_).status == 401
    right = {"Authorization": f"Bearer {TOKEN}", "Host": "agents.example"}
    assert running.post("/act", OBS[0].tobytes(), **right).json == {"action": agent.act(OBS[0])}
    for path in ("/", "/docs", "/openapi.json", "/health"):
        reply = running.ask("GET", path)
        assert reply.status == 200 and b"shared heads" not in reply.body


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine_are_answered(server, host):
    assert server.ask("GET", "/agent", Host=host).status == 200


def test_another_loopback_address_is_answered_by_its_own_name_only(agent, serving):
    running = serving(agent, host="127.0.0.2")
    assert running.ask("GET", "/agent").status == 200
    reply = running.ask("GET", "/agent", Host="127.0.0.3")
    assert reply.status == 421 and "127.0.0.2" in reply.json["detail"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", ""])
def test_without_a_token_other_names_are_refused(server, host):
    reply = server.ask("GET", "/agent", Host=host)
    assert reply.status == 421 and "start it with a token" in reply.json["detail"]


def refused(capsys, *words):
    """The line with which the command refuses to start a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedq.serving.server.new_server", lambda *_: pytest.fail("a server was started"))
        assert main(["serve", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sharedq: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_of_others_needs_a_token(folder, capsys, host):
    assert "so that a token is needed: give --token-file FILE" in refused(capsys, folder / "agent.onnx", "--host", host)


@pytest.mark.parametrize("text", ["", "short", "with spaces in its middle", "ü" * 20, "x" * 600, "line\nline" * 4])
def test_a_token_that_is_none_is_refused(folder, tmp_path, capsys, monkeypatch, text):
    (tmp_path / "token").write_text(text)
    told = "must have 16 to 512 letters"
    assert told in refused(capsys, folder / "agent.onnx", "--token-file", tmp_path / "token")
    monkeypatch.setenv("SHAREDQ_TOKEN", text)
    assert f"the token of SHAREDQ_TOKEN {told}" in refused(capsys, folder / "agent.onnx")


def test_what_cannot_be_served_is_told_in_one_line(folder, tmp_path, capsys):
    file = folder / "agent.onnx"
    assert "cannot be read" in refused(capsys, tmp_path / "none.onnx")
    assert "cannot be read" in refused(capsys, file, "--token-file", tmp_path / "none")
    (tmp_path / "edited.onnx").write_bytes(file.read_bytes()[:-200] + file.read_bytes()[-199:])
    assert "was changed after it was exported" in refused(capsys, tmp_path / "edited.onnx")
    assert "--port is a number from 0 to 65535" in refused(capsys, file, "--port", 70_000)
    assert "the host 'no such host' is not known" in refused(capsys, file, "--host", "no such host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in refused(capsys, file, "--port", port)


@pytest.mark.parametrize(
    "spec",
    [
        3,
        {},
        {"observation": {"shape": [5], "dtype": "float32"}},
        spec_of((6,), "float32", DISCRETE),
        spec_of((5,), "object", DISCRETE),
        spec_of((5,), "float32", {**DISCRETE, "n": 7}),
        spec_of((5,), "float32", CONTINUOUS),
    ],
    ids=["a number", "nothing", "no actions", "another shape", "no numbers", "more actions", "other actions"],
)
def test_a_file_that_says_another_thing_of_its_agent_is_refused(tmp_path, capsys, spec):
    path = written(tmp_path / "agent.onnx", spec_of((5,), "float32", DISCRETE))
    written(path, spec_of((5,), "float32", DISCRETE), instead={"spec": spec})
    refused(capsys, path)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_a_missing_extra_is_named(folder, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    told = f"serving needs the package '{package}': run  pip install 'sharedq[serve]'"
    assert told in refused(capsys, folder / "agent.onnx")


# The process

COMMAND = [sys.executable, "-c"]
WITHOUT_JAX = (
    "import sys; [sys.modules.__setitem__(name, None) for name in ('jax', 'flax', 'onnx')];"
    "from sharedq.command_line import main; sys.exit(main(sys.argv[1:]))"
)


@contextlib.contextmanager
def process(folder, port=0, code=WITHOUT_JAX, words=()):
    """`sharedq serve` in a process in which JAX cannot be imported, and the port that it prints."""
    command = [*COMMAND, code, "serve", str(folder / "agent.onnx"), "--port", str(port), *words]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": paths}}
    with subprocess.Popen(command, text=True, **kept) as running:
        try:
            line = running.stdout.readline()
            yield running, int(re.search(r"http://127\.0\.0\.1:(\d+); Ctrl-C stops it", line)[1])
        finally:
            running.kill()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionError:
        return False
    return True


def healthy(port):
    """Asks twice for the health, so that what was sent before is with the server."""
    for _ in range(2):
        assert b'"ok"' in heard(opened(port, b"GET /health HTTP/1.1\nHost: localhost\nConnection: close\n\n"))


def test_without_jax_a_server_starts_stops_and_starts_again(folder, agent):
    port = 0
    for _ in range(2):
        with process(folder, port) as (running, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("POST", "/act", OBS[0].tobytes(), {"Content-Type": BYTES})
            assert json.load(connection.getresponse()) == {"action": agent.act(OBS[0])}
            running.send_signal(signal.SIGTERM)  # the connection is still open
            assert running.wait(10) == 0
            connection.close()
            assert running.stdout.read() == "stopped\n" and running.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_accepted_requests_be_answered_and_refuses_new_ones(folder, agent, number):
    with process(folder) as (running, port):
        half = opened(port, POST + b"Content-Length: 20\n\n" + OBS[0].tobytes()[:7])
        healthy(port)
        running.send_signal(number)
        until(lambda: not listens(port))
        half.sendall(OBS[0].tobytes()[7:])
        answer = heard(half)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b'{"action":%d}' % agent.act(OBS[0]))
        assert running.wait(10) == 0 and running.stderr.read() == ""


def stopped_by_a_second_signal(running, port, waiting, first, seconds):
    """Sends a signal to a server that owes an answer, and then another one, at which it ends."""
    healthy(port)
    running.send_signal(first)
    until(lambda: not listens(port))
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(seconds) == 128 + signal.SIGTERM
    waiting.close()
    assert running.stderr.read() == "sharedq: stopped at once, without the answers that were still due\n"


def test_a_second_signal_stops_at_once(folder):
    with process(folder) as (running, port):
        half = opened(port, POST + b"Content-Length: 20\n\n")
        stopped_by_a_second_signal(running, port, half, first=signal.SIGINT, seconds=5)


# The game


@pytest.mark.parametrize(
    ("name", "options", "has_picture"),
    [
        ("minatar-breakout", {}, True),
        ("corridor", {}, False),
        ("lunar-lander", {}, True),
        ("sac-mlp", {"environment": "gymnasium", "environment.id": "Pendulum-v1"}, True),
    ],
)
def test_an_agent_plays_on_the_page_what_it_would_play_elsewhere(tmp_path, serving, name, options, has_picture):
    one = recipe(name).replace(**options)
    spec = to_json(one.build().spec)
    agent = runtime.load(written(tmp_path / "agent.onnx", spec, experiment=one.to_dict()))
    player = Player(agent, 0)
    running = serving(agent, game=Player(agent, 0))
    assert running.ask("POST", "/play").status == 415
    assert running.ask("POST", "/play", "", "text/plain; a=application/json").status == 415
    for step in range(3):
        frame = running.ask("POST", "/play", "", f"{JSON}; charset=utf-8").json
        obs = player.observation()
        assert (frame["episode"], frame["step"], frame["last_return"]) == (1, step, None)
        np.testing.assert_allclose(frame["action"], agent.act(obs)[0], rtol=1e-6)
        assert ("values" in frame) == (spec["actions"]["kind"] == "discrete")
        assert (frame["picture"] is not None) == has_picture and frame == {**frame, **player.frame()}
        if has_picture:
            shown = Image.open(io.BytesIO(base64.b64decode(frame["picture"])))
            assert shown.mode == "RGB" and len(set(shown.get_flattened_data())) > 1
        player.step(agent.act(obs))
    player.close()


def test_episodes_follow_each_other_and_their_returns_are_told(tmp_path):
    one = recipe("corridor")
    spec = to_json(one.build().spec)
    player = Player(runtime.load(written(tmp_path / "agent.onnx", spec, experiment=one.to_dict())), 0)
    for episode in range(1, 4):
        player.observation()
        while player.frame()["episode"] == episode:  # going right reaches the end of the corridor and its reward of 1
            player.step(np.array([1]))
        assert player.frame() == {**player.frame(), "episode": episode + 1, "step": 0, "return": 0, "last_return": 1}


class World:
    """A game of zeros, or of what a test sets."""

    names, obs, closed = None, np.zeros((1, 5), np.float32), False

    def observation(self):
        return self.obs

    def step(self, action):
        pass

    def frame(self):
        return {"episode": 1}

    def close(self):
        self.closed = True


def test_a_game_that_shows_no_observation_of_the_agent_is_told(agent, serving):
    world = World()
    running = serving(agent, game=world)
    for world.obs in (np.full((1, 5), np.nan, np.float32), np.zeros((1, 4), np.float32)):
        reply = running.post("/play", {})
        assert reply.status == 500 and "the agent cannot see the game" in reply.json["detail"]
    world.obs = World.obs
    assert running.post("/play", {}).status == 200
    running.close()
    until(lambda: world.closed)


def test_a_game_whose_first_reset_fails_begins_anew(tmp_path):
    one = recipe("corridor")
    agent = runtime.load(written(tmp_path / "agent.onnx", to_json(one.build().spec), experiment=one.to_dict()))
    player, closed = Player(agent, 0), []

    class Failing:
        def reset(self):
            raise SharedqError("the reset failed")

        def close(self):
            closed.append(self)

    opened_ = player._opened
    player._opened = lambda: (Failing(), False)
    for count in (1, 2):
        with pytest.raises(SharedqError, match="the reset failed"):
            player.observation()
        assert len(closed) == count
    player._opened = opened_
    player.observation()
    assert player.frame()["episode"] == 1


class Hanging(World):
    def __init__(self):
        self.go = threading.Event()

    def observation(self):
        self.go.wait()
        return self.obs


def test_a_game_that_hangs_is_told_and_others_are_answered(agent, serving):
    game = Hanging()
    running = serving(agent, base=TIGHT._replace(game_seconds=0.3), game=game)
    for _ in range(2):
        reply = running.post("/play", {})
        assert reply.status == 504 and "the game did not go on within 0.3 seconds" in reply.json["detail"]
    assert running.post("/act", OBS[0].tobytes()).status == 200
    game.go.set()
    assert running.post("/play", {}).status == 200


def test_a_second_signal_stops_a_server_whose_game_hangs(folder):
    code = (
        "import sys; from test_serving import Hanging; from sharedq.command_line import main; "
        "from sharedq.serving import server; server._game = lambda *_: Hanging(); sys.exit(main(sys.argv[1:]))"
    )
    with process(folder, code=code, words=["--play"]) as (running, port):
        waiting = opened(port, b"POST /play HTTP/1.1\nHost: localhost\nContent-Type: application/json\n\n")
        stopped_by_a_second_signal(running, port, waiting, first=signal.SIGTERM, seconds=10)


def test_code_that_a_file_names_is_imported_only_if_it_is_trusted(tmp_path, capsys):
    one = recipe("cartpole").to_dict()
    one["environment"] = {"kind": "gymnasium", "id": "stranger.module:make"}
    spec = spec_of((5,), "float32", DISCRETE)
    path = written(tmp_path / "agent.onnx", spec, experiment=one)
    told = refused(capsys, path, "--port", 0, "--play")
    assert "stranger.module:make" in told and "--trust" in told
    written(path, spec, experiment=3)
    refused(capsys, path, "--port", 0, "--play")
    written(path, spec)
    assert "does not describe what to play in" in refused(capsys, path, "--port", 0, "--play")


def test_another_environment_than_the_agents_is_refused(tmp_path):
    spec = spec_of((5,), "float32", DISCRETE)
    path = written(tmp_path / "agent.onnx", spec, experiment=recipe("corridor").to_dict())
    with pytest.raises(SharedqError, match="is another than when the run began"):
        Player(runtime.load(path), 0)


def test_a_picture_is_written_as_others_read_it():
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
