"""Evaluation during training: what is played, that learning does not notice, and the best agent of each seed."""

import csv
import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sharedq
from sharedq import random_keys
from sharedq.agent import load_all
from sharedq.command_line import main
from sharedq.environments import CartPole, HostEnvironment
from sharedq.errors import EnvironmentFailed, SharedqError, Stopped
from sharedq.experiment import Experiment
from sharedq.networks import Dense
from sharedq.playing import MAX_STEPS
from sharedq.playing.episodes import evaluation_seed, play
from sharedq.recipes import recipe
from sharedq.runs import MetricsLog, RunDirectory, checkpoints, run_files
from sharedq.trainer import resume, train
from sharedq.training import Fused, Interactive, Streaming
from sharedq.training.evaluation import Best, Evaluation
from sharedq.training.program import PlayedEpisodes
from sharedq.training.progress import Silent

EPISODES, SEEDS = 4, [0, 1]
EXPERIMENT = recipe("corridor").replace(
    **{
        "steps": 6_000,
        "seeds": len(SEEDS),
        "training.log_period": 600,
        "training.checkpoint_period": 4_000,
        "training.evaluation_period": 1_000,
        "training.evaluation_episodes": EPISODES,
        # Noisy rewards, and few episodes: the best evaluation is one of the first as well as one of the last.
        "environment.name": "maximisation_bias",
        "algorithm.epsilon_end": 0.1,
        "algorithm.evaluation_epsilon": 0.5,
    }
)
DUE = [1_200, 2_400, 3_000, 4_200, 5_400, 6_000]  # the first rows at or after 1,000, 2,000, ..., and the last one
TIMINGS = ("steps_per_second", "seconds")


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with (run / name).open() as file:
        return [{k: x for k, x in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def outcome(run: Path) -> dict:
    """All that a run that evaluates ends with, but not how long it took."""
    files = ("agent.safetensors", "checkpoint.json")
    best = [(run / "checkpoints/best" / name).read_bytes() for name in files]
    agent = (checkpoints.latest(run / "checkpoints") / "agent.safetensors").read_bytes()
    return {
        "best": best,
        "agent": agent,
        **{name: rows(run, name) for name in run_files.TABLES if (run / name).exists()},
    }


class Notes(Silent):
    """Keeps what a run says, and stops it at once at one of its evaluations."""

    def __init__(self, stop_at: int | None = None):
        self.said, self.evaluations, self.stop_at = [], 0, stop_at

    def say(self, text):
        self.said.append(text)
        self.evaluations += text.startswith("evaluation at step ")
        if self.evaluations == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Notes, list]:
    """A run that evaluated, what it said, and what its mirror heard; to be left as it is."""
    out, notes, heard = tmp_path_factory.mktemp("runs") / "run", Notes(), []
    train(EXPERIMENT, out, progress=notes, mirror=lambda step, values: heard.append((step, values)))
    return out, notes, heard


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished[0], tmp_path / "run")


def returns_at(run: Path, seed: int, step: int) -> list[float]:
    told = rows(run, "evaluations.csv")
    return [float(row["return"]) for row in told if (int(row["step"]), int(row["seed"])) == (step, seed)]


# What is played and told


def test_a_row_for_each_episode_at_the_rows_of_the_log_that_follow_the_multiples_and_at_the_last(finished):
    run, notes, _ = finished
    told = [(int(row["step"]), int(row["seed"])) for row in rows(run, "evaluations.csv")]
    assert told == [(step, seed) for step in DUE for seed in SEEDS for _ in range(EPISODES)]
    assert notes.evaluations == len(DUE)
    assert any(said.startswith("evaluation took ") and said.endswith(" % of the time") for said in notes.said)


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_the_episodes_are_those_of_the_agent_and_of_seeds_of_their_own(finished, checkpoint):
    run, _, _ = finished
    built = EXPERIMENT.build()
    for agent in load_all(run, checkpoint=checkpoint):
        act = partial(built.algorithm.act, agent._state, step=None)
        seed = evaluation_seed(agent.seed, agent.step)
        returned, _, _ = jax.jit(lambda act=act, seed=seed: play(built.environment, act, seed, EPISODES, MAX_STEPS))()
        np.testing.assert_allclose(returned, returns_at(run, agent.seed, agent.step), rtol=1e-6)


def test_no_two_evaluations_and_no_training_have_a_seed_in_common():
    seeds = [evaluation_seed(seed, step) for seed in range(20) for step in (None, *DUE)]
    assert len({*seeds, *range(20)}) == len(seeds) + 20


def test_the_best_of_each_seed_is_the_first_with_its_highest_mean(finished):
    run, _, _ = finished
    means = {seed: [np.mean(returns_at(run, seed, step)) for step in DUE] for seed in SEEDS}
    best = [DUE[int(np.argmax(means[seed]))] for seed in SEEDS]
    assert best[0] != best[1]  # so the file holds agents of different steps
    meta = checkpoints.read_meta(run / "checkpoints/best")
    assert meta["steps"] == best
    np.testing.assert_allclose(meta["returns"], [max(means[seed]) for seed in SEEDS], rtol=1e-6)
    assert [agent.step for agent in load_all(run, checkpoint="best")] == best


def test_tensorboard_and_the_mirror_hear_the_mean(finished):
    run, _, heard = finished
    accumulator = EventAccumulator(str(run / "tensorboard/seed_1"), {"scalars": 0}).Reload()
    points = accumulator.Scalars("evaluation/return")
    assert [point.step for point in points] == DUE
    np.testing.assert_allclose(points[2].value, np.mean(returns_at(run, 1, DUE[2])), rtol=1e-6)
    both = np.mean([returns_at(run, seed, DUE[2]) for seed in SEEDS])
    told = {step: values["evaluation/return"] for step, values in heard if "evaluation/return" in values}
    assert list(told) == DUE
    np.testing.assert_allclose(told[DUE[2]], both, rtol=1e-6)


def test_each_evaluation_is_told_with_its_mean(finished):
    run, notes, _ = finished
    told = [said for said in notes.said if said.startswith("evaluation at step ")]
    means = [np.mean([returns_at(run, seed, step) for seed in SEEDS]) for step in DUE]
    assert told == [f"evaluation at step {step:,}: mean return {mean:.2f}" for step, mean in zip(DUE, means)]
    assert not any("were cut" in said for said in notes.said)


# Learning does not notice


def test_a_run_without_evaluation_learns_the_same_and_knows_nothing_of_it(finished, tmp_path):
    run, _, _ = finished
    train(EXPERIMENT.replace(**{"training.evaluation_period": None}), tmp_path / "run")
    plain = tmp_path / "run"
    for name in ("metrics.csv", "episodes.csv"):
        assert rows(plain, name) == rows(run, name)
    last = "checkpoints/000000006000"
    assert (plain / last / "agent.safetensors").read_bytes() == (run / last / "agent.safetensors").read_bytes()
    assert not (plain / "evaluations.csv").exists()
    assert [path.name for path in (plain / "checkpoints").iterdir()] == ["000000006000"]
    ended, meta = json.loads((plain / "finished.json").read_text()), checkpoints.read_meta(plain / last)
    assert ended.keys() == {"steps", "steps_per_second", "seconds", "compile_seconds", "logs", "files", "sha256"}
    assert meta.keys() == {"seconds", "compile_seconds", "files", "offsets", "logs"}
    assert "evaluations.csv" not in {**ended["logs"], **meta["offsets"]}


@pytest.mark.parametrize("stop_at", [2, 5])
def test_killed_at_an_evaluation_whatever_it_kept_and_resumed_it_ends_as_if_left_alone(finished, tmp_path, stop_at):
    """Both evaluations find a best agent, after the checkpoint that the run goes on from: none, and that of 4,200."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(EXPERIMENT, out, progress=Notes(stop_at))
    saved = max(checkpoints.all_steps(out / "checkpoints"), default=0)
    assert saved == {2: 0, 5: 4_200}[stop_at]
    assert DUE[stop_at - 1] in checkpoints.read_meta(out / "checkpoints/best")["steps"]
    resume(out)
    mine, whole = outcome(out), outcome(finished[0])
    assert [name for name in whole if mine[name] != whole[name]] == []


SMALL = Experiment(
    environment=CartPole(time_limit=30),
    network=Dense((8,)),
    training=Fused(steps=960, environments=3, warm_up=90, log_period=120, evaluation_period=480, evaluation_episodes=5),
)


class FirstEpisodes:
    """An environment of the device on the host, without new episodes, by the keys that `play` uses."""

    opened = 0

    def __init__(self, environment, count: int, seed: int):
        self.count, self.key, self.time, self.steps = count, random_keys.root(seed), 0, 0
        self.begin, self.next = environment
        FirstEpisodes.opened += 1

    def reset(self):
        keys = jax.random.split(random_keys.named(self.key, "first episodes"), self.count)
        self.state, obs = self.begin(keys)
        return np.array(obs)

    def step(self, actions):
        keys = jax.random.split(random_keys.at(random_keys.named(self.key, "environment"), self.time), self.count)
        self.state, outcome = self.next(keys, self.state, jnp.asarray(actions))
        self.time += 1
        return jax.tree.map(np.asarray, outcome)

    def close(self):
        FirstEpisodes.opened -= 1


def on_the_host(seeds: list[int]):
    built = SMALL.build()
    both = (jax.jit(jax.vmap(function)) for function in (built.environment.reset, built.environment.step))
    environment = HostEnvironment(built.spec, partial(FirstEpisodes, tuple(both)))
    training = Interactive(**dataclasses.asdict(SMALL.training))
    return training.build(environment, built.algorithm, built.replay, seeds)


def test_evaluating_on_the_host_equals_evaluating_on_the_device_with_one_compile_and_closes_its_worlds():
    """Three seeds on two devices: one device has a seat that stays empty."""
    traces = []
    built = SMALL.build()

    def act(*arguments, **named):
        traces.append("act")
        return built.algorithm.act(*arguments, **named)

    fused = SMALL.training.build(built.environment, built.algorithm._replace(act=act), built.replay, [0, 1, 2])
    host = on_the_host([0, 1, 2])
    fused._prepare_evaluation(fused.layout.shapes(fused._run_shape.agent))
    host._prepare_evaluation(host.layout.shapes(host._learner_shape).agent)
    traces.clear()
    run = fused.begin()
    learner = host.to_devices(host.shapes()._replace(seed=np.arange(3), agent=fused.agent_to_host(run), replay=()))
    for step in (480, 960):
        on_device, on_host = fused.evaluate(run, step), host.evaluate(learner, step)
        jax.tree.map(np.testing.assert_array_equal, on_device, on_host)
        assert on_device.returns.shape == (3, 5) and on_device.ended.all()
    assert traces == []
    assert FirstEpisodes.opened == 0


def test_an_environment_that_breaks_down_in_an_evaluation_is_told_with_seed_and_step_and_all_are_closed(monkeypatch):
    host = on_the_host([4, 5])
    agents = host.layout.spread(lambda _, seed: (seed, host._begin_one(seed)))(jnp.int32(0), host._seeds())[1].agent
    learner = host.shapes()._replace(agent=agents)

    def breaks(world, actions):
        raise EnvironmentFailed("it broke")

    monkeypatch.setattr(FirstEpisodes, "step", breaks)
    with pytest.raises(EnvironmentFailed, match="it broke at step 480"):
        host.evaluate(learner, 480)
    assert FirstEpisodes.opened == 0


# The best agent, with a program that only tells what its evaluations returned


class Told(NamedTuple):
    """A program of two seeds: agents that are their step, and evaluations that return what is told."""

    returns: dict[int, list[float]]
    seeds: list[int] = [7, 8]  # noqa: RUF012
    evaluation_steps: list[int] = [1, 2, 3, 4]  # noqa: RUF012
    cut: tuple[int, ...] = ()

    def evaluate(self, run, step):
        returns = np.float32(self.returns[step])[:, None]
        return PlayedEpisodes(returns, np.ones_like(returns), np.full(returns.shape, step not in self.cut))

    def agent_to_host(self, run):
        return {"params": np.full((2, 3), run, np.float32), "key": jax.random.split(jax.random.key(run))}

    def shapes(self):
        return Whole(self.agent_to_host(0))


class Whole(NamedTuple):
    agent: dict


def kept(program: Told, directory: RunDirectory) -> tuple[list[int], list[float], np.ndarray]:
    folder = directory.checkpoints / "best"
    agent = checkpoints.load(folder, "agent", program.agent_to_host(0))
    meta = checkpoints.read_meta(folder)
    words = [
        jax.random.key_data(jax.random.split(jax.random.key(step))[place]) for place, step in enumerate(meta["steps"])
    ]
    np.testing.assert_array_equal(jax.random.key_data(agent["key"]), words)
    np.testing.assert_array_equal(agent["params"], np.repeat(agent["params"][:, :1], 3, axis=1))
    return meta["steps"], meta["returns"], agent["params"][:, 0].tolist()


def test_each_seed_keeps_its_own_best_and_of_equal_ones_the_first(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", {}, "")
    program = Told({1: [np.nan, 5.0], 2: [1.0, 5.0], 3: [1.0, 4.0], 4: [3.0, np.inf]})
    with MetricsLog(directory, ["loss"], evaluates=True) as log:
        evaluation = Evaluation(program, directory, print, 0.0)
        evaluation.carry_out(1, 1, log)
        assert kept(program, directory)[::2] == ([1, 1], [1.0, 1.0])
        evaluation.carry_out(2, 2, log)
        assert kept(program, directory) == ([2, 1], [1.0, 5.0], [2.0, 1.0])
        evaluation.carry_out(3, 3, log)
        assert kept(program, directory) == ([2, 1], [1.0, 5.0], [2.0, 1.0])
        evaluation = Evaluation(program, directory, print, 0.0)  # as if resumed
        evaluation.carry_out(2, 2, log)
        assert kept(program, directory) == ([2, 1], [1.0, 5.0], [2.0, 1.0])
        evaluation.carry_out(4, 4, log)
        assert kept(program, directory)[::2] == ([4, 4], [4.0, 4.0])
    assert Best([2], [1.0]).with_more(3, [1.0]) == Best([2], [1.0])


def test_the_first_evaluation_that_cuts_episodes_says_how_many(tmp_path):
    directory, said = RunDirectory.create(tmp_path / "run", {}, ""), []
    program = Told({step: [1.0, 1.0] for step in (1, 2, 3)}, cut=(2, 3))
    with MetricsLog(directory, ["loss"], evaluates=True) as log:
        evaluation = Evaluation(program, directory, said.append, 0.0)
        for step in (1, 2, 3):
            evaluation.carry_out(step, step, log)
    cut = "2 of 2 episodes of this evaluation were cut at 10,000 steps; their returns count up to there"
    told = [f"evaluation at step {step}: mean return 1.00" for step in (1, 2, 3)]
    assert said == [*told[:2], cut, told[2]]


def test_the_best_that_a_kill_left_moved_aside_is_found_loaded_and_verified(run, capsys):
    whole = run / "checkpoints/best"
    steps = checkpoints.read_meta(whole)["steps"]
    whole.rename(run / "checkpoints/.best")
    assert [agent.step for agent in load_all(run, checkpoint="best")] == steps
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if ".best/agent" in line] == ["checkpoints/.best/agent.safetensors: whole"]


@pytest.mark.parametrize("renames", range(2))
def test_a_kill_while_the_best_is_replaced_leaves_the_one_before(tmp_path, monkeypatch, renames):
    folder, done = tmp_path / "checkpoints", []
    for step in (1, 2):
        checkpoints.save_best(folder, step, {"w": np.full(3, step)}, "digest", {})
    rename = Path.rename

    def killed(path, to):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(to)
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save_best(folder, 3, {"w": np.full(3, 3)}, "digest", {})
    assert [name for name, _ in run_files.paths(folder) if not run_files.ours(f"checkpoints/{name}")] == []
    checkpoints.sweep(folder, 1)
    assert [path.name for path in folder.iterdir()] == ["best"]
    np.testing.assert_array_equal(checkpoints.load(folder / "best", "agent", {"w": np.zeros(3, int)})["w"], 2)


# The commands


def test_an_agent_is_loaded_from_the_last_checkpoint_the_best_or_that_of_a_step(run, capsys):
    best = checkpoints.read_meta(run / "checkpoints/best")["steps"]
    assert sharedq.load(run, 1, checkpoint="best").step == best[1]
    assert sharedq.load(run).step == sharedq.load(run, checkpoint=6_000).step == 6_000
    words = ["evaluate", str(run), "--episodes", "2", "--checkpoint"]
    assert main([*words, "best"]) == 0
    assert f"seed 0 at step {best[0]:,} of 6,000: mean return" in capsys.readouterr().out
    assert main([*words, "6000"]) == 0
    assert "seed 1: mean return" in capsys.readouterr().out
    assert main([*words, "5000"]) == 2
    assert "has no checkpoint '5000': choose from last, best, 6000" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints/best")
    with pytest.raises(SharedqError, match=r"choose from last, 6000; a run keeps .* with --training.evaluation_period"):
        sharedq.load(run, checkpoint="best")


def test_verify_looks_at_the_best_agent_too(run, capsys):
    assert run_files.stranger(run) is None
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert {"evaluations.csv: whole", "checkpoints/best/agent.safetensors: whole"} <= set(said)
    agent = run / "checkpoints/best/agent.safetensors"
    agent.write_bytes(agent.read_bytes()[:-1] + b"\0\0")
    assert main(["verify", str(run)]) == 2
    assert "checkpoints/best/agent.safetensors: NOT WHOLE" in capsys.readouterr().out
    with pytest.raises(SharedqError, match=r"remove .*/best, and the best agent is the best of those"):
        sharedq.load(run, checkpoint="best")
    shutil.rmtree(agent.parent)
    assert main(["verify", str(run)]) == 2
    assert "checkpoints: NOT WHOLE: the best agent" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_say_how_long_the_evaluations_were_is_refused(run):
    (run / "finished.json").unlink()
    path = run / "checkpoints/000000006000"
    manifest = json.loads((path / "checkpoint.json").read_text())
    del manifest["meta"]["offsets"]["evaluations.csv"], manifest["sha256"]
    (path / "checkpoint.json").write_bytes(checkpoints.sealed(manifest))
    with pytest.raises(SharedqError, match=r"does not say how long evaluations.csv was"):
        resume(run)


# Settings


@pytest.mark.parametrize("training", [Fused, Interactive, Streaming])
def test_without_a_period_nothing_is_evaluated(training):
    assert training().evaluation_period is None
    assert Fused().evaluation_steps == []


@pytest.mark.parametrize(("period", "change"), [(-1, "raise it to"), (0, "raise it to"), (6_001, "raise --steps")])
def test_a_period_that_cannot_be_is_told_with_what_to_change(period, change):
    told = rf"must be none or from \d+ to 6,000, not {period:,}: .*{change}"
    with pytest.raises(SharedqError, match=rf"\Atraining.evaluation_period {told}"):
        EXPERIMENT.replace(**{"training.evaluation_period": period})


def test_rows_of_the_log_are_at_most_an_evaluation_period_apart():
    def training(**options):
        return Fused(**{"steps": 6_000, "warm_up": 0, "log_period": 6_000} | options)

    assert training().log_steps == [6_000]
    often = training(evaluation_period=2_000)
    assert often.log_steps == often.evaluation_steps == [2_000, 4_000, 6_000]
    uneven = training(evaluation_period=2_001)  # no multiple of the cycle of 8 steps
    assert uneven.log_steps == uneven.evaluation_steps == [2_008, 4_016, 6_000]
    whole = training(steps=10, evaluation_period=10)
    assert whole.log_steps == whole.evaluation_steps == [16]
    each = training(steps=80, evaluation_period=8)
    assert each.evaluation_steps == list(range(8, 81, 8))
    rare = training(log_period=2_000, evaluation_period=3_000)
    assert (rare.log_steps, rare.evaluation_steps) == ([2_000, 4_000, 6_000], [4_000, 6_000])


def test_a_period_that_nobody_gave_becomes_as_short_as_the_run():
    assert EXPERIMENT.parse({"steps": "5e2"}).training.evaluation_period == 500
    assert EXPERIMENT.replace(steps=500, training="interactive").training.evaluation_period == 500
    assert EXPERIMENT.replace(steps=1_500).training.evaluation_period == 1_000
    with pytest.raises(SharedqError, match=r"not 1,000: lower it, or raise --steps, which is 500"):
        EXPERIMENT.parse({"steps": "500", "evaluation_period": "1000"})


@pytest.mark.parametrize("episodes", [0, 10_001])
def test_episodes_are_at_least_one_and_not_too_many(episodes):
    with pytest.raises(SharedqError, match=r"training.evaluation_episodes (must be at least 1|can be 10,000 at most)"):
        EXPERIMENT.replace(**{"training.evaluation_episodes": episodes})
