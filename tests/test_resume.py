"""A run that is killed, stopped or damaged: its end equals that of a run left alone, or one line says why not."""

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from sharedq.agent import load_all
from sharedq.command_line import main
from sharedq.errors import SharedqError, Stopped
from sharedq.recipes import recipe
from sharedq.runs import RunDirectory, checkpoints
from sharedq.runs.durable import checksum
from sharedq.runs.run_directory import Start
from sharedq.starting import agents_of
from sharedq.trainer import resume, train
from sharedq.training.progress import Silent

OPTIONS = {
    "steps": 120_000,
    "seeds": 2,
    "training.log_period": 2_000,
    "training.checkpoint_period": 4_000,
    # Noisy rewards and a policy that follows the values: whatever is lost on the way changes all that comes after.
    "environment.name": "maximisation_bias",
    "algorithm.epsilon_end": 0.1,
    "target": "shared_heads",
    "target.heads": 2,
    "target.period": 30,
}
FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
TIMINGS = ("steps_per_second", "seconds")


def words(out: Path, **options) -> list[str]:
    """The command that trains the run of this file."""
    options = OPTIONS | options
    return ["train", "corridor", "--out", str(out), *(f"--{name}={value}" for name, value in options.items())]


def start(*arguments) -> subprocess.Popen:
    code = "import sys; from sharedq.command_line import main; sys.exit(main())"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes)


def when(process: subprocess.Popen, reached: Callable[[], bool], number: int) -> str:
    """Sends the process a signal as soon as `reached`; returns what it said on stderr."""
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    process.send_signal(number)
    return process.communicate()[1]


def saved_step(run: Path) -> int:
    return max(checkpoints.all_steps(run / "checkpoints"), default=0)


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def outcome(run: Path) -> dict:
    """All that a run ends with, but not how long it took."""
    tables = {}
    for name in ("metrics.csv", "episodes.csv"):
        with (run / name).open() as file:
            tables[name] = [{k: x for k, x in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]
    steps = checkpoints.all_steps(run / "checkpoints")
    agent = (checkpoints.latest(run / "checkpoints") / "agent.safetensors").read_bytes()
    return {"agent": agent, "checkpoints": steps, "steps": RunDirectory.open(run).finished()["steps"], **tables}


def same(run: Path, other: dict) -> bool:
    """Compared part by part, so that a failure names the part and does not print megabytes."""
    mine = outcome(run)
    return [name for name in other if mine[name] != other[name]] == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict:
    """The end of a run left alone."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main(words(out)) == 0
    return outcome(out)


def refused(capsys, *arguments) -> str:
    """The one line that refuses a command."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    answer = capsys.readouterr()
    assert answer.err.count("\n") == 1
    assert "finished" not in answer.out
    return answer.err


class Asks(Silent):
    """Sends this process a signal when the run has reached a step, as Ctrl-C would."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def update(self, step, rate, mean_return, learning):
        if step == self.step:
            signal.raise_signal(self.number)


HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}  # before any run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run stopped at step 10,000 of 120,000, with checkpoints of 8,000 and 10,000 steps; to be copied."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(Stopped, match=rf"stopped at step 10,000; to continue: sharedq resume {out}$") as stop:
        train(recipe("corridor").replace(**OPTIONS), out, progress=Asks(10_000, signal.SIGINT))
    assert stop.value.exit_code == 130
    return out


def test_killed_three_times_at_any_moment_it_ends_as_if_left_alone(tmp_path, unbroken):
    draw = random.Random(7)
    out = tmp_path / "run"
    for part in range(3):
        process = start("resume", out) if part else start(*words(out))
        after = saved_step(out) + draw.randint(5_000, 25_000)
        when(process, lambda after=after: saved_step(out) >= after, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (out / "finished.json").exists()
    assert main(["resume", str(out)]) == 0
    assert same(out, unbroken)


def test_killed_before_the_first_checkpoint_then_stopped_by_sigterm(tmp_path, unbroken):
    out = tmp_path / "run"
    process = start(*words(out, **{"training.checkpoint_period": 60_000}))
    when(process, lambda: size(out / "episodes.csv") > 10_000, signal.SIGKILL)
    assert saved_step(out) == 0

    process = start("resume", out)
    said = when(process, lambda: saved_step(out) > 0, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    step = saved_step(out)
    assert 60_000 <= step < 120_000  # the signal may come while the checkpoint that was waited for is finished
    assert said == f"sharedq: stopped at step {step:,}; to continue: sharedq resume {out}\n"

    assert main(["resume", str(out)]) == 0
    assert same(out, unbroken)


def test_what_mirrors_a_run_hears_the_rest_of_one_that_goes_on(tmp_path, stopped):
    shutil.copytree(stopped, tmp_path / "run")
    heard = []
    resume(tmp_path / "run", mirror=lambda step, values: heard.append(step))
    assert min(heard) > 10_000 and max(heard) == 120_000


class Full(Silent):
    """Fills the disk when the run has reached a step, and looks at what is there."""

    def __init__(self, patch, run: Path, step: int):
        self.patch, self.run, self.step, self.seen = patch, run, step, []

    def update(self, step, rate, mean_return, learning):
        self.seen = sorted(path.name for path in (self.run / "checkpoints").iterdir())
        if step == self.step:
            self.patch.setattr(os, "fsync", self.full)

    def full(self, number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_the_file_and_how_to_go_on(tmp_path, stopped):
    run = shutil.copytree(stopped, tmp_path / "run")
    checkpoints_there = sorted(path.name for path in (run / "checkpoints").iterdir())
    shutil.copytree(run / "checkpoints/000000008000", run / "checkpoints/000000006000")  # left by a kill
    (run / "checkpoints/7").mkdir()  # somebody else's
    (run / ".finished.json.new").touch()
    before = outcome_of_checkpoints(run)
    with pytest.MonkeyPatch.context() as patch:
        full = Full(patch, run, 12_000)
        with pytest.raises(SharedqError) as told:
            resume(run, progress=full)
    first, kept, onwards = str(told.value).split("; ")
    assert first == f"No space left on device: {run}/metrics.csv"
    assert kept == f"the last good checkpoint is {run}/checkpoints/000000010000"
    assert onwards == f"once that is corrected, continue with: sharedq resume {run}"
    assert full.seen == [*checkpoints_there, "7"]
    assert not (run / ".finished.json.new").exists()
    assert outcome_of_checkpoints(run) == before


def outcome_of_checkpoints(run: Path) -> dict[str, bytes]:
    files = (run / "checkpoints" / name for name in ("000000008000", "000000010000"))
    return {str(file): file.read_bytes() for folder in files for file in folder.rglob("*") if file.is_file()}


def test_killed_after_the_last_checkpoint_it_only_has_to_say_so(tmp_path, capsys):
    train(recipe("corridor").replace(steps=2_000), tmp_path / "run", progress=None)
    before = outcome(tmp_path / "run")
    metrics = (tmp_path / "run/metrics.csv").read_bytes()
    ended = json.loads((tmp_path / "run/finished.json").read_text())
    (tmp_path / "run/finished.json").unlink()
    versions = json.loads((tmp_path / "run/versions.json").read_text())
    (tmp_path / "run/versions.json").write_text(json.dumps(versions | {"jax": "0.1.9"}))
    assert main(["resume", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "compiling" not in said
    assert "this run was begun with jax 0.1.9 and goes on with" in said
    assert json.loads((tmp_path / "run/finished.json").read_text())["logs"] == ended["logs"]
    assert outcome(tmp_path / "run") == before
    assert (tmp_path / "run/metrics.csv").read_bytes() == metrics
    assert "finished already: nothing to resume" in refused(capsys, "resume", tmp_path / "run")


def test_a_request_in_the_last_stretch_lets_the_run_finish_and_then_stops(tmp_path):
    with pytest.raises(Stopped, match="had just finished") as stop:
        train(recipe("corridor").replace(steps=2_000), tmp_path / "run", progress=Asks(2_000, signal.SIGTERM))
    assert stop.value.exit_code == 143
    assert (tmp_path / "run/finished.json").exists()


def test_handlers_are_given_back_after_a_stop(stopped):
    assert [signal.getsignal(number) for number in HANDLERS] == list(HANDLERS.values())


def test_a_second_process_on_the_same_run_is_refused(tmp_path, stopped, capsys):
    run = shutil.copytree(stopped, tmp_path / "run")
    with RunDirectory.open(run).writing():
        assert "another process is writing" in refused(capsys, "resume", run)
        assert "another process is writing" in refused(capsys, *words(run), "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert saved_step(run) == 10_000


def test_a_damaged_checkpoint_is_refused_and_the_older_one_still_goes_on(tmp_path, stopped, unbroken, capsys):
    run = shutil.copytree(stopped, tmp_path / "run")
    newest = run / "checkpoints/000000010000"
    rest = newest / "rest/000000"
    whole = rest.read_bytes()

    rest.write_bytes(whole[:-1])
    assert "is truncated" in refused(capsys, "resume", run)
    rest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    line = refused(capsys, "resume", run)
    assert "checksum differs" in line
    assert "remove 000000010000 to continue from the older checkpoint 000000008000" in line

    shutil.rmtree(newest)
    assert main(["resume", str(run)]) == 0
    assert same(run, unbroken)


def test_a_checkpoint_of_another_experiment_is_refused(tmp_path, stopped, capsys):
    run = shutil.copytree(stopped, tmp_path / "run")
    described = json.loads((run / "experiment.json").read_text())
    described["experiment"]["algorithm"]["gamma"] = 0.5
    (run / "experiment.json").write_text(json.dumps(described))
    told = refused(capsys, "resume", run)
    assert f"{run}/experiment.json was edited or damaged (its checksum is not the one in {run}/checkpoints" in told
    assert "of another run" in told


def test_a_log_that_was_cut_is_refused_and_left_as_it_is(tmp_path, stopped, capsys):
    run = shutil.copytree(stopped, tmp_path / "run")
    os.truncate(run / "episodes.csv", 100)
    metrics = (run / "metrics.csv").read_bytes()
    assert "episodes.csv is shorter than the checkpoint saw it" in refused(capsys, "resume", run)
    assert (run / "metrics.csv").read_bytes() == metrics


@pytest.mark.parametrize("name", ["metrics.csv", "episodes.csv", "tensorboard/seed_1/events.out.tfevents.sharedq"])
def test_a_log_that_was_edited_is_refused_and_left_as_it_is(tmp_path, stopped, capsys, name):
    run = shutil.copytree(stopped, tmp_path / "run")
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    assert f"{name} is not as the checkpoint saw it" in refused(capsys, "resume", run)
    assert (run / name).read_bytes() == content
    assert main(["verify", str(run)]) == 2
    assert f"{name}: NOT WHOLE: its checksum differs" in capsys.readouterr().out


def test_an_edited_description_is_told_and_not_vouched_for_at_the_end(tmp_path, stopped, capsys):
    run = shutil.copytree(stopped, tmp_path / "run")
    costs = json.loads((run / "cost.json").read_text())
    costs["parameters"]["held"] += 1
    (run / "cost.json").write_text(json.dumps(costs))
    assert main(["resume", str(run)]) == 0
    assert f"{run}/cost.json is not as the checkpoint saw it" in capsys.readouterr().out
    assert main(["verify", str(run)]) == 2
    assert "cost.json: NOT WHOLE: its checksum differs" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    assert "cost.json is not the file that the run finished with" in capsys.readouterr().out
    ended = json.loads((run / "finished.json").read_text())
    (run / "finished.json").write_text(json.dumps(ended | {"seconds": 1.0}))
    assert "finished.json was edited or damaged (its checksum differs)" in refused(capsys, "report", run)


@pytest.mark.parametrize(
    "offsets", [{}, {"metrics.csv": 1}, {"metrics.csv": -1, "episodes.csv": 1}, {"a": 1}, None, []]
)
def test_lengths_of_the_log_are_demanded_also_where_no_checksum_keeps_them(tmp_path, capsys, offsets):
    run = shutil.copytree(FIXTURES / "corridor-online_network", tmp_path / "run")
    file = checkpoints.latest(run / "checkpoints") / "checkpoint.json"
    content = json.loads(file.read_text())
    content["meta"]["offsets"] = offsets
    file.write_text(json.dumps(content))
    metrics = (run / "metrics.csv").read_bytes()
    assert "edited" in refused(capsys, "resume", run)
    assert (run / "metrics.csv").read_bytes() == metrics


@pytest.mark.slow
def test_a_game_of_atari_killed_and_resumed_ends_as_if_left_alone(tmp_path):
    """By the paper's command, on a smaller network: emulator, stacks, a replay gone round, truncated episodes."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    options = {
        "game": "Breakout",
        "target": "shared_heads",
        "target.heads": 9,
        "target.period": 10,
        "steps": 400,
        "training.warm_up": 80,
        "training.log_period": 40,
        "training.checkpoint_period": 40,
        "environment.time_limit": 60,
        "replay.capacity": 200,
        "network.filters": "4,4,4",
        "network.hidden": 16,
    }
    words = ["train", "atari-cnn-ln", *(f"--{name}={value}" for name, value in options.items()), "--out"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    when(start(*words, run), lambda: saved_step(run) >= 200, signal.SIGKILL)
    assert not (run / "finished.json").exists()
    assert main(["resume", str(run)]) == 0
    assert main([*words, str(whole)]) == 0
    assert same(run, outcome(whole))
    assert len(outcome(whole)["episodes.csv"]) >= 6


# For longer, and from the agents of another run

SHORT = {
    "steps": 4_000,
    "training.log_period": 1_000,
    "training.checkpoint_period": 3_000,
    "training.keep_replay": True,
    "training.evaluation_period": 2_000,
    "training.evaluation_episodes": 2,
}
KEPT = recipe("corridor").replace(**OPTIONS | SHORT)


class Said(Silent):
    """Keeps what a run says, and stops the run at once at its first evaluation after a step."""

    def __init__(self, stop_after: float = float("inf")):
        self.said, self.step, self.stop_after = [], 0, stop_after

    def say(self, text):
        self.said.append(text)
        if text.startswith("evaluation at step ") and self.step >= self.stop_after:
            raise KeyboardInterrupt

    def update(self, step, rate, mean_return, learning):
        self.step = step


def best(run: Path) -> tuple[bytes, dict]:
    folder = run / "checkpoints/best"
    return (folder / "agent.safetensors").read_bytes(), checkpoints.read_meta(folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A finished run of 4,000 steps with all that it needs to go on; to be copied."""
    return train(KEPT, tmp_path_factory.mktemp("runs") / "kept").path


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> Path:
    """The same run, asked for 8,000 steps from the beginning."""
    return train(KEPT.replace(steps=8_000), tmp_path_factory.mktemp("runs") / "longer").path


def test_a_finished_run_told_to_go_on_ends_as_one_asked_for_so_many_steps_also_if_it_is_killed(tmp_path, kept, longer):
    run = shutil.copytree(kept, tmp_path / "run")
    notes = Said(stop_after=5_000)
    with pytest.raises(Stopped):
        resume(run, steps="8e3", progress=notes)
    assert "continuing from step 4,000" in notes.said
    assert not (run / "finished.json").exists()
    assert saved_step(run) == 4_000  # so what was evaluated at 6,000 is evaluated again
    assert main(["verify", str(run)]) == 0
    assert main(["resume", str(run), "--steps", "8000"]) == 0  # the same command again
    assert same(run, outcome(longer))
    assert best(run) == best(longer)
    assert (run / "evaluations.csv").read_bytes() == (longer / "evaluations.csv").read_bytes()
    assert RunDirectory.open(run).experiment() == RunDirectory.open(longer).experiment()
    assert main(["verify", str(run)]) == 0


@pytest.mark.parametrize("lost", ["unlink", "replace"])
def test_a_kill_while_a_run_is_told_to_go_on_leaves_one_that_resumes(tmp_path, kept, monkeypatch, lost):
    """Killed before finished.json is removed, and before experiment.json is replaced."""
    run = shutil.copytree(kept, tmp_path / "run")
    before = outcome(run)

    def killed(path, *to, **named):
        raise KeyboardInterrupt

    directory = RunDirectory.open(run)
    with directory.writing(), monkeypatch.context() as patch:
        patch.setattr(Path, lost, killed)
        with pytest.raises(KeyboardInterrupt):
            directory.extend({"another": 1})
    if not (run / "finished.json").exists():
        resume(run)
    assert same(run, before)
    assert main(["verify", str(run)]) == 0


def edit_a_log(run: Path) -> None:
    content = (run / "episodes.csv").read_bytes()
    (run / "episodes.csv").write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


def damage_the_checkpoint(run: Path) -> None:
    rest = run / "checkpoints/000000004000/rest/000000"
    rest.write_bytes(rest.read_bytes()[:-1])


def damage_the_best(run: Path) -> None:
    (run / "checkpoints/best/checkpoint.json").write_text("{}")


def edit_the_experiment(run: Path) -> None:
    text = (run / "experiment.json").read_text()
    (run / "experiment.json").write_text(text.replace('"epsilon_end": 0.1', '"epsilon_end": 0.2'))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (edit_a_log, "episodes.csv is not as the checkpoint saw it"),
        (damage_the_checkpoint, "is truncated"),
        (damage_the_best, "checkpoint.json was edited or damaged"),
        (edit_the_experiment, r"experiment.json was edited or damaged .* finished.json\): restore it$"),
    ],
)
def test_a_finished_run_that_cannot_go_on_is_left_finished(tmp_path, kept, monkeypatch, damage, says):
    monkeypatch.setattr("sharedq.training.loop._prepare", lambda *arguments: 0.0)  # nothing is trained
    run = shutil.copytree(kept, tmp_path / "run")
    damage(run)
    described = (run / "experiment.json").read_bytes(), (run / "finished.json").read_bytes()
    with pytest.raises(SharedqError, match=says):
        resume(run, steps=8_000, progress=None)
    assert ((run / "experiment.json").read_bytes(), (run / "finished.json").read_bytes()) == described


def test_a_finished_run_whose_environments_cannot_be_restored_is_left_finished(tmp_path, kept, monkeypatch):
    def refuses(program, saved, step):
        raise SharedqError("it did not reach the same state")

    monkeypatch.setattr("sharedq.training.loop._prepare", lambda *arguments: 0.0)
    monkeypatch.setattr("sharedq.training.fused.FusedProgram.load_worlds", refuses)
    run = shutil.copytree(kept, tmp_path / "run")
    described = (run / "experiment.json").read_bytes(), (run / "finished.json").read_bytes()
    with pytest.raises(SharedqError, match="it did not reach the same state"):
        resume(run, steps=8_000, progress=None)
    assert ((run / "experiment.json").read_bytes(), (run / "finished.json").read_bytes()) == described


def test_an_unfinished_run_is_told_to_go_on_too(tmp_path, kept, longer):
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(KEPT, run, progress=Said(stop_after=3_000))
    resume(run, steps=8_000)
    assert same(run, outcome(longer))


def test_what_cannot_go_on_says_why(tmp_path, kept, capsys):
    told = refused(capsys, "resume", kept, "--steps", "4000")
    assert "has 4,000 steps already: give more than that with --steps, not 4,000" in told
    told = refused(capsys, "resume", kept, "--steps", "10")  # fewer than an evaluation period too
    assert "has 4,000 steps already: give more than that with --steps, not 10" in told
    assert "to train it for longer, add --steps N" in refused(capsys, "resume", kept)
    told = refused(capsys, "train", "corridor", "--out", kept)
    assert "already holds a run that is finished" in told and f"'sharedq resume {kept} --steps N'" in told
    told = refused(capsys, "train", "corridor", "--out", tmp_path / "new", "--from-checkpoint", "best")
    assert "Name the run that the agents come from with --from" in told
    (tmp_path / "compare.json").touch()
    run = shutil.copytree(kept, tmp_path / "runs/run")
    assert "belongs to a comparison" in refused(capsys, "resume", run, "--steps", "8000")
    assert "--steps is for one run" in refused(capsys, "resume", tmp_path, "--steps", "8000")
    run = shutil.copytree(FIXTURES / "corridor-finished", tmp_path / "old")
    told = refused(capsys, "resume", run, "--steps", "80000")
    assert "did not keep its replay at its end, as runs with --training.keep_replay true do" in told
    assert f"sharedq train {run}/experiment.json --from {run}" in told
    assert outcome(run)["steps"] == outcome(FIXTURES / "corridor-finished")["steps"]


def arrays(run: Path, step: int) -> dict:
    return checkpoints.load_arrays(run / f"checkpoints/{step:012d}", "agent")


def test_a_new_run_starts_from_the_weights_of_another_and_needs_it_no_more(tmp_path, kept):
    other = shutil.copytree(kept, tmp_path / "other")
    with pytest.raises(Stopped):
        train(KEPT, tmp_path / "run", start_from=other, progress=Said(stop_after=1_000))
    run = tmp_path / "run"
    origin = json.loads((run / "experiment.json").read_text())["started_from"]
    assert origin["run"] == str(other)
    assert origin["sha256"] == checksum(other / "checkpoints/000000004000/agent.safetensors")
    before, now = arrays(other, 4_000), arrays(run, 0)
    assert before.keys() == now.keys()
    changed = {name for name in now if (now[name] != before[name]).any()}
    assert changed == {name for name in now if name.startswith("optimiser")}
    assert main(["verify", str(run)]) == 0
    assert [agent.step for agent in load_all(run)] == [0, 0]
    shutil.rmtree(other)
    resume(run)
    whole = train(KEPT, tmp_path / "whole", start_from=kept).path
    assert same(run, outcome(whole))
    assert outcome(whole)["agent"] != outcome(kept)["agent"]
    assert checkpoints.all_steps(run / "checkpoints") == [4_000]


def test_all_seeds_start_from_the_agent_of_one_and_several_need_as_many(tmp_path, kept, capsys):
    built = KEPT.build()
    best = agents_of(kept, "best", built)
    assert best.origin["checkpoint"] == "best"
    second = Start(jax.tree.map(lambda x: x[1:], best.agent), {})
    one = RunDirectory.create(tmp_path / "one", KEPT.replace(seeds=1).to_dict(), "", start=second).path
    both = agents_of(one, "last", built).agent
    for leaf, wanted in zip(*map(jax.tree.leaves, (both.params, second.agent.params)), strict=True):
        assert (leaf == wanted).all() and len(leaf) == 2
    three = [*words(tmp_path / "three", seeds=3), "--from", str(kept)]
    assert "has 2 seeds and the new run 3: start 2 seeds from it" in refused(capsys, *three)
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"target.heads": 5}, "--target.heads 2"),
        ({"target": "target_network"}, "--target shared_heads --target.heads 2"),
        ({"target.heads": 5, "target.period": 7}, "--target.heads 2"),
        ({"environment.name": "corridor"}, "an environment with the observations and actions of 'probe/maximisation"),
    ],
)
def test_agents_that_do_not_fit_are_refused_with_what_would(tmp_path, kept, capsys, changes, fits):
    options = {
        name: value for name, value in OPTIONS.items() if not name.startswith("target.") or "target" not in changes
    }
    arguments = [f"--{name}={value}" for name, value in (options | changes).items()]
    told = refused(capsys, "train", "corridor", "--out", tmp_path / "new", "--from", kept, *arguments)
    assert "agents do not fit: 'params/" in told
    assert f"what fits: {fits}" in told
    assert "--target.period" not in told
    assert ("it learned in another environment" in told) is ("environment.name" in changes)
    assert not (tmp_path / "new").exists()


def test_agents_of_another_environment_are_told_as_such(tmp_path, kept, capsys):
    told = refused(capsys, "train", "cartpole", "--out", tmp_path / "new", "--from", kept)
    assert "it learned in another environment, 'probe/maximisation_bias'; what fits: an environment with" in told
    assert "--network table" in told and "period" not in told
