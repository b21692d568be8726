"""Learning from a data set: killed and resumed to the bit, the same in every layout, and no mistake trains silently."""

import csv
import functools
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_resume import TIMINGS, outcome, refused

import sharedq as library
from sharedq.agent import load
from sharedq.command_line import main
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.store import HEADER, Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments import Discrete, EnvironmentSpec
from sharedq.experiment import Experiment
from sharedq.recipes import recipe
from sharedq.runs import checkpoints
from sharedq.starting import agents_of
from sharedq.trainer import resume, train
from sharedq.training import offline, seeds

SMALL = {
    "environment": "probe",
    "network": "table",
    "replay.batch_size": 8,
    "steps": 240,
    "training.log_period": 20,
    "training.checkpoint_period": 60,
    "training.evaluation_period": 40,
    "training.evaluation_episodes": 2,
    "algorithm.learning_rate": 0.01,
    "seeds": 3,
}
LEARNERS = {
    "iql": ("cartpole-iql", {"algorithm.actor_decay_updates": 200, "algorithm.critics": 1}),
    "cql": ("minatar-cql", {"target": "shared_heads", "target.heads": 2, "target.period": 7, "replay.n_step": 3}),
}
MEASURES = ("target_churn", "rank", "gradient_alignment", "action_gap", "agreement")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """What a random agent saw of the corridor; to be copied before it is damaged."""
    return library.collect(
        tmp_path_factory.mktemp("data") / "corridor", ["random"], 1_000, environment=recipe("corridor")
    ).path


def small(learner: str, data: Path, **options) -> Experiment:
    name, own = LEARNERS[learner]
    return recipe(name).replace(**SMALL | own | {"data": str(data)} | options)


def words(learner: str, data: Path, out: Path, **options) -> list[str]:
    """The command that trains the same."""
    name, own = LEARNERS[learner]
    chosen = SMALL | own | {"data": data} | options
    return ["train", name, "--out", str(out), *(f"--{option}={value}" for option, value in chosen.items())]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


def ended(run: Path) -> dict:
    """All that a run ends with, but not how long it took."""
    return outcome(run) | {"evaluations": (run / "evaluations.csv").read_bytes()}


def assert_same_end(run: Path, other: dict) -> None:
    mine = ended(run)
    assert [name for name in other if mine[name] != other[name]] == []


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> dict[str, Path]:
    """A finished run of each learner; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("runs")
    for learner in LEARNERS:
        assert main(words(learner, data, folder / learner)) == 0
    return {learner: folder / learner for learner in LEARNERS}


# Killed and resumed, longer, side by side

KILLED = """
import os, signal, sys
from sharedq.command_line import main
from sharedq.runs import pieces
from sharedq.training.offline import OfflineProgram

owner, name = {"learning": (OfflineProgram, "advance"), "saving": (pieces, "write")}[sys.argv[1]]
original, calls = getattr(owner, name), []

def killed(*arguments):
    calls.append(None)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(owner, name, killed)
sys.exit(main(sys.argv[3:]))
"""


def kill(what: str, times: int, commands: list[list[str]]) -> None:
    """Runs commands that are killed when they do this for this time."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    begun = [subprocess.Popen([sys.executable, "-c", KILLED, what, str(times), *one], **pipes) for one in commands]
    for process in begun:
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said


def test_killed_at_three_moments_and_resumed_the_end_is_the_same(tmp_path, data, unbroken):
    iql, cql = tmp_path / "iql", tmp_path / "cql"

    kill("learning", 3, [words("iql", data, iql)])  # before the first checkpoint
    assert checkpoints.all_steps(iql / "checkpoints") == []
    kill("saving", 2, [["resume", str(iql)], words("cql", data, cql)])  # while the second is written
    for run in (iql, cql):
        assert checkpoints.all_steps(run / "checkpoints") == [60]
        assert (run / "checkpoints/.unfinished").exists()
    kill("learning", 5, [["resume", str(iql)]])  # between two
    assert checkpoints.all_steps(iql / "checkpoints") == [60, 120]
    for run in (iql, cql):
        assert main(["resume", str(run)]) == 0
        assert_same_end(run, ended(unbroken[run.name]))
        assert main(["verify", str(run)]) == 0


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_finished_run_goes_on_to_the_end_of_a_longer_one(tmp_path, data, unbroken, learner):
    run = shutil.copytree(unbroken[learner], tmp_path / "run")
    assert main(["resume", str(run), "--steps", "360"]) == 0
    longer = train(small(learner, data, steps=360), tmp_path / "longer", progress=None).path
    assert_same_end(run, ended(longer))


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_seed_learns_the_same_alone_and_in_blocks_of_any_size(tmp_path, data, unbroken, learner, monkeypatch):
    monkeypatch.setattr(offline, "BLOCK_UPDATES", 7)
    run = train(small(learner, data, seeds=1, seed=2), tmp_path / "run", progress=None).path
    ours, theirs = (
        [{name: x for name, x in row.items() if name not in TIMINGS} for row in rows(one / "metrics.csv")]
        for one in (run, unbroken[learner])
    )
    for one, other in zip(ours, theirs[2::3], strict=True):  # the last bit of a logged mean depends on the program
        assert {name: float(x) for name, x in one.items()} == pytest.approx(
            {name: float(x) for name, x in other.items()}, rel=1e-6
        )
    played = [row for row in rows(unbroken[learner] / "evaluations.csv") if row["seed"] == "2"]
    assert rows(run / "evaluations.csv") == played
    agents = [
        checkpoints.load_arrays(checkpoints.latest(one / "checkpoints"), "agent") for one in (run, unbroken[learner])
    ]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y[2]), *agents)
    assert any((leaf != leaf[:1]).any() for leaf in agents[1].values())  # seeds differ


@pytest.mark.parametrize("learner", LEARNERS)
def test_seeds_side_by_side_learn_what_they_learn_one_after_another(data, unbroken, learner, monkeypatch):
    monkeypatch.setattr(seeds, "side_by_side", lambda: True)
    program = small(learner, data, **{"training.evaluation_period": None}).build().program()
    program.prepare()
    run = program.begin()
    for start, stop in itertools.pairwise([0, *program.log_steps]):
        run, _ = program.advance(run, start, stop)
    program.close()
    assert program.layout.batched
    wanted = checkpoints.load_agent(checkpoints.latest(unbroken[learner] / "checkpoints"), program.shapes().agent)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(near, program.to_host(run).agent.params, wanted.params)


# What a run leaves behind


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_run_notes_its_data_and_keeps_none_of_them(tmp_path, data, unbroken, learner):
    run = unbroken[learner]
    described = json.loads((run / "experiment.json").read_text())["experiment"]
    assert described["replay"]["content"] == Store(data).manifest.content
    newest = checkpoints.latest(run / "checkpoints")
    assert checkpoints.load_arrays(newest, "rest").keys() == {"seed"}
    metrics = rows(run / "metrics.csv")
    assert [int(row["step"]) for row in metrics[::3]] == list(range(20, 241, 20))
    assert "epsilon" not in metrics[0]  # nothing explores
    assert len((run / "episodes.csv").read_text().splitlines()) == 1
    assert main(["train", str(run / "experiment.json"), "--out", str(tmp_path / "again")]) == 0
    assert_same_end(tmp_path / "again", ended(run))


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_measure_looks_at_learning_from_data(tmp_path, data, learner):
    options = {"training.measures": MEASURES, "training.measure_period": 7, "steps": 40, "seeds": 2}
    train(small(learner, data, **options), tmp_path / "run", progress=None)
    metrics = rows(tmp_path / "run/metrics.csv")
    found = {name: [float(row[f"measures/{name}"]) for row in metrics] for name in MEASURES if name != "rank"}
    assert all(np.isfinite(values).all() for values in found.values()), found
    assert all(0 <= share <= 1 for share in found["agreement"])
    assert all(gap >= 0 for gap in found["action_gap"])
    assert any("rank" in name for name in metrics[0])


def test_an_environment_that_the_host_steps_is_evaluated_in_and_refined_in(tmp_path):
    library.collect(tmp_path / "data", ["random"], 400, environment=recipe("pendulum-iql"))
    sizes = {"hidden": "4", "critics": 1, "actor_width": 4, "actor_depth": 1, "batch_size": 8, "log_period": 20}
    common, run = [f"--{name}={value}" for name, value in sizes.items()], tmp_path / "run"
    learned = ["--data", str(tmp_path / "data"), "--steps=40", "--evaluation_period=40", "--evaluation_episodes=1"]
    assert main(["train", "pendulum-iql", "--out", str(run), *learned, *common]) == 0
    evaluated = rows(run / "evaluations.csv")
    assert len(evaluated) == 1 and -2_000 < float(evaluated[0]["return"]) < 0
    agent = load(run)
    assert -2 <= agent.act(np.zeros(3, np.float32)) <= 2
    online = ["--training", "interactive", "--replay", "transitions", "--warm_up", "40", "--steps", "120"]
    online += ["--evaluation_period", "none", "--environments", "1"]
    assert main(["train", "pendulum-iql", "--from", str(run), *online, *common, "--out", str(tmp_path / "more")]) == 0
    assert {"policy_loss", "value_loss"} <= rows(tmp_path / "more/metrics.csv")[0].keys()


def test_what_was_learned_from_data_is_refined_in_a_compiled_environment(tmp_path, unbroken):
    options = {key: value for key, value in SMALL.items() if key != "replay.batch_size"}
    options |= {"training": "fused", "replay": "transitions", "warm_up": 40, "update_period": 2, "environments": 2}
    options |= {"batch_size": 8, "capacity": 200, "training.log_period": 60, "steps": 120}
    options["training.evaluation_period"] = "none"
    for learner, (name, own) in LEARNERS.items():
        texts = {option: str(value) for option, value in (options | own).items() if option != "replay.n_step"}
        start = agents_of(unbroken[learner], "last", recipe(name).parse(texts).build())
        assert start.origin["run"] == str(unbroken[learner])
    arguments = [f"--{option}={text}" for option, text in texts.items()]
    run = tmp_path / "run"
    assert main(["train", name, "--from", str(unbroken[learner]), *arguments, "--out", str(run)]) == 0
    assert json.loads((run / "experiment.json").read_text())["started_from"] == start.origin
    assert all(np.isfinite(float(row["loss"])) for row in rows(run / "metrics.csv"))


def test_a_comparison_on_data_goes_on_and_refuses_other_data(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr("sharedq.reports.write", lambda *arguments, **named: "a page")
    mine, out = shutil.copytree(data, tmp_path / "data"), tmp_path / "compared"
    chosen = [
        one for one in words("cql", mine, out, steps=40)[1:] if not one.startswith(("--target=", "--target.heads"))
    ]
    command = ["compare", *chosen, "--targets", "shared_heads:heads=2", "online_network"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "40 of 40 updates, " in said and " updates/s, " in said and "finished 40 updates of 3 seeds" in said
    assert "steps/s" not in said
    shutil.rmtree(min((out / "runs").iterdir()))
    assert main(command) == 0
    other(mine)
    assert "holds another comparison" in refused(capsys, *command)


# Without an environment


@pytest.fixture(scope="module")
def recorded(data, tmp_path_factory) -> Path:
    """A run without an environment."""
    out = tmp_path_factory.mktemp("runs") / "recorded"
    options = {"environment": "recorded", "training.evaluation_period": "none", "steps": 40}
    assert main(words("cql", data, out, **options)) == 0
    return out


def test_an_agent_that_never_had_an_environment_acts_and_says_that_it_has_nowhere_to_play(recorded, tmp_path, capsys):
    run = shutil.copytree(recorded, tmp_path / "run")
    assert not (run / "evaluations.csv").exists()
    agent = load(run)
    assert agent.act(np.eye(4, dtype=np.float32)[0]) in (0, 1)
    assert agent.values(np.eye(4, dtype=np.float32)).shape == (4, 2)
    before = sorted(run.rglob("*"))
    for command in (("evaluate", run), ("record", run), ("record", run, "--out", run / "film.gif")):
        assert "without an environment to play in" in refused(capsys, *command)
    assert sorted(run.rglob("*")) == before
    assert main(["resume", str(run), "--steps", "60"]) == 0


# Mistakes. Each is told in one line, and nothing is written.


@pytest.fixture
def told(tmp_path, capsys):
    """Runs a command that is a mistake; returns the line that says so."""

    def run(*arguments) -> str:
        before = sorted(tmp_path.rglob("*"))
        line = refused(capsys, *arguments)
        assert re.fullmatch(r"sharedq: [^\n]+\n", line)
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


def like(data: Path, out: Path, name: str = "probe/corridor", cells: int = 4, actions: int = 2, end=End.TRUNCATED):
    """A data set of one episode with such observations and actions."""
    spec = EnvironmentSpec(name, jax.ShapeDtypeStruct((cells,), np.float32), Discrete(actions))
    zeros, obs = np.zeros(30), np.tile(np.eye(cells, dtype=np.float32)[0], (31, 1))
    with StoreWriter(out, Description("tests", "tests", spec)) as writer:
        episode = Episode(obs, zeros.astype(np.int32), zeros.astype(np.float32), end)
        writer.add(episode, "episode 0")
        return writer.finish().path


def other(store: Path) -> None:
    """Puts other, whole data in the place of a data set."""
    shutil.rmtree(store)
    like(store, store)


def edited(store: Path) -> None:
    """Changes one reward."""
    content = bytearray((store / "rewards.npy").read_bytes())
    content[HEADER + 40] ^= 1
    (store / "rewards.npy").write_bytes(content)


def test_a_run_needs_data_that_are_there(tmp_path, data, told):
    command = [one for one in words("iql", data, tmp_path / "run") if not one.startswith("--data")]
    assert "name a data set with --data FOLDER" in told(*command)
    assert "there is no data set in" in told(*command, "--data", tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    assert "folder is not a data set: it has no manifest.json" in told(*command, "--data", tmp_path / "folder")
    line = told("train", "cartpole-iql", "--environment", "recorded", "--evaluation_period", "none")
    assert "name a data set with --data FOLDER" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fraction": 0}, "fraction must be above 0 and at most 1"),
        ({"fraction": "nan"}, "fraction"),
        ({"replay.n_step": 0}, "n_step must be at least 1"),
        ({"return_range": -1}, "return_range must be above 0"),
        ({"unknown_ends": "maybe"}, "unknown_ends"),
        ({"environment": "recorded"}, "there is no environment to evaluate in: add --evaluation_period none"),
        ({"training": "fused"}, "add --training offline, or --replay transitions"),
        ({"environment.name": "discounting"}, "was recorded in 'probe/corridor', and the experiment's environment is"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(tmp_path, data, told, options, says):
    assert says in told(*words("iql", data, tmp_path / "run", **options))


def test_learning_from_data_needs_a_data_set_and_not_a_replay(tmp_path, data, told):
    command = [one for one in words("iql", data, tmp_path / "run") if not one.startswith("--data")]
    line = told(*command, "--replay", "transitions")
    assert "training 'offline' for learning from a data set" in line and "--replay dataset" in line
    stream = ("train", "stream-control", "--replay", "dataset", "--data", data, "--out", tmp_path / "run")
    assert "algorithm 'stream_q' learns from each step as it happens" in told(*stream)
    assert "--training offline" in told("train", "corridor", "--environment", "recorded", "--out", tmp_path / "run")


def test_data_of_other_observations_actions_or_unknown_ends_are_refused(tmp_path, data, told):
    wide = like(data, tmp_path / "wide", cells=5)
    assert "with observations float32[5], and 'probe/corridor' has float32[4]" in told(
        *words("iql", wide, tmp_path / "run")
    )
    many = like(data, tmp_path / "many", actions=3)
    assert "with actions 0 .. 2, and 'probe/corridor' has 0 .. 1" in told(*words("iql", many, tmp_path / "run"))
    unknown = like(data, tmp_path / "unknown", name="unknown", end=End.UNKNOWN)
    line = told(*words("iql", unknown, tmp_path / "run"))
    assert "does not say how episode 0 ends, at step 29" in line and "--unknown_ends terminated" in line
    chosen = {"unknown_ends": "truncated", "steps": 20, "training.evaluation_period": "none"}
    assert main(words("iql", unknown, tmp_path / "run", **chosen)) == 0
    line = told(*words("iql", unknown, tmp_path / "new", **chosen, return_range=10))
    assert "all episodes of" in line and "have the return 0: leave --return_range out" in line


def test_data_that_changed_since_the_run_began_are_refused(tmp_path, data, told):
    mine = shutil.copytree(data, tmp_path / "data")
    run = train(small("cql", mine, steps=40), tmp_path / "run", progress=None).path
    again = ["train", run / "experiment.json", "--out", tmp_path / "again"]
    onwards = ["resume", run, "--steps", "60"]
    edited(mine)
    for command in (again, onwards, words("iql", mine, tmp_path / "new")):
        assert "rewards.npy was changed or damaged within its bytes 0 to " in told(*command)
    other(mine)
    for command in (again, onwards):
        assert "is not the data set that the run began with" in told(*command)
    shutil.rmtree(mine)
    for command in (again, onwards):
        assert f"there is no data set in {mine}" in told(*command)
    shutil.copytree(data, mine)
    resume(run, steps=60, progress=None)
