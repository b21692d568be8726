"""Remote actors and their learner: the form of messages, what is lost and noticed, and runs through a real server."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq import remote_blocks, reports
from sharedq.actor import Actor, act, read_plan
from sharedq.command_line import main
from sharedq.environments.spec import to_json
from sharedq.errors import SharedqError
from sharedq.recipes import recipe
from sharedq.redis_queue import Full, RedisQueue, check_url, is_exposed
from sharedq.remote_blocks import Arrivals, Block, BlockForm, OtherSchema, Refused, Sender, epsilon_of, schema_of
from sharedq.transitions import Step

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_server = pytest.mark.skipif(SERVER is None, reason="there is no redis-server and no valkey-server here")

LENGTH, SHARE = 3, 2
SCHEMA = b"12345678"
LIKE = Step(
    np.zeros((4, 4, 2), np.bool_),
    np.zeros((), np.int32),
    np.float32(0),
    np.bool_(0),
    np.bool_(0),
    np.zeros((4, 4, 2), np.bool_),
)
FORM = BlockForm.of(SCHEMA, LIKE, 3, LENGTH, SHARE)


def block_of(seed: int = 0) -> Block:
    drawn = np.random.default_rng(seed)

    def like(one):
        shape = (LENGTH, SHARE, *one.shape)
        return drawn.integers(0, 2, shape).astype(one.dtype)

    step = Step(*map(like, LIKE))
    ended = step.terminated | step.truncated
    return Block(step, ended, drawn.normal(size=(LENGTH, SHARE)).astype(np.float32), np.ones((LENGTH, SHARE), np.int32))


MESSAGE = FORM.pack(Sender(1, 2, 3, 4), block_of())


def test_a_block_arrives_as_it_was_sent():
    sender, block = FORM.unpack(MESSAGE)
    assert sender == Sender(1, 2, 3, 4)
    jax.tree.map(np.testing.assert_array_equal, block, block_of())


def test_a_block_of_which_any_bit_is_wrong_is_refused():
    for bit in range(8 * len(MESSAGE)):
        changed = bytearray(MESSAGE)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refused):
            FORM.unpack(bytes(changed))


def test_a_block_that_was_cut_anywhere_is_refused():
    for length in range(len(MESSAGE)):
        with pytest.raises(Refused):
            FORM.unpack(MESSAGE[:length])


@given(st.binary(min_size=1, max_size=200))
def test_what_is_no_block_is_refused(other):
    for message in (other, MESSAGE + other, MESSAGE[: remote_blocks.HEADER.size] + other):
        with pytest.raises(Refused):
            FORM.unpack(message)


def test_a_whole_message_that_says_what_cannot_be_is_refused():
    def with_step(**changes):
        block = block_of()
        return FORM.pack(Sender(), block._replace(step=block.step._replace(**changes)))

    for action in (-1, 3):
        with pytest.raises(Refused, match=r"outside 0 \.\. 2"):
            FORM.unpack(with_step(action=np.full((LENGTH, SHARE), action)))
    with pytest.raises(Refused, match="not a finite number"):
        FORM.unpack(with_step(reward=np.full((LENGTH, SHARE), np.nan)))
    content = MESSAGE[-(len(MESSAGE) - remote_blocks.HEADER.size - remote_blocks.CHECKSUM.size) :]
    for wrong in (content[:-1], content + b"x", b"\2" + content[1:]):
        with pytest.raises(Refused):
            FORM.unpack(remote_blocks.packed(remote_blocks.STEPS, SCHEMA, Sender(), wrong))
    with pytest.raises(Refused, match="of kind 2"):
        FORM.unpack(remote_blocks.packed(remote_blocks.WEIGHTS, SCHEMA, Sender(), content))
    with pytest.raises(OtherSchema):
        FORM._replace(schema=b"87654321").unpack(MESSAGE)


def test_the_schema_is_that_of_the_run_and_not_of_its_length_or_its_server():
    base = recipe("corridor").replace(training="remote")
    experiment, spec = base.to_dict(), {"name": "corridor"}
    schema = schema_of(experiment, spec)
    longer = base.replace(steps=10**6, **{"training.url": "redis://elsewhere:1/2"})
    assert schema_of(longer.to_dict(), spec) == schema
    assert schema_of(base.replace(seed=1).to_dict(), spec) != schema
    assert schema_of(experiment, {"name": "other"}) != schema


def test_gaps_are_counted_for_each_actor_and_what_is_sent_twice_is_dropped():
    arrivals = Arrivals(FORM, actors=2)

    def take(actor, session, first, weights=0, updates=0):
        return arrivals.take(FORM.pack(Sender(actor, session, first, weights), block_of()), updates)

    assert take(0, 7, 30) is not None  # the first block that this learner sees of it: nothing is known to be lost
    assert take(0, 7, 33) is not None
    assert take(0, 7, 33) is None  # sent twice
    assert take(1, 8, 0) is not None
    assert take(1, 8, 9) is not None  # two blocks are missing
    assert take(1, 9, 0) is not None  # the process was started again
    assert arrivals.take(b"nothing", 0) is None
    told = arrivals.report()
    assert (told["dropped"], told["gaps_0"], told["gaps_1"], told["active"]) == (2, 0, 1, 2)
    assert set(arrivals.report().values()) == {0}
    assert take(1, 9, 3, weights=40, updates=100) is not None
    assert take(1, 9, 6, weights=80, updates=100) is not None
    assert arrivals.report()["staleness"] == 40  # the mean of 60 and 20


def test_an_episode_counts_where_all_its_steps_came():
    arrivals = Arrivals(FORM, actors=2)

    def ends(first, *lengths):
        """Which environments of the actor end an episode of these lengths in the last step of a block."""
        ended, length = np.zeros((LENGTH, SHARE), bool), np.ones((LENGTH, SHARE), np.int32)
        ended[-1], length[-1] = True, lengths
        message = FORM.pack(Sender(0, 7, first), block_of()._replace(ended=ended, length=length))
        return arrivals.take(message, 0).ended[-1].tolist()

    assert ends(30, 3, 4) == [True, False]  # the first block that came: three steps of each
    assert ends(33, 6, 7) == [True, False]
    assert ends(39, 3, 6) == [True, False]  # a block was lost
    assert ends(2**64 - LENGTH, 3, 4) == [True, False]


def test_episodes_stand_at_the_step_at_which_their_end_came():
    queue = Memory()
    program = program_of(small(), queue)
    run, start, told = program.begin(), 0, []
    sent(queue, [0], blocks=32)  # one fast actor: both blocks of each cycle are its own
    for stop in program.log_steps:
        run, chunk = program.advance(run, start, stop)
        start, told = stop, [*told, chunk.episodes[0]]
    steps, lengths = (np.concatenate(x) for x in zip(*((one.steps, one.lengths) for one in told), strict=True))
    assert len(steps) > 3 and (np.diff(steps) >= 0).all()
    assert (np.cumsum(lengths) <= steps).all()  # no step belongs to two episodes, as reports check


def test_epsilons_are_those_of_ape_x():
    found = [epsilon_of(actor, 8) for actor in range(8)]
    np.testing.assert_allclose(found, [0.4 ** (1 + actor) for actor in range(8)])
    assert epsilon_of(0, 1) == 0.4
    assert epsilon_of(9, 8) == epsilon_of(1, 8)


class Memory:
    """A queue in memory. It has no room while `full` is above 0, and a learner takes a block at each look at it."""

    def __init__(self):
        self.blocks, self.values, self.full, self.most = [], {}, 0, 0

    def push(self, block):
        if self.full:
            self.full -= 1
            raise Full("the memory is full")
        self.blocks.append(block)
        self.most = max(self.most, len(self.blocks))
        return len(self.blocks)

    def pop(self, count):
        taken, self.blocks = self.blocks[:count], self.blocks[count:]
        return taken

    def waiting(self):
        self.blocks.pop(0)
        return len(self.blocks)

    def put(self, name, value):
        self.values[name] = value

    def get(self, name):
        return self.values.get(name)


def small(training=(), **options):
    ours = {"actors": 2, "environments": 4, "block": 8, "warm_up": 64, "steps": 512, "log_period": 128}
    ours |= {"local_actors": False, "queue_limit": 1000, **dict(training)}
    base = recipe("corridor").replace(training="remote", seeds=1)
    return base.replace(**{f"training.{name}": x for name, x in ours.items()}, **options)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("sharedq.training.remote.PATIENCE", 10.0)


def program_of(experiment, queue):
    built = experiment.build()
    parts = (built.environment, built.algorithm, built.replay, experiment.all_seeds, built.measuring)
    told = (experiment.to_dict(), to_json(built.spec), False)
    program = experiment.training.build(*parts, told=told, queue=lambda url, name: queue)
    program.prepare()
    return program


def sent(queue, numbers, blocks):
    """Lets actors send so many blocks each, in turn."""
    plan = queue.get("plan")
    actors = [Actor(queue, read_plan(plan, number, False, None), number, print) for number in numbers]
    for actor in actors:
        actor.run(blocks)


def test_the_replay_holds_the_steps_of_the_actors_and_no_return_crosses_a_block():
    experiment, queue = small({"steps": 32}, **{"replay.n_step": 3}), Memory()
    program = program_of(experiment, queue)
    run = program.begin()
    sent(queue, [0, 1], blocks=1)
    blocks = [program._arrivals._form.unpack(one)[1] for one in queue.blocks]
    (end,) = program.log_steps
    run, told = program.advance(run, 0, end)
    ring = jax.tree.map(lambda x: np.asarray(x[0][:32]).reshape(8, 4, *x.shape[2:]), run.replay.storage["ring"])
    for place, block in enumerate(blocks):
        stored = jax.tree.map(lambda x: x[:, 2 * place : 2 * place + 2], ring)  # noqa: B023
        np.testing.assert_array_equal(stored.reward, block.step.reward)
        np.testing.assert_array_equal(stored.action, block.step.action)
        np.testing.assert_array_equal(stored.next_obs, block.step.next_obs)
        np.testing.assert_array_equal(stored.truncated[:-1], block.step.truncated[:-1])
        assert (stored.truncated[-1] ^ stored.terminated[-1]).all()
    ended = sum(int(block.ended.sum()) for block in blocks)
    assert len(told.episodes[0].returns) == ended


def test_the_same_blocks_teach_the_same_also_after_a_checkpoint():
    queue = Memory()
    program = program_of(small({"publish_period": 32}), queue)  # after every cycle
    program.begin()
    sent(queue, [0, 1], blocks=16)
    blocks, ends = list(queue.blocks), program.log_steps

    def learned(checkpoint):
        program._arrivals = Arrivals(program._arrivals._form, 2)  # else the blocks would be known
        queue.blocks, run, start, rows = list(blocks), program.begin(), 0, []
        for stop in ends:
            run, told = program.advance(run, start, stop)
            rows.append({name: float(x[0]) for name, x in told.metrics.items()})
            if stop == checkpoint:
                host, version = program.to_host(run), queue.get("version")
                run = program.to_devices(host)
                program.load_worlds(None, stop)
                assert queue.get("version") == version
            start = stop
        return run, rows

    first, second = learned(None), learned(ends[1])
    jax.tree.map(np.testing.assert_array_equal, program.to_host(first[0]), program.to_host(second[0]))
    np.testing.assert_equal(first[1], second[1])
    assert queue.get("finished") == program._schema


def test_an_actor_waits_while_the_queue_is_long_or_has_no_memory_and_ends_with_the_run(monkeypatch):
    monkeypatch.setattr("sharedq.actor.POLL", 0)
    monkeypatch.setattr("sharedq.actor.LONGEST_POLL", 0)
    queue, said = Memory(), []
    program = program_of(small({"queue_limit": 2}), queue)
    program.begin()
    queue.full = 3
    actor = Actor(queue, read_plan(queue.get("plan"), 1, False, None), 1, said.append)
    actor.run(blocks=9)
    assert queue.most == 2
    assert said == ["the memory is full: waiting until there is room"]
    queue.put("finished", program._schema)
    actor.run()  # which returns


def test_an_actor_takes_the_newest_weights_and_keeps_them_while_there_are_none():
    experiment, queue = small(), Memory()
    program = program_of(experiment, queue)
    run = program.begin()
    actor = Actor(queue, read_plan(queue.get("plan"), 0, False, None), 0, print)
    actor.run(blocks=1)
    program._publish(run.agent._replace(params=jax.tree.map(lambda x: x + 1, run.agent.params)), 5)
    actor.run(blocks=1)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[0] + 1), actor._agent.params, run.agent.params)
    queue.values = {"plan": queue.get("plan")}  # the server was restarted
    actor.run(blocks=1)
    assert len(queue.blocks) == 3
    versions = [program._arrivals._form.unpack(one)[0].weights for one in queue.blocks]
    assert versions == [0, program._updates_after(5), program._updates_after(5)]


def test_an_actor_refuses_a_plan_that_is_not_its_own_or_names_code():
    queue = Memory()
    program = program_of(small(), queue)
    program.begin()
    text = queue.get("plan")
    assert read_plan(text, 0, False, program._schema.hex()).experiment.algorithm.epsilon_end == 0.4
    with pytest.raises(SharedqError, match="of another run"):
        read_plan(text, 0, False, "00" * 8)
    said = json.loads(text)
    said["experiment"]["environment"] = {"kind": "os:system"}
    with pytest.raises(SharedqError, match="--trust"):
        read_plan(json.dumps(said).encode(), 0, False, None)
    for wrong in (
        b"",
        b"[]",
        b"{}",
        b'{"experiment": {}, "spec": {}}',
        text[:-1],
        text.replace(b'"remote"', b'"fused"'),
    ):
        with pytest.raises(SharedqError):
            read_plan(wrong, 0, False, None)


def test_an_actor_leaves_a_run_that_has_ended_for_the_next_one(monkeypatch):
    monkeypatch.setattr("sharedq.actor.LONGEST_POLL", 0)
    queue, said = Memory(), []
    old, new = program_of(small(), queue), program_of(small(**{"algorithm.gamma": 0.5}), queue)
    old.begin()
    queue.put("finished", old._schema)

    def say(text):
        said.append(text)
        if "has finished" in text and len(said) == 1:
            old.begin()  # the run goes on
        if text.startswith("actor") and len(said) == 2:
            new.begin()  # in its place, without an end of the old one
        if text.startswith("actor") and len(said) == 4:
            queue.put("finished", new._schema)

    act(queue, 0, say=say)
    assert [text.split(" explores")[0] for text in said] == [
        "waiting for a learner: the last run here has finished",
        "actor 0",
        "another run has begun at this queue",
        "actor 0",
        "the learner has finished",
    ]


def test_a_second_learner_at_a_queue_ends_the_first_with_a_line():
    queue = Memory()
    first, second = (program_of(small(), queue) for _ in range(2))
    run = first.begin()
    second.begin()
    second._publish(run.agent, 1)
    with pytest.raises(SharedqError, match="give each run its own"):
        first._publish(run.agent, 1)
    with pytest.raises(SharedqError, match="give each run its own"):
        first.advance(run, 0, 128)  # its actors are gone, so it waits for a block


def test_an_actor_waits_where_the_weights_are_still_those_of_another_run(monkeypatch):
    monkeypatch.setattr("sharedq.actor.LONGEST_POLL", 0)
    queue = Memory()
    old, new = program_of(small(), queue), program_of(small(**{"algorithm.gamma": 0.5}), queue)
    old.begin()
    weights = queue.get("weights")
    new.begin()
    newest = queue.get("weights")
    queue.put("weights", weights)  # the new ones are not there yet
    actor, looks = Actor(queue, read_plan(queue.get("plan"), 0, False, None), 0, print), []

    def get(name):
        looks.append(name)
        if looks.count("weights") == 3:
            queue.put("weights", newest)
        return queue.values.get(name)

    monkeypatch.setattr(queue, "get", get)
    actor.run(blocks=1)
    assert len(queue.blocks) == 1 and looks.count("weights") == 3


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1", "must be like redis://"),
        ("redis://", "must be like redis://"),
        ("redis://127.0.0.1:x", "must be like redis://"),
        ("redis://:secret@127.0.0.1:6379/0", "REDISCLI_AUTH"),
    ],
)
def test_an_address_that_is_none_or_has_a_password_is_refused(url, told):
    with pytest.raises(SharedqError, match=told) as caught:
        small({"url": url})
    assert "secret" not in str(caught.value)


def test_another_machine_is_warned_of():
    exposed = {"redis://10.0.0.7/0": True, "redis://lab.example:6379/0": True, "rediss://10.0.0.7/0": False}
    exposed |= {"redis://localhost/1": False, "redis://127.0.0.1:6379/0": False, "unix:///tmp/redis.sock": False}
    for url, expected in exposed.items():
        check_url(url)
        assert is_exposed(url) == expected
    training = small({"url": "redis://10.0.0.7/0"}).training
    assert any("does not encrypt" in line for line in training.remarks(None, None))


def test_what_does_not_fit_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def refused(*words):
        assert main(["train", *words, "--training", "remote", "--out", str(tmp_path / "run")]) == 2
        assert not (tmp_path / "run").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "does not answer" in refused("corridor", "--training.url", f"redis://127.0.0.1:{port}/0")
    assert "--seeds 1" in refused("corridor", "--seeds", "2")
    assert "--replay transitions" in refused("corridor", "--replay", "frame_stacks")
    assert "at least training.actors" in refused("corridor", "--training.queue_limit", "3")
    monkeypatch.setitem(sys.modules, "redis", None)
    assert "pip install 'sharedq[redis]'" in refused("corridor")
    assert main(["actor", "--learner", "redis://127.0.0.1:1/0"]) == 2
    assert main(["actor", "--learner", "redis://127.0.0.1:1/0", "--number", "-1"]) == 2


@contextmanager
def served(folder, port, *options):
    """A server of Redis that keeps nothing on the disk. What it yields ends it at once, and starts it again."""
    process = None

    def start():
        nonlocal process
        command = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the server does not start")

    def restart():
        process.kill()
        process.wait()
        time.sleep(1)
        start()

    start()
    try:
        yield restart
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def url():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"redis://127.0.0.1:{port}/0"


def port_of(url):
    return int(url.rpartition(":")[2].partition("/")[0])


def until(happened, process):
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def rows_of(run):
    if not (run / "metrics.csv").exists():
        return []
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


TRAINED = ["train", "cartpole", "--seeds", "1", "--training", "remote"]
TRAINED += ["--training.warm_up", "256", "--log_period", "1000", "--training.checkpoint_period", "2000"]


def command(*words):
    return [sys.executable, "-m", "sharedq", *map(str, words)]


def started(*words):
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def actors_of(url):
    """The numbers of the processes that act for a learner, in the order in which they started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "actor" in words and url in words:
            found.append(int(path.parent.name))
    return sorted(found)


@needs_server
def test_a_run_goes_on_when_redis_is_killed_and_an_actor_and_the_learner(tmp_path, url):
    run = tmp_path / "run"
    with served(tmp_path, port_of(url)) as restart:
        process = started(*TRAINED, "--training.actors", 4, "--training.url", url, "--steps", 40_000, "--out", run)
        until(lambda: len(rows_of(run)) >= 3, process)
        assert len(actors_of(url)) == 4
        restart()
        known = len(rows_of(run))
        until(lambda: len(rows_of(run)) >= known + 3, process)  # it goes on
        os.kill(actors_of(url)[0], signal.SIGKILL)
        known = len(rows_of(run))
        until(lambda: len(rows_of(run)) >= known + 3 and rows_of(run)[-1]["actors/active"] == "3.0", process)
        process.kill()  # the learner
        process.communicate()
        for _ in range(200):
            if not actors_of(url):
                break
            time.sleep(0.05)
        assert actors_of(url) == []  # they end with the learner that started them
        process = started("resume", run)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "continuing from step" in said
    assert json.loads((run / "finished.json").read_text())["steps"] >= 40_000
    assert reports.load(run).runs[0].finished
    rows = rows_of(run)
    assert sum(float(row[f"actors/gaps_{number}"]) for row in rows for number in range(4)) <= 8
    assert actors_of(url) == []


@needs_server
def test_actors_that_were_started_by_hand_go_on_with_a_resumed_run_and_end_with_it(tmp_path, url):
    run = tmp_path / "run"
    with served(tmp_path, port_of(url)):
        actors = [started("actor", "--learner", url, "--number", number) for number in range(2)]
        options = ["--training.local_actors", "false", "--training.actors", "2", "--training.queue_limit", "2"]
        process = started(*TRAINED, *options, "--training.url", url, "--steps", 20_000, "--out", run)
        until(lambda: any((run / "checkpoints").glob("0*")) and len(rows_of(run)) > 2, process)
        process.kill()
        process.communicate()
        assert all(actor.poll() is None for actor in actors)
        process = started("resume", run)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        for actor in actors:
            said, _ = actor.communicate(timeout=60)
            assert actor.returncode == 0, said
            assert "the learner has finished" in said


@needs_server
def test_actors_wait_for_memory_and_a_server_that_refuses_is_told(tmp_path, url):
    with served(tmp_path, port_of(url), "--maxmemory", "4mb", "--maxmemory-policy", "noeviction"):
        queue = RedisQueue(url, "sharedq")
        with suppress(Full):
            for _ in range(100):
                queue.push(bytes(100_000))
        with pytest.raises(Full, match="maxmemory"):
            queue.push(bytes(100_000))
        assert queue.waiting() == len(queue.pop(1000))
        assert queue.push(b"x") == 1
    with served(tmp_path, port_of(url), "--requirepass", "secret"):
        with pytest.raises(SharedqError, match="REDISCLI_AUTH"):
            RedisQueue(url, "sharedq")
        answer = subprocess.run(command("actor", "--learner", url), capture_output=True, text=True, check=False)
        assert answer.returncode == 2
        (line,) = answer.stderr.splitlines()
        assert "REDISCLI_AUTH" in line
