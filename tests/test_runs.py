"""The run directory and its log: never half-made, never overwritten unasked, and continued as if never killed."""

import csv
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sharedq.errors import SharedqError
from sharedq.runs import MetricsLog, RunDirectory, atomic_write
from sharedq.runs.event_file import EventFile, _extend

EXPERIMENT = {"algorithm": {"kind": "dqn", "lr": 3e-4}, "seeds": [0, 1]}


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs" / "one", EXPERIMENT, "sharedq train one")


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
    with refused("already holds a run.*--out.*sharedq resume.*--overwrite"):
        RunDirectory.create(run.path, {"other": 1}, "again")
    assert (run.path / "metrics.csv").read_text() == "precious"
    RunDirectory.create(run.path, {"other": 1}, "again", overwrite=True)
    assert run.experiment() == {"other": 1}
    assert not (run.path / "metrics.csv").exists()
    assert [path.name for path in run.path.parent.iterdir()] == ["one"]


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
        ("{", "cannot read"),
        ("[]", "no experiment"),
        ('{"schema": 2, "experiment": {}}', "format 2"),
    ]:
        (run.path / "experiment.json").write_text(text)
        with refused(reason):
            RunDirectory.open(run.path)


def test_the_digest_follows_the_content_only(run, tmp_path):
    turned = RunDirectory.create(tmp_path / "turned", dict(reversed(EXPERIMENT.items())), "other words")
    other = RunDirectory.create(tmp_path / "other", {**EXPERIMENT, "seeds": [0, 2]}, "sharedq train one")
    assert turned.digest() == run.digest() != other.digest()


def test_finished_is_said_once_it_is(run):
    assert run.finished() is None
    run.finish({"steps": 10})
    assert run.finished() == {"steps": 10}


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


# the event file


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads in a folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_checksum_is_crc32c():
    assert _extend(0xFFFFFFFF, b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # the check value of its specification
    assert _extend(0xFFFFFFFF, bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA  # RFC 3720, B.4


def test_tensorboard_reads_the_event_file(tmp_path):
    written = [("loss", 0, 0.5), ("loss", 127, -1e30), ("loss", 128, float("inf")), ("é/" + "x" * 300, 2**40, 3.0)]
    path = tmp_path / "events.out.tfevents.sharedq"
    for tag, step, value in written:  # reopened each time: it appends
        file = EventFile(path)
        file.scalar(tag, value, step, wall_time=1234.5)
        file.flush()
        assert file.offset() == path.stat().st_size
        file.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.file_version == 2.0
    read = [(tag, one.step, one.value) for tag in ("loss", written[-1][0]) for one in events.Scalars(tag)]
    assert read == [(tag, step, np.float32(value)) for tag, step, value in written]
    assert {one.wall_time for one in events.Scalars("loss")} == {1234.5}


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
