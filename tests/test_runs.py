"""The run directory and its log: never half-made, never overwritten unasked, and continued as if never killed."""

import csv
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sharedq import reports
from sharedq.command_line import main
from sharedq.errors import SharedqError
from sharedq.runs import MetricsLog, RunDirectory, atomic_write, begun_with, checkpoints, run_directory, run_files
from sharedq.runs.durable import HashedFile
from sharedq.runs.event_file import EventFile, _extend
from sharedq.runs.lock import locked
from sharedq.runs.verify import verify
from sharedq.training import loop
from sharedq.training.program import ChunkResult, FinishedEpisodes

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"

EXPERIMENT = {"algorithm": {"kind": "dqn", "lr": 3e-4}, "seeds": [0, 1]}


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs" / "one", EXPERIMENT, "sharedq train one")


def test_the_commit_is_that_of_the_checkout_alone(tmp_path):
    def git(*words):
        told = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", tmp_path, *told, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    inner = tmp_path / "lib" / "site-packages"  # an environment inside somebody's own checkout
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("")
    git("add", "pyproject.toml")
    git("commit", "-m", "first")
    known = git("rev-parse", "HEAD")
    assert begun_with.commit(tmp_path) == known
    assert begun_with.commit(inner) != known
    (tmp_path / "pyproject.toml").write_text("changed")
    begun_with.commit.cache_clear()
    assert begun_with.commit(tmp_path) == f"{known}-dirty"
    begun_with.commit.cache_clear()


def test_the_processor_is_named(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU: 2 GHz\nmodel name\t: another\n")
    assert begun_with.cpu(tmp_path / "cpuinfo") == "A CPU: 2 GHz"
    begun_with.cpu(tmp_path / "nowhere")  # which raises nothing


def refused(match: str):
    """Expects a SharedqError of one line."""
    return pytest.raises(SharedqError, match=rf"\A.*{match}.*\Z")


# the run directory


def test_a_new_run_tells_what_was_asked_and_with_what(run):
    names = sorted(path.name for path in run.path.iterdir())
    assert names == ["checkpoints", "command.txt", "experiment.json", "versions.json"]
    assert [path.name for path in run.path.parent.iterdir()] == ["one"]
    assert json.loads((run.path / "experiment.json").read_text()) == {"schema": 1, "experiment": EXPERIMENT}
    assert (run.path / "command.txt").read_text() == "sharedq train one\n"
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["numpy"] == np.__version__
    assert versions["gymnasium"] == metadata.version("gymnasium")  # what plays decides returns too
    assert versions.keys() >= {"python", "platform", "cpu_count", "sharedq", "jax", "jaxlib", "flax", "optax"}
    assert RunDirectory.open(run.path) == run
    assert run.experiment() == EXPERIMENT


def test_a_run_is_replaced_only_when_asked(run):
    (run.path / "metrics.csv").write_text("precious")
    with refused("already holds a run.*--out.*sharedq resume [^ ]+', or replace it with --overwrite"):
        RunDirectory.create(run.path, {"other": 1}, "again")
    assert (run.path / "metrics.csv").read_text() == "precious"
    described = json.loads((run.path / "experiment.json").read_text())
    for environment, option in (
        ({"kind": "own.part:Kind"}, " --trust"),
        ({"id": "a:b-v0"}, " --trust"),
        ({"id": "a"}, ""),
    ):
        described["experiment"] = {"environment": environment}
        (run.path / "experiment.json").write_text(json.dumps(described))
        with refused(f"already holds a run.*'sharedq resume [^ ]+{option}', or replace it"):
            RunDirectory.create(run.path, {"other": 1}, "again")
    RunDirectory.create(run.path, {"other": 1}, "again", overwrite=True)
    assert run.experiment() == {"other": 1}
    assert not (run.path / "metrics.csv").exists()
    assert [path.name for path in run.path.parent.iterdir()] == ["one"]


def tree(folder: Path) -> list[tuple[str, bytes]]:
    """All that is in a folder, to see that nothing was changed."""
    found = sorted(folder.rglob("*"))
    return [(str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b"") for path in found]


@pytest.mark.parametrize(
    "stranger", ["thesis.tex", ".git/config", "checkpoints/7/data", "figures/mine.png", "tensorboard/seed_0/notes.txt"]
)
def test_a_run_with_somebody_elses_file_in_it_is_not_replaced(run, stranger):
    (run.path / stranger).parent.mkdir(parents=True, exist_ok=True)
    (run.path / stranger).write_text("precious")
    before = tree(run.path.parent)
    with refused(f"{run.path}/{stranger.split('/')[0]}.* is no file of a run, so .* is not replaced"):
        RunDirectory.create(run.path, {}, "", overwrite=True)
    assert tree(run.path.parent) == before


def test_a_file_called_experiment_json_makes_no_run(tmp_path):
    for number, content in enumerate(("", "{}", '{"schema": 1, "experiment": 3}', '{"schema": 9, "experiment": {}}')):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "experiment.json").write_text(content)
        with pytest.raises(SharedqError):
            RunDirectory.create(folder, EXPERIMENT, "", overwrite=True)
        assert (folder / "experiment.json").read_text() == content


def test_neither_a_link_nor_the_folder_one_stands_in_is_replaced(run, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(run.path)
    with refused("link is a symbolic link, which is not replaced"):
        RunDirectory.create(tmp_path / "link", {}, "", overwrite=True)
    monkeypatch.chdir(run.path / "checkpoints")
    for out in (".", "..", "../..", run.path, "/"):
        with refused("is the folder that this command runs in, or one above: choose another --out"):
            RunDirectory.create(out, {}, "", overwrite=True)
    assert run.experiment() == EXPERIMENT


def test_a_link_among_a_runs_files_is_not_replaced_and_its_goal_is_kept(run, tmp_path):
    (tmp_path / "goal").mkdir()
    (tmp_path / "goal" / "000000000001").write_text("precious")
    (run.path / "checkpoints").rmdir()
    (run.path / "checkpoints").symlink_to(tmp_path / "goal")
    with refused("checkpoints is no file of a run"):
        RunDirectory.create(run.path, {}, "", overwrite=True)
    assert (tmp_path / "goal" / "000000000001").read_text() == "precious"


def test_all_that_a_run_and_its_report_leave_are_files_of_a_run(tmp_path):
    folder = shutil.copytree(FIXTURES / "corridor-finished", tmp_path / "run")
    reports.write(folder)
    (folder / "episode.gif").touch()
    assert len(run_files.paths(folder)) > 15
    assert run_files.stranger(folder) is None
    run_files.remove(folder)
    assert not folder.exists()


def test_what_a_killed_process_left_beside_a_run_is_swept_at_the_next_start(run, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    parent = run.path.parent
    shutil.copytree(run.path, parent / f".one.{gone.pid}.new")
    shutil.copytree(run.path, parent / f".one.{gone.pid}.old")
    shutil.copytree(run.path, parent / f".one.{os.getppid()}.new")  # of a process that lives
    (parent / f".two.{gone.pid}.new").mkdir()  # of another run
    (run.path / ".finished.json.new").write_text("half")
    with run.writing():
        names = {path.name for path in parent.iterdir()}
        assert names == {"one", f".one.{os.getppid()}.new", f".two.{gone.pid}.new"}
        assert not (run.path / ".finished.json.new").exists()


def test_a_run_that_a_killed_overwrite_had_moved_aside_comes_back(run):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    run.path.rename(run.path.with_name(f".one.{gone.pid}.old"))
    with refused("already holds a run"):
        RunDirectory.create(run.path, {}, "again")
    assert run.experiment() == EXPERIMENT
    run.path.rename(run.path.with_name(f".one.{gone.pid}.old"))
    RunDirectory.create(run.path, {}, "again", overwrite=True)
    assert run.experiment() == {} and [path.name for path in run.path.parent.iterdir()] == ["one"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_run_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("thesis", "file"):
        with refused("not a run, so it is left alone: choose another --out"):
            RunDirectory.create(tmp_path / name, EXPERIMENT, "", overwrite)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == (tmp_path / "file").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]
    with refused("cannot make a run in .*: choose another --out"):
        RunDirectory.create(tmp_path / "file" / "run", EXPERIMENT, "", overwrite)


def test_an_empty_folder_becomes_the_run(tmp_path):
    assert RunDirectory.create(tmp_path, EXPERIMENT, "").experiment() == EXPERIMENT


def test_a_run_that_cannot_be_described_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        RunDirectory.create(tmp_path / "run", {"function": print}, "")
    assert list(tmp_path.iterdir()) == []


def test_open_says_what_is_wrong(run, tmp_path):
    with refused("no folder .*nowhere"):
        RunDirectory.open(tmp_path / "nowhere")
    with refused("holds no run"):
        RunDirectory.open(tmp_path)
    for text, reason in [
        ("{", "experiment.json was edited or damaged.*Expecting property name"),
        ("[]", "experiment.json was edited or damaged.*must be an object"),
        ('{"schema": 1, "experiment": [1]}', r"experiment must be an object, not \[1\]"),
        ('{"schema": "1", "experiment": {}}', "schema must be a whole number"),
        ('{"schema": 2, "experiment": {}}', "format 2"),
    ]:
        (run.path / "experiment.json").write_text(text)
        with refused(reason):
            RunDirectory.open(run.path)


def test_the_digest_follows_the_content_only(run, tmp_path):
    turned = RunDirectory.create(tmp_path / "turned", dict(reversed(EXPERIMENT.items())), "other words")
    other = RunDirectory.create(tmp_path / "other", {**EXPERIMENT, "seeds": [0, 2]}, "sharedq train one")
    assert turned.digest() == run.digest() != other.digest()


SUMMARY = {"steps": 10, "steps_per_second": 5.0, "seconds": 2.0, "compile_seconds": 1.0}


def test_finished_is_said_once_it_is(run):
    assert run.finished() is None
    run.finish(SUMMARY, {"metrics.csv": "ab"})
    assert run.finished().items() >= {**SUMMARY, "logs": {"metrics.csv": "ab"}}.items()


def test_how_a_run_ended_is_not_believed_once_it_was_edited(run):
    run.finish(SUMMARY, {})
    run.diverge(10, 0, "the loss")
    for name, read in (("finished.json", run.finished), ("diverged.json", run.diverged)):
        text = (run.path / name).read_text()
        for old, new, reason in (("10", "true", "must be a whole number, not true"), ("{", "[", "Expecting")):
            (run.path / name).write_text(text.replace(old, new, 1))
            with refused(
                f"{name} was edited or damaged.*{reason}.*: remove it, and 'sharedq resume .*' writes it again"
            ):
                read()
        (run.path / name).write_text(text.replace("10", "20", 1))
    with refused("finished.json was edited or damaged .its checksum differs"):
        run.finished()


def test_atomic_write_keeps_the_old_content_until_the_new_is_there(tmp_path, monkeypatch):
    atomic_write(tmp_path / "file", b"old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    atomic_write(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_one_process_writes_a_run_at_a_time(run):
    with run.writing():
        with refused("another process is writing"), run.writing():
            pass
        with refused("another process is writing"):
            RunDirectory.create(run.path, {}, "", overwrite=True)
    assert run.experiment() == EXPERIMENT
    with run.writing():
        pass


LOCKING = """
import os, pathlib, sys, time
from sharedq.runs.lock import locked
with locked(pathlib.Path(sys.argv[1]), "taken"):
    if os.fork() == 0:
        os.close(1)
        time.sleep(60)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_process(run):
    code = [sys.executable, "-c", textwrap.dedent(LOCKING), str(run.path / "lock")]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert int(process.stdout.readline()) == process.pid
        with refused("another process is writing"), run.writing():
            pass
        process.kill()
        process.wait()
        try:
            with run.writing():
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the worker, which outlived it


def test_a_lock_that_its_holder_removed_meanwhile_is_not_held(tmp_path, monkeypatch):
    file, lockf = tmp_path / "lock", fcntl.lockf

    def removed_before(opened, how):
        file.unlink()
        lockf(opened, how)

    monkeypatch.setattr(fcntl, "lockf", removed_before)
    with refused("taken"), locked(file, "taken"):
        pass
    monkeypatch.setattr(fcntl, "lockf", lockf)
    with locked(file, "taken"):
        assert file.exists()


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints", "lock", "tensorboard", "finished.json"])
@pytest.mark.parametrize("exists", [True, False])
def test_no_link_in_a_run_is_followed(run, tmp_path, name, exists):
    goal = tmp_path / "goal"
    if exists:
        goal.write_text("precious")
    shutil.rmtree(run.path / name, ignore_errors=True)
    (run.path / name).symlink_to(goal)
    before = tree(run.path)
    for attempt in (lambda: RunDirectory.open(run.path), lambda: run.writing().__enter__()):
        with refused(f"{name} is a symbolic link, and inside a run none is followed"):
            attempt()
    if name in ("metrics.csv", "tensorboard"):
        with refused("is a symbolic link"):
            MetricsLog(run, ["loss"], offsets={})
    assert tree(run.path) == before
    assert goal.exists() == exists and (not exists or goal.read_text() == "precious")


def test_a_link_with_the_name_of_a_half_written_file_is_replaced_and_not_written_through(run, tmp_path):
    (tmp_path / "goal").write_text("precious")
    (run.path / ".finished.json.new").symlink_to(tmp_path / "goal")
    run.finish(SUMMARY, {})
    assert run.finished()["steps"] == 10
    assert (tmp_path / "goal").read_text() == "precious"


def test_what_is_no_plain_file_is_refused_instead_of_waited_for(run):
    os.mkfifo(run.path / "metrics.csv")
    with refused("metrics.csv is no plain file"):
        RunDirectory.open(run.path)


def test_files_of_a_run_are_opened_for_writing_in_one_place():
    for file in Path(run_directory.__file__).parent.glob("*.py"):
        if file.name != "durable.py":
            text = file.read_text()
            assert not [
                word for word in ('open("w', 'open("a', "write_text", "write_bytes", "truncate(") if word in text
            ]


def test_another_series_of_jax_is_told(run, monkeypatch):
    versions = json.loads((run.path / "versions.json").read_text())
    for version, told in ((versions["jax"], False), ("0.1.2", True), (None, False)):
        (run.path / "versions.json").write_text(json.dumps(versions | {"jax": version}))
        assert bool(list(run.remarks())) == told
    (run.path / "versions.json").write_text('{"jax": 3}')
    with refused("versions.json was edited or damaged .*jax must be a text or null, not 3"):
        list(run.remarks())


# the event file


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads in a folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def histograms(folder: Path) -> dict[str, list]:
    """The histograms that TensorBoard itself reads in a folder."""
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()
    return {tag: events.Histograms(tag) for tag in events.Tags()["histograms"]}


def test_the_checksum_is_crc32c():
    assert _extend(0xFFFFFFFF, b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # the check value of its specification
    assert _extend(0xFFFFFFFF, bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA  # RFC 3720, B.4


def test_tensorboard_reads_the_event_file(tmp_path):
    written = [("loss", 0, 0.5), ("loss", 127, -1e30), ("loss", 128, float("inf")), ("é/" + "x" * 300, 2**40, 3.0)]
    path = tmp_path / "events.out.tfevents.sharedq"
    for tag, step, value in written:  # reopened each time: it appends
        file = HashedFile(path)
        EventFile(file).scalar(tag, value, step, wall_time=1234.5)
        file.flush()
        assert len(file) == path.stat().st_size
        file.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.file_version == 2.0
    read = [(tag, one.step, one.value) for tag in ("loss", written[-1][0]) for one in events.Scalars(tag)]
    assert read == [(tag, step, np.float32(value)) for tag, step, value in written]
    assert {one.wall_time for one in events.Scalars("loss")} == {1234.5}


@settings(max_examples=30)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40, unique=True).map(sorted),
    st.data(),
    st.integers(0, 2**40),
)
def test_tensorboard_reads_a_histogram(tmp_path_factory, edges, data, step):
    counts = data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=len(edges) - 1, max_size=len(edges) - 1))
    folder = tmp_path_factory.mktemp("events")
    with closing(HashedFile(folder / "events.out.tfevents.sharedq")) as file:
        events = EventFile(file)
        events.histogram("é/td_error", np.array(edges), np.array(counts, np.int32), step, wall_time=1234.5)
        events.scalar("loss", 2.0, step, wall_time=1234.5)
        file.flush()
    ((tag, (event,)),) = histograms(folder).items()
    assert (tag, event.step, event.wall_time) == ("é/td_error", step, 1234.5)
    found = event.histogram_value
    assert (found.min, found.max, found.num) == (edges[0], edges[-1], sum(counts))
    assert (found.bucket_limit, found.bucket) == (edges[1:], counts)
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    moments = [sum(n * x**power for n, x in zip(counts, middles, strict=True)) for power in (1, 2)]
    size = [sum(n * abs(x) ** power for n, x in zip(counts, middles, strict=True)) for power in (1, 2)]
    np.testing.assert_allclose((found.sum, found.sum_squares), moments, atol=1e-12 * max(size), rtol=1e-12)
    assert scalars(folder) == {"loss": [(step, 2.0)]}  # the next record is found


# the log


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def log_chunk(log: MetricsLog, step: int) -> None:
    for seed in (0, 1):
        log.metrics(step, seed, {"loss": np.float32(step / 3), "seconds": 0.1})
        log.episodes([step - 1, step], seed, np.array([step / 7, -0.0], np.float32), np.array([step, 3]))


def test_the_log_is_two_tables_and_a_tensorboard_folder_per_seed(run):
    with MetricsLog(run, ["loss", "q"], ["seconds"]) as log:
        log.metrics(10, 0, {"loss": np.float32(0.1), "q": np.float32("nan"), "seconds": 2})
        log.metrics(20, 0, {"q": 1e-5})
        log.metrics(20, 1, {"loss": 1 / 3})
        log.episodes([18, 20], 1, np.array([1.5, 0.1], np.float32), np.array([4, 7]))
        log.episodes(20, 1, [], [])
    assert rows(run.path / "metrics.csv") == [
        ["step", "seed", "loss", "q", "seconds"],
        ["10", "0", "0.1", "nan", "2.0"],
        ["20", "0", "", "1e-05", ""],
        ["20", "1", "0.33333334", "", ""],
    ]
    assert rows(run.path / "episodes.csv") == [
        ["step", "seed", "return", "length"],
        ["18", "1", "1.5", "4"],
        ["20", "1", "0.1", "7"],
    ]
    first, second = scalars(run.path / "tensorboard/seed_0"), scalars(run.path / "tensorboard/seed_1")
    assert first["train/loss"] == [(10, np.float32(0.1))]
    assert [step for step, _ in first["train/q"]] == [10, 20]
    assert first["time/seconds"] == [(10, 2.0)]
    assert second["episode/return"] == [(20, np.float32(0.8))]
    assert second["episode/length"] == [(20, 5.5)]


BINS = {"sampler/td_error": (1e-4, 1.0, 1e3), "sampler/reliability": (0.0, 0.05, 0.5, 1.0)}


def log_histograms(log: MetricsLog, step: int) -> None:
    for seed in (0, 1):
        counts = np.arange(5, dtype=np.int32) + 10 * seed + step
        log.histograms(step, seed, {"sampler/reliability": counts[2:], "sampler/td_error": counts[:2]})


def test_histograms_are_a_table_with_a_column_for_each_bin(run):
    with MetricsLog(run, ["loss"], histograms=BINS) as log:
        log_histograms(log, 100)
        log_histograms(log, 200)
    assert rows(run.path / "histograms.csv") == [
        [
            "step",
            "seed",
            "sampler/td_error:0.0001:1",
            "sampler/td_error:1:1000",
            "sampler/reliability:0:0.05",
            "sampler/reliability:0.05:0.5",
            "sampler/reliability:0.5:1",
        ],
        ["100", "0", "100", "101", "102", "103", "104"],
        ["100", "1", "110", "111", "112", "113", "114"],
        ["200", "0", "200", "201", "202", "203", "204"],
        ["200", "1", "210", "211", "212", "213", "214"],
    ]
    found = histograms(run.path / "tensorboard/seed_1")
    assert found.keys() == {f"train/{name}" for name in BINS}
    assert [one.step for one in found["train/sampler/td_error"]] == [100, 200]
    assert [one.histogram_value.bucket for one in found["train/sampler/td_error"]] == [[110, 111], [210, 211]]
    assert found["train/sampler/reliability"][0].histogram_value.bucket_limit == [0.05, 0.5, 1.0]


def test_who_reads_a_row_of_metrics_finds_the_episodes_before_it(run, monkeypatch):
    told = ChunkResult(
        {"loss": np.zeros(2)}, [FinishedEpisodes(*np.array([[9], [1.0], [9]]))] * 2, [-1] * 2, [True] * 2
    )
    seen = []
    with MetricsLog(run, ["loss"], ["steps_per_second", "seconds"]) as log:
        write = log.metrics
        monkeypatch.setattr(log, "metrics", lambda *row: (seen.append(rows(run.path / "episodes.csv")), write(*row)))
        loop._write(log, [0, 1], 10, told, 1.0, 1.0)
    assert [len(found) for found in seen] == [3, 3]  # with the names of the columns
    assert len(rows(run.path / "metrics.csv")) == 3


def test_a_log_without_histograms_has_no_table_of_them(run):
    with MetricsLog(run, ["loss"]) as log:
        assert "histograms.csv" not in log.offsets()
    assert not (run.path / "histograms.csv").exists()


def test_a_resumed_log_of_histograms_is_the_unbroken_one(tmp_path):
    whole, broken = (RunDirectory.create(tmp_path / name, EXPERIMENT, "") for name in ("whole", "broken"))
    with MetricsLog(whole, ["loss"], histograms=BINS) as log:
        for step in (10, 20):
            log_histograms(log, step)
    with MetricsLog(broken, ["loss"], histograms=BINS) as log:
        log_histograms(log, 10)
        saved = log.offsets(), log.checksums()
        log_histograms(log, 15)
    with refused("histograms.csv has other columns"):
        MetricsLog(broken, ["loss"], (), *saved, histograms={**BINS, "sampler/td_error": (1e-4, 2.0, 1e3)})
    with MetricsLog(broken, ["loss"], (), *saved, histograms=BINS) as log:
        log_histograms(log, 20)
    assert (broken.path / "histograms.csv").read_bytes() == (whole.path / "histograms.csv").read_bytes()
    for seed in ("seed_0", "seed_1"):
        found = [histograms(run.path / "tensorboard" / seed)["train/sampler/td_error"] for run in (broken, whole)]
        one, other = ([(event.step, event.histogram_value.bucket) for event in events] for events in found)
        assert one == other and len(one) == 2


@given(st.floats(width=32, allow_nan=False))
def test_numbers_in_the_tables_read_back_exactly(value):
    text = np.asarray([value], np.float32).astype(str)[0]
    assert text == str(np.float32(value))
    assert np.float32(float(text)).tobytes() == np.float32(value).tobytes()


def test_an_unknown_metric_is_the_callers_mistake(run):
    with MetricsLog(run, ["loss"]) as log, pytest.raises(ValueError, match="lose"):
        log.metrics(0, 0, {"lose": 1.0})


def test_a_resumed_log_is_the_unbroken_one(tmp_path):
    whole, broken = (RunDirectory.create(tmp_path / name, EXPERIMENT, "") for name in ("whole", "broken"))
    with MetricsLog(whole, ["loss"], ["seconds"]) as log:
        for step in (10, 20, 30):
            log_chunk(log, step)
    with MetricsLog(broken, ["loss"], ["seconds"]) as log:
        log_chunk(log, 10)
        offsets = log.offsets()
        log_chunk(log, 15)
        log.metrics(15, 2, {"loss": 1.0})
    assert offsets.keys() == {"metrics.csv", "episodes.csv"} | {
        f"tensorboard/seed_{seed}/events.out.tfevents.sharedq" for seed in (0, 1)
    }
    with MetricsLog(broken, ["loss"], ["seconds"], offsets=json.loads(json.dumps(offsets))) as log:
        assert log.offsets() == offsets
        for step in (20, 30):
            log_chunk(log, step)
    for table in ("metrics.csv", "episodes.csv"):
        assert (broken.path / table).read_bytes() == (whole.path / table).read_bytes()
    for seed in ("seed_0", "seed_1"):
        assert scalars(broken.path / "tensorboard" / seed) == scalars(whole.path / "tensorboard" / seed)
    assert not list(broken.path.glob("tensorboard/seed_2/*"))


def test_a_run_killed_before_its_first_checkpoint_begins_again(run):
    with MetricsLog(run, ["loss"]) as log:
        log.metrics(1, 0, {"loss": 1.0})
    with refused("has a log already"):
        MetricsLog(run, ["loss"])
    assert len(rows(run.path / "metrics.csv")) == 2
    with MetricsLog(run, ["other"], offsets={}):
        pass
    assert rows(run.path / "metrics.csv") == [["step", "seed", "other"]]


def test_a_log_that_lost_lines_is_not_continued(run):
    with MetricsLog(run, ["loss"]) as log:
        offsets = log.offsets()
    with refused("metrics.csv has other columns"):
        MetricsLog(run, ["loss", "new"], offsets=offsets)
    too_far = {**offsets, "metrics.csv": offsets["metrics.csv"] + 1}
    with refused("metrics.csv is shorter than the checkpoint saw it"):
        MetricsLog(run, ["loss"], offsets=too_far)
    with refused("seed_0.* is shorter"):
        MetricsLog(run, ["loss"], offsets={"tensorboard/seed_0/events.out.tfevents.sharedq": 0})
    assert offsets["metrics.csv"] == (run.path / "metrics.csv").stat().st_size


def test_a_log_that_was_edited_is_not_continued_and_left_as_it_is(run):
    with MetricsLog(run, ["loss"], ["seconds"]) as log:
        log_chunk(log, 10)
        told = log.offsets(), log.checksums()
        log_chunk(log, 20)
    for name in told[0]:
        whole = (run.path / name).read_bytes()
        for place in (0, told[0][name] - 1):
            (run.path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            before = tree(run.path)
            with refused(f"{name} is not as the checkpoint saw it"):
                MetricsLog(run, ["loss"], ["seconds"], *told)
            assert tree(run.path) == before
        (run.path / name).write_bytes(whole)
    with MetricsLog(run, ["loss"], ["seconds"], *told) as log:
        assert (log.offsets(), log.checksums()) == told


def test_a_log_is_cut_in_the_run_and_not_in_a_copy_by_links(run, tmp_path):
    with MetricsLog(run, ["loss"], ["seconds"]) as log:
        offsets = log.offsets()
        log_chunk(log, 10)
    os.link(run.path / "metrics.csv", tmp_path / "copy.csv")
    before = (tmp_path / "copy.csv").read_bytes()
    with MetricsLog(run, ["loss"], ["seconds"], offsets=offsets) as log:
        log_chunk(log, 20)
    assert (tmp_path / "copy.csv").read_bytes() == before


def test_an_error_of_the_system_names_the_file(run, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with MetricsLog(run, ["loss"], ["seconds"]) as log, monkeypatch.context() as patch:
        log_chunk(log, 10)
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics.csv'"):
            log.offsets()
        with pytest.raises(OSError, match=r"No space left on device: '.*finished.json.new'"):
            run.finish(SUMMARY, {})


# whether it is whole


@pytest.fixture
def finished(run) -> Path:
    """A finished run with every file that one has."""
    run.write_json("cost.json", {"parameters": 1})
    with MetricsLog(run, ["loss"], ["seconds"]) as log:
        log_chunk(log, 10)
        meta = {"offsets": log.offsets(), "logs": log.checksums(), "files": run.description()}
        tensors = {"agent": {"w": np.ones(20, np.float32)}, "rest": {"x": np.ones(20, np.float32)}}
        checkpoints.save(run.checkpoints, 10, tensors, run.digest(), meta, in_pieces=["rest"])
        run.finish(SUMMARY, log.checksums())
    return run.path


def test_a_whole_run_is_said_to_be_whole_and_left_as_it_is(finished, capsys):
    (finished / "notes.txt").write_text("mine")
    before = tree(finished)
    assert main(["verify", str(finished)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 13 and all(": whole" in line for line in said)
    assert "metrics.csv: whole" in said and "notes.txt: whole (it is no file of a run)" in said
    assert "checkpoints/000000000010/rest: whole (1 piece)" in said
    assert tree(finished) == before


def test_every_damage_to_every_file_is_told(finished, capsys):
    files = [finished / name for name, is_folder in run_files.paths(finished) if not is_folder and name != "lock"]
    assert len(files) == 12
    for file in files:
        whole = file.read_bytes()
        middle = len(whole) // 2
        for damaged in (
            whole[:middle],
            whole + b"x",
            whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
        ):
            file.write_bytes(damaged)
            found = [one for one in verify(finished) if not one.whole]
            assert found, file
            assert main(["verify", str(finished)]) == 2
            assert "not whole: restore them" in capsys.readouterr().err
        file.unlink()
        if file.name != "finished.json":  # then it is a run that has not finished
            assert [one for one in verify(finished) if not one.whole], file
        file.write_bytes(whole)
    assert all(one.whole for one in verify(finished))


def test_of_a_run_that_goes_on_the_log_is_whole_up_to_the_checkpoint(finished):
    (finished / "finished.json").unlink()
    with (finished / "metrics.csv").open("a") as file:
        file.write("11,0,0.5\n")
    remarks = {str(one.path): one.remark for one in verify(finished) if one.whole}
    assert remarks["cost.json"] == remarks["versions.json"] == remarks["command.txt"] == ""
    assert "nothing vouches for the rest" in remarks["metrics.csv"]
    assert remarks["episodes.csv"] == remarks["experiment.json"] == ""
    os.truncate(finished / "metrics.csv", 30)
    assert [str(one.path) for one in verify(finished) if not one.whole] == ["metrics.csv"]


def test_of_a_comparison_every_run_is_looked_at_and_none_outside(tmp_path):
    folder = shutil.copytree(FIXTURES / "comparison", tmp_path / "comparison")
    plan = json.loads((folder / "compare.json").read_text())
    assert all(one.whole for one in verify(folder))
    run = plan["runs"][0]["folder"]
    (folder / run / "metrics.csv").write_bytes(b"")
    agent = next((folder / run).glob("checkpoints/*/agent.safetensors"))
    agent.write_bytes(agent.read_bytes()[::-1])
    assert [str(one.path) for one in verify(folder) if not one.whole] == [
        f"{run}/metrics.csv",
        str(agent.relative_to(folder)),
    ]
    plan["runs"][0]["folder"] = "../elsewhere"
    (folder / "compare.json").write_text(json.dumps(plan))
    assert "lies outside the comparison" in next(one.remark for one in verify(folder) if not one.whole)


def test_runs_of_version_0_1_0_are_whole(tmp_path):
    for folder in FIXTURES.iterdir():
        assert all(one.whole for one in verify(folder)), folder


def test_commands_that_are_suggested_are_quoted_for_the_shell(tmp_path):
    path = tmp_path / "k ü; x"
    run = RunDirectory.create(path, EXPERIMENT, "sharedq train one")
    with pytest.raises(SharedqError) as there:
        RunDirectory.create(path, EXPERIMENT, "sharedq train one")
    MetricsLog(run, ["loss"]).__exit__(None, None, None)
    with pytest.raises(SharedqError) as begun:
        MetricsLog(run, ["loss"])
    assert all(f"sharedq resume '{path}'" in str(refusal.value) for refusal in (there, begun))
