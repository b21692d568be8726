"""The command `sharedq data` from end to end: data are collected, converted, shown, counted and checked."""

import functools
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import jax
import numpy as np
import pytest
import test_replay
from hypothesis import given, settings
from hypothesis import strategies as st
from test_frame_stacks import ANY_ENDS, CAPACITY, DEPTH, ENVIRONMENTS, GAMMA, ROOM, ROWS, STEP, compiled, filled, played

import sharedq as library
from sharedq import collecting, data_command, kept_replay
from sharedq.command_line import main
from sharedq.datasets.contents import ActionsAndRewards, Contents, parts_of_store
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description, Manifest
from sharedq.datasets.reader import Found
from sharedq.datasets.readers import READERS
from sharedq.datasets.store import FILES, HEADER, Store
from sharedq.datasets.writing import StoreWriter, alone
from sharedq.environments import Environment, Gymnasium, Outcome
from sharedq.environments.spec import Continuous, Discrete, EnvironmentSpec
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.output import bar
from sharedq.recipes import RECIPES
from sharedq.replay import FrameStacks, Transitions
from sharedq.runs import RunDirectory, checkpoints
from sharedq.training import Interactive

SMALL = ("corridor", "--steps", "4000", "--seeds", "2", "--training.checkpoint_period", "2000")


@dataclass(frozen=True)
class Lines:
    """A text with a line of rewards for each episode."""

    path: str
    environment: str  # the name of the environment
    actions: int = 2  # how many actions there are
    bounds: tuple[float, ...] | None = None  # the lowest and the highest reward

    fails_at: ClassVar[int | None] = None  # the episode at which reading is broken off
    error: ClassVar[BaseException] = KeyboardInterrupt()

    @staticmethod
    def recognises(path: str) -> bool:
        return path.endswith(".lines")

    def describe(self) -> Description:
        spec = EnvironmentSpec(self.environment, jax.ShapeDtypeStruct((2,), np.float32), Discrete(self.actions))
        notes = (f"rewards from {self.bounds[0]:g} to {self.bounds[1]:g}",) if self.bounds else ()
        return Description(f"lines:{self.path}", "lines", spec, rewards="unknown", notes=notes)

    def files(self) -> list[Path]:
        return [Path(self.path)]

    def count(self) -> int | None:
        return None

    def episodes(self, start: int = 0):
        for number, line in enumerate(Path(self.path).read_text().splitlines()):
            if number < start:
                continue
            if number == self.fails_at:
                raise self.error
            reward = np.array(line.split(), np.float32)
            time = np.arange(len(reward) + 1)
            obs = np.stack([time, np.sin(time)], axis=1).astype(np.float32)
            action = (time[:-1] % 3).astype(np.int32)
            yield Found(Episode(obs, action, reward, End(number % 3)), f"{self.path}, episode {number}")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(READERS, "lines", Lines)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    lines = [" ".join(str(number + step) for step in range(number + 1)) for number in range(8)]
    (tmp_path / "some.lines").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def refused(sharedq, here):
    """Runs a command that is a mistake: one line, exit code 2, nothing written. Returns the line."""

    def run(*words) -> str:
        before = sorted(here.rglob("*"))
        answer = sharedq(*words)
        assert answer.code == 2, answer
        assert re.fullmatch(r"sharedq: [^\n]+\n", answer.err), answer.err
        assert answer.out == ""
        kept = here / ".data.unfinished"  # what was read before an error of the source
        told = f"{kept.name} keeps the" in answer.err
        assert [path for path in sorted(here.rglob("*")) if not told or kept not in (path, *path.parents)] == before
        return answer.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of runs that ended; to be linked to, not changed."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *SMALL, "--training.keep_replay", "true", "--out", str(folder / "kept")]) == 0
    assert main(["train", *SMALL, "--training.evaluation_period", "2000", "--out", str(folder / "first")]) == 0
    other = ("--environment.name", "discounting", "--steps", "400")
    assert main(["train", "corridor", *other, "--out", str(folder / "other")]) == 0
    return folder


@pytest.fixture
def runs(here, trained) -> Path:
    shutil.copytree(trained, here / "runs")
    return here / "runs"


def collected(out: Path, **options) -> Store:
    options = {"agents": ["random"], "steps": 700, "environment": "cartpole"} | options
    return library.collect(out, **options)


# Collecting


def test_a_mixture_is_collected_shown_counted_and_found_valid(sharedq, here, runs):
    agents = ("runs/first", "runs/first@best", "random")
    answer = sharedq("data", "collect", "mixed", "--from", *agents, "--steps", "1e3", "--shares", 0.5, 0.3, 0.2)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("data set: mixed, 1,000 steps in ")
    assert sorted(path.name for path in here.iterdir()) == ["mixed", "runs", "some.lines"]

    store = library.open_data("mixed")
    assert [steps_of(store, group) for group in range(3)] == [500, 300, 200]
    at = checkpoints.all_steps(RunDirectory.open(runs / "first").checkpoints)[-1]
    assert store.description.source.startswith(f"sharedq data collect --from runs/first@{at} runs/first@best random")
    assert store.description.behaviour.startswith(f"a mixture of 50% the agent of first at step {at:,}, 30% ")
    assert store.description.environment == {"kind": "probe", "name": "corridor"}

    shown = sharedq("data", "inspect", "mixed").out
    for text in ("probe/corridor (name=corridor)", "float32[4]", "2 discrete", "1,000 in", "3 groups", "raw"):
        assert text in shown
    assert "warning" not in shown
    counted = json.loads(sharedq("data", "stats", "mixed", "--json").out)
    assert counted["steps"] == 1000 and sum(counted["actions"]["counts"].values()) == 1000
    assert [one["steps"] for one in counted["groups"]] == [500, 300, 200]
    assert counted["returns"]["mean"] == pytest.approx(store.returns.mean())
    assert "share" in sharedq("data", "stats", "mixed").out
    assert sharedq("data", "validate", "mixed").out.endswith(f"valid: 1,000 steps in {len(store.episodes)} episodes\n")


def steps_of(store: Store, group: int) -> int:
    return int(store.episodes["length"][store.episodes["group"] == group].sum())


def test_only_the_last_episode_of_an_agent_is_cut(here, runs):
    store = library.collect("data", agents=["runs/first", "random"], steps=601, seed=4)
    assert [steps_of(store, group) for group in range(2)] == [300, 301]
    for group in range(2):
        mine = store.episodes[store.episodes["group"] == group]
        assert set(mine["end"][:-1].tolist()) == {End.TERMINATED}
    for episode in store:  # the corridor: its last cell is seen again after the end
        cell = episode.obs.argmax(axis=1)
        assert np.array_equal(cell[1:], np.minimum(cell[:-1] + episode.action, 3))
        assert np.array_equal(episode.reward, (cell[:-1] + episode.action == 4).astype(np.float32))
        assert cell[0] == 0
        assert (episode.end == End.TERMINATED) == (episode.reward[-1] == 1)


def test_the_same_seed_collects_the_same_data_and_another_seed_others(here):
    first, again = collected(here / "first"), collected(here / "again")
    assert first.manifest.content == again.manifest.content
    assert collected(here / "other", seed=1).manifest.content != first.manifest.content
    assert not np.array_equal(first.episode(0).obs[0], first.episode(1).obs[0])


@pytest.mark.parametrize("environment", ["cartpole", "lunar-lander:id=CartPole-v1"])
def test_collected_steps_follow_the_dynamics_on_device_and_host(here, environment):
    store = collected(here / "data", environment=environment)
    world = gymnasium.make("CartPole-v1").unwrapped
    for episode in store:
        for step in range(len(episode.reward)):
            world.reset()
            world.state = episode.obs[step].astype(np.float64)
            obs, _, terminated, _, _ = world.step(int(episode.action[step]))
            np.testing.assert_allclose(obs, episode.obs[step + 1], rtol=1e-4, atol=1e-5)
            assert terminated == (episode.end == End.TERMINATED and step == len(episode.reward) - 1)


def test_epsilon_makes_that_share_of_the_actions_random(here, runs):
    greedy = library.collect(here / "greedy", agents=["runs/first"], steps=2000)
    noisy = library.collect(here / "noisy", agents=["runs/first"], steps=2000, epsilon=0.5)
    right = [np.asarray(store.actions).mean() for store in (greedy, noisy)]
    assert right[0] == 1  # the corridor's best action
    assert abs(right[1] - 0.75) < 0.05
    assert noisy.description.behaviour.endswith("of the agents' actions 50.0% are random")


def test_noise_on_continuous_actions_has_that_deviation_and_stays_within_the_bounds():
    actions = Continuous(np.zeros(2, np.float32), np.ones(2, np.float32))
    choose = collecting._disturbed(lambda state, key, obs: np.zeros((len(obs), 2), np.float32), actions, 0.3)
    chosen = np.asarray(choose((), jax.random.key(0), np.zeros((5000, 1))))
    assert abs(chosen.std() - 0.3) < 0.01 and np.abs(chosen).max() <= 1


def test_long_episodes_are_not_left_out_because_short_ones_end_first():
    """Two worlds, one with episodes of one step and one with episodes of five: they are taken in turns."""
    tracks = [collecting._Track(), collecting._Track()]
    for time in range(20):
        for place, length in enumerate((1, 5)):
            flag = np.array([time % length == length - 1])
            one = np.full((1, 1), time, np.float32)
            tracks[place].add(collecting.Block(one, one[0], one[0], flag, ~flag & False, one))
    taken = [tracks[turn % 2].next(most=1000) for turn in range(9)]
    assert [None if one is None else len(one.reward) for one in taken] == [1, 5, 1, 5, 1, 5, 1, 5, 1]
    assert taken[3].obs[:, 0].tolist() == [5, 6, 7, 8, 9, 9]
    assert tracks[1].next(1000) is None
    cut = tracks[0].next(1)
    assert (len(cut.reward), cut.end) == (1, End.TERMINATED)


def test_worlds_that_are_far_ahead_do_not_fill_the_memory(here, monkeypatch):
    monkeypatch.setattr(collecting, "HELD_BYTES", 50)
    with pytest.raises(SharedqError, match=r"steps of 2 worlds side by side take .* collect fewer steps at once"):
        collected(here / "data", steps=512)
    monkeypatch.setattr(collecting, "HELD_BYTES", 2 * 128 * 24)
    assert collected(here / "data", steps=512).manifest.steps == 512


def test_what_was_taken_is_not_held():
    track, flag = collecting._Track(), np.array([False, True, False])
    three = np.zeros((3, 1), np.float32)
    track.add(collecting.Block(three, three[:, 0], three[:, 0], flag, ~flag & False, three))
    assert track.held == 3
    assert len(track.next(1).reward) == 1
    assert track.held == 1


def test_an_episode_without_an_end_is_cut_once_it_is_long_enough():
    track, no = collecting._Track(), np.zeros(1, bool)
    for time in range(4):
        one = np.full((1, 1), time, np.float32)
        track.add(collecting.Block(one, one[0], one[0], no, no, one + 1))
    assert track.next(5) is None
    episode = track.next(3)
    assert (episode.obs[:, 0].tolist(), episode.end) == ([0, 1, 2, 3], End.TRUNCATED)


def test_a_collection_does_not_go_on_with_another_checkpoint(here, runs, monkeypatch):
    def collect():
        return library.collect(here / "data", [runs / "kept", "random"], 200)

    add = StoreWriter.add

    def killed(writer, episode, where):
        if writer.episodes_written == 1:
            raise KeyboardInterrupt
        add(writer, episode, where)

    monkeypatch.setattr(StoreWriter, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        collect()
    monkeypatch.setattr(StoreWriter, "add", add)
    sealed = RunDirectory.open(runs / "kept").checkpoint() / "checkpoint.json"
    before = sealed.stat().st_mtime_ns
    os.utime(sealed, ns=(0, 0))
    with pytest.raises(SharedqError, match=r"checkpoint\.json was changed since .*: remove .*\.data\.unfinished"):
        collect()
    os.utime(sealed, ns=(0, before))
    assert collect().manifest.steps == 200


@pytest.mark.parametrize("stop_at", [1, 9])
def test_a_collection_that_was_killed_goes_on_and_equals_an_unbroken_one(here, monkeypatch, stop_at):
    whole = collected(here / "whole")
    add = StoreWriter.add

    def killed(writer, episode, where):
        if writer.episodes_written == stop_at:
            raise KeyboardInterrupt
        add(writer, episode, where)

    monkeypatch.setattr(StoreWriter, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        collected(here / "data")
    assert not (here / "data").exists() and (here / ".data.unfinished").is_dir()
    monkeypatch.setattr(StoreWriter, "add", add)
    with pytest.raises(SharedqError, match="unfinished part of other data"):
        collected(here / "data", seed=3)
    store = collected(here / "data")
    assert not (here / ".data.unfinished").exists()
    for name in FILES:
        assert (here / "data" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert store.manifest.content == whole.manifest.content


def test_stacks_of_frames_are_kept_as_single_frames(here, monkeypatch):
    """Blocks that the two kinds of worlds give; the whole way with Atari is in its own tests."""
    monkeypatch.setattr(collecting, "BLOCK", 6)
    spec = EnvironmentSpec("frames", jax.ShapeDtypeStruct((2, 2, 3), np.uint8), Discrete(2), "black")
    player = collecting.Player("random", "", collecting._random(spec.actions), ())

    def reset(key):
        return np.int32(1), jax.numpy.zeros((2, 2, 3), np.uint8).at[..., -1].set(1)

    def step(key, time, action):
        time = time + 1
        obs = jax.numpy.stack([jax.numpy.full((2, 2), x.clip(0), np.uint8) for x in (time - 2, time - 1, time)], -1)
        over = time == 4
        return time, Outcome(obs, np.float32(1), over, np.bool_(False), obs)

    world = Environment(spec, reset, step)
    assert collecting.depth_of(spec) == 3
    episodes = list(collecting._episodes(world, player, 0, 8))
    assert [episode.obs[:, 0, 0].tolist() for episode in episodes] == [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3]]
    assert [episode.end for episode in episodes] == [End.TERMINATED, End.TERMINATED, End.TRUNCATED]


MISTAKES = {
    "collect data --from random --steps 10": "name a recipe, an experiment.json or the folder of a run with --in",
    "collect data --from nowhere --steps 10": "there is no folder",
    "collect data --from runs/first@77 --steps 10": "no checkpoint '77': choose from",
    "collect data --from runs/first --in cartpole --steps 10": "leave out --in",
    "collect data --from runs/first random --steps 1": "1 steps are too few for these shares",
    "collect data --from runs/first --steps 0": "steps must be at least 1, not 0",
    "collect data --from runs/first --steps x": "steps takes a whole number, not 'x'",
    "collect data --from runs/first random --steps 10 --shares 1 0": "a share must be above 0, not 0",
    "collect data --from runs/first --steps 10 --shares 0.5 0.5": "there are 1 agents and 2 shares",
    "collect data --from runs/first --steps 10 --epsilon 2": "epsilon goes from 0 to 1, not 2",
    "collect data --from random --in cartpol --steps 10": "unknown recipe 'cartpol'",
    "collect data --from random --in cartpole:lr=1 --steps 10": "sets more than the environment",
    "collect runs --from runs/first --steps 10": "runs exists already",
    "collect data --from runs/first runs/other --steps 10": "runs/other was trained in another environment",
    "collect data --from runs/first --steps 10 --frob 1": "sharedq data collect has no option --frob",
    "collect data --steps 10": "--from (see sharedq data collect --help)",
    "collect data --from random --in recorded_run --steps 10": "in an environment of your own: --in lunar-lander:id=",
    "collect data --from random --in runs/nowhere --steps 10": "there is no folder",
    "collect data --from random --in nowhere.json --steps 10": "name a recipe or the experiment.json of a run",
    "convert nothing.lines data": "there is no nothing.lines",
    "convert line:some.lines data": "unknown format 'line': did you mean lines",
    "convert lines: data": "write lines:PATH",
    "convert minari:mine/none-v0 data": "get it with 'minari download mine/none-v0'",
    "convert mine/none-v0 data": "there is no mine/none-v0: give a file or a folder, or FORMAT:NAME",
    "convert d4rl:none.hdf5 data": "there is no file none.hdf5",
    "convert d3rlpy:none.h5 data": "there is no file none.h5",
    "convert numpy:none.npz data": "cannot read none.npz",
    "convert dqn_replay:none data": "cannot read none",
    "convert rlu:none data": "cannot read none",
    "convert runs data": "the format of runs is not known",
    "convert some.lines data": "the format 'lines' needs --environment: the name of the environment",
    "convert some.lines data --environment x --action 3": "unknown option of the format 'lines' '--action'",
    "convert some.lines data --environment x --actions many": "--actions takes a whole number, not 'many'",
    "convert some.lines runs --environment x --actions 3": "runs exists already",
    "convert some.lines data --environment x": "some.lines, episode 2, step 2: the action 2 lies outside 0 .. 1",
    "convert some.lines minari:a/b-v0 --environment x": "only a data set of this program can go to Minari",
    "convert run:runs/first data": "did not keep its replay at its end: train with --training.keep_replay true",
    "convert run:runs/kept data --seed 5": "has no seed 5: choose from 0, 1",
    "convert run:nowhere data": "there is no folder",
    "inspect nothing": "there is no nothing",
    "stats some.lines --environment x": "some.lines, episode 2, step 2: the action 2 lies outside 0 .. 1",
    "stats runs": "the format of runs is not known",
    "validate some.lines --environment x": "some.lines, episode 2, step 2: the action 2 lies outside 0 .. 1",
    "": "COMMAND",
    "frob": "invalid choice: 'frob'",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_line_and_nothing_is_written(refused, runs, command):
    assert MISTAKES[command] in refused("data", *command.split())


GRID = """
import gymnasium
import numpy as np

class Grid(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(1, self.time / 4, np.float32), 1.0, self.time == 4, False, {}
"""


def test_random_agents_play_in_an_environment_of_ones_own(sharedq, here, monkeypatch):
    (here / "grid_env.py").write_text(GRID)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "grid_env", raising=False)
    by_command = (
        "data",
        "collect",
        "typed",
        "--from",
        "random",
        "--steps",
        20,
        "--in",
        "lunar-lander:id=grid_env:Grid",
    )
    assert sharedq(*by_command).code == 0
    import grid_env

    typed, given = library.open_data("typed"), Gymnasium(grid_env.Grid)
    experiment = RECIPES["lunar-lander"].experiment.replace(environment=given)
    described = {"schema": 1, "experiment": experiment.to_dict()}
    (here / "experiment.json").write_text(json.dumps(described))
    for name, one in (("settings", given), ("experiment", experiment)):
        assert library.collect(name, ["random"], 20, environment=one).manifest.content == typed.manifest.content
    words = ("data", "collect", "file", "--from", "random", "--steps", 20, "--in", "experiment.json")
    assert "add --trust" in sharedq(*words).err
    assert sharedq(*words, "--trust").code == 0
    assert library.open_data("file").manifest.content == typed.manifest.content
    with pytest.raises(SharedqError, match="only describes recorded data and cannot be played in: name a recipe"):
        library.collect("none", ["random"], 20, environment=experiment.replace(environment="recorded"))


def test_random_agents_play_in_the_environment_of_a_run(runs):
    store = library.collect("data", ["random"], 20, environment=runs / "other")
    assert store.description.environment["name"] == "discounting"
    assert library.collect("same", ["random"], 20, environment="runs/other").manifest.content == store.manifest.content


def test_a_store_says_what_it_is_and_which_episodes_it_has(here):
    store = collected(here / "data", environment="lunar-lander:id=CartPole-v1", steps=100)
    assert repr(store) == f"Store({str(here / 'data')!r}, 100 steps in {len(store):,} episodes)"
    assert len(store) == store.manifest.episodes == len(list(store))
    np.testing.assert_array_equal(store.episode(-1).obs, list(store)[-1].obs)
    for number in (9999, len(store), -len(store) - 1):
        with pytest.raises(IndexError, match=f"has no episode {number}: it has {len(store)}, from 0 to"):
            store.episode(number)


def test_an_agent_says_what_it_is(runs):
    agent = library.load("runs/other")
    assert repr(agent).startswith("Agent(dqn, ")
    assert repr(agent).endswith(f", in {agent.built.spec.name}, seed 0, step 400)")


def test_a_damaged_small_set_tells_the_file_and_the_bytes(here):
    store = collected(here / "data", steps=100)
    (here / "data" / "rewards.npy").write_bytes(b"x" * (256 + 4 * 100))
    with pytest.raises(
        SharedqError,
        match=r"rewards\.npy was changed or damaged within its bytes 0 to 655, which are "
        r"all of them, between episode 0, step 0 and",
    ):
        store.check()


# Converting


def test_a_source_becomes_a_data_set_with_options_of_its_format(sharedq, here):
    words = ("--environment", "mine", "--actions", "3", "--bounds", "-1", "2.5")
    answer = sharedq("data", "convert", "some.lines", "data", *words)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == "data set: data, 36 steps in 8 episodes"
    assert "warning: the data do not tell whether 3 of 8 episodes ended by themselves" in answer.out
    store = library.open_data("data")
    assert store.description.spec.name == "mine" and store.description.notes == ("rewards from -1 to 2.5",)
    same = library.convert("lines:some.lines", here / "same", environment="mine", actions=3, bounds=(-1, 2.5))
    assert store.manifest.content == same.manifest.content
    for name in ("inspect", "stats"):  # the source tells what the data set tells
        ours, theirs = (sharedq("data", name, *which).out for which in (("data",), ("some.lines", *words)))
        kept = [line for line in ours.splitlines() if not line.startswith(("size", "content", "made"))]
        assert theirs.splitlines() == kept
    checked = sharedq("data", "validate", "lines:some.lines", *words)
    assert checked == sharedq("data", "validate", "data")._replace(out=checked.out)
    assert checked.out.endswith("valid: 36 steps in 8 episodes\n")
    assert "remark: the data do not tell a termination from a time limit in 3 episodes" in checked.out
    assert "is a data set of this program already" in sharedq("data", "convert", "data", "more").err
    assert "leave it out" in sharedq("data", "inspect", "data", "--actions", "3").err


def test_a_conversion_that_was_killed_goes_on_where_it_was(here, monkeypatch):
    whole = library.convert("some.lines", here / "whole", environment="mine", actions=3)
    monkeypatch.setattr(Lines, "fails_at", 5)
    with pytest.raises(KeyboardInterrupt):
        library.convert("some.lines", here / "data", environment="mine", actions=3)
    assert not (here / "data").exists() and (here / ".data.unfinished").is_dir()
    asked, episodes = [], Lines.episodes
    monkeypatch.setattr(Lines, "fails_at", None)
    monkeypatch.setattr(Lines, "episodes", lambda self, start=0: asked.append(start) or episodes(self, start))
    store = library.convert("some.lines", here / "data", environment="mine", actions=3)
    assert asked == [5]
    assert store.manifest.content == whole.manifest.content


def test_data_of_which_nothing_can_be_read_leave_nothing(here, monkeypatch):
    monkeypatch.setattr(Lines, "fails_at", 0)
    monkeypatch.setattr(Lines, "error", SharedqError("some.lines, episode 0 is broken"))
    with pytest.raises(SharedqError, match=r"episode 0 is broken$"):
        library.convert("some.lines", here / "data", environment="mine", actions=3)
    assert [path.name for path in here.iterdir()] == ["some.lines"]


def test_an_error_of_the_source_keeps_the_episodes_before_it(here, monkeypatch):
    whole = library.convert("some.lines", here / "whole", environment="mine", actions=3)
    monkeypatch.setattr(Lines, "fails_at", 5)
    monkeypatch.setattr(Lines, "error", SharedqError("some.lines, episode 5 is broken"))
    told = r"episode 5 is broken; .*\.data\.unfinished keeps the 5 episodes before it, and the same command goes on"
    for _ in range(2):  # going on without a mend keeps them too
        with pytest.raises(SharedqError, match=told):
            library.convert("some.lines", here / "data", environment="mine", actions=3)
        assert not (here / "data").exists()
    monkeypatch.setattr(Lines, "fails_at", None)
    store = library.convert("some.lines", here / "data", environment="mine", actions=3)
    assert store.manifest.content == whole.manifest.content


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_conversion_does_not_go_on_with_another_source(here, monkeypatch, change):
    monkeypatch.setattr(Lines, "fails_at", 5)
    with pytest.raises(KeyboardInterrupt):
        library.convert("some.lines", here / "data", environment="mine", actions=3)
    monkeypatch.setattr(Lines, "fails_at", None)
    source = here / "some.lines"
    if change == "size":
        before = source.stat()
        source.write_text("1\n" + source.read_text())
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    with pytest.raises(SharedqError, match=r"some.lines was changed since .*: remove .*\.data\.unfinished"):
        library.convert("some.lines", here / "data", environment="mine", actions=3)
    shutil.rmtree(here / ".data.unfinished")
    library.convert("some.lines", here / "data", environment="mine", actions=3)


class Interrupted:
    """A file that is interrupted at the given call of its methods, after it has done a part of a write."""

    left = None

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        found = getattr(self._file, name)
        return self._counted(name, found) if name in ("write", "read", "truncate") else found

    def _counted(self, name, method):
        def call(*given):
            cls = type(self)
            if cls.left is not None:
                cls.left -= 1
                if cls.left < 0:
                    cls.left = None
                    if name == "write":
                        method(given[0][: len(given[0]) // 2])
                    raise KeyboardInterrupt
            return method(*given)

        return call


@pytest.mark.parametrize("at", [*range(12), *range(12, 34, 2)])
def test_an_interrupt_anywhere_in_writing_is_recovered_from(here, monkeypatch, at):
    """At each write of an episode, at each header, and while the files are hashed."""
    whole = library.convert("some.lines", here / "whole", environment="mine", actions=3)
    opened = StoreWriter._open

    def watched(writer):
        opened(writer)
        writer._files = {name: Interrupted(file) for name, file in writer._files.items()}

    monkeypatch.setattr(StoreWriter, "_open", watched)
    episodes = Lines("some.lines", "mine", 3).episodes

    def go():
        with StoreWriter("data", whole.description, [Path("some.lines")]) as writer:
            for number, found in enumerate(episodes(writer.episodes_written), writer.episodes_written):
                Interrupted.left = at if number == 7 and go.first and at < 4 else Interrupted.left
                writer.add(found.episode, found.where)
            Interrupted.left = at - 4 if go.first and at >= 4 else None
            go.first = False
            return writer.finish()

    go.first, interrupted = True, False
    try:
        go()
    except KeyboardInterrupt:
        interrupted, go.first, Interrupted.left = True, False, None
        assert not (here / "data").exists()
        go()
    assert interrupted or at > 20
    Interrupted.left = None
    store = library.open_data("data")
    assert sorted(path.name for path in store.path.iterdir()) == sorted([*FILES, "manifest.json"])
    for name in FILES:
        assert (here / "data" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert store.manifest.content == whole.manifest.content


@pytest.mark.parametrize(("kind", "at"), [(Manifest, "write"), (Path, "rename"), (Path, "unlink")])
@pytest.mark.parametrize("done", [False, True])
def test_an_interrupt_at_the_end_of_finish_is_recovered_from(here, monkeypatch, kind, at, done):
    whole = library.convert("some.lines", here / "whole", environment="mine", actions=3)
    call = getattr(kind, at)

    def interrupted(self, *given, **named):
        if at == "unlink" and self.name != "progress.json":
            return call(self, *given, **named)
        if done:
            call(self, *given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(kind, at, interrupted)
        with pytest.raises(KeyboardInterrupt):
            library.convert("some.lines", here / "data", environment="mine", actions=3)
    if not (here / "data").exists():
        library.convert("some.lines", here / "data", environment="mine", actions=3)
    store = library.open_data("data")
    store.check()
    assert store.manifest.content == whole.manifest.content


def test_only_one_process_writes_a_data_set(sharedq, refused, here):
    words = ("data", "convert", "some.lines", "data", "--environment", "mine", "--actions", "3")
    (here / ".data.lock").touch()  # a process that was killed leaves it, and nobody holds it
    with StoreWriter("data", Lines("some.lines", "mine", 3).describe()):
        assert "another process is writing data: wait until it has ended" in refused(*words)
    assert not (here / ".data.lock").exists()
    assert sharedq(*words).code == 0
    with alone(here / "minari/mine/lines-v0"):
        assert "another process is writing" in refused("data", "convert", "data", "minari:mine/lines-v0")


def test_plain_arrays_become_a_data_set(sharedq, here):
    flags = np.isin(np.arange(9), [3, 8])
    np.savez("data.npz", observations=np.ones((9, 2)), actions=np.arange(9) % 2, rewards=np.ones(9), terminated=flags)
    for source, out in (("numpy:data.npz", "named"), ("data.npz", "recognised")):
        assert sharedq("data", "convert", source, out, "--environment", "mine").out.startswith(f"data set: {out}, 9 st")
        store = library.open_data(out)
        store.check()
        assert (len(store.episodes), store.description.spec.name) == (2, "mine")


def test_a_path_that_two_formats_recognise_needs_the_format(refused, monkeypatch):
    monkeypatch.setitem(READERS, "rows", Lines)
    assert "write lines:some.lines or rows:some.lines" in refused("data", "convert", "some.lines", "data")


def test_a_data_set_goes_to_minari_whole_and_under_its_name(sharedq, here, monkeypatch):
    store, given = collected(here / "data"), []
    exporter = SimpleNamespace(export=lambda store, name: given.append((store.manifest.content, name)))
    monkeypatch.setitem(sys.modules, "sharedq.datasets.minari_export", exporter)
    assert sharedq("data", "convert", "data", "minari:mine/carts-v0").out.startswith("data set: minari:mine/carts-v0, ")
    assert given == [(store.manifest.content, "mine/carts-v0")]
    exporter.export = lambda store, name, **options: given.append(options)
    sharedq("data", "convert", "data", "minari:mine/carts-v1", "--author", "A", "--email", "a@b.c", "--form", "arrow")
    assert given[1] == {"author": "A", "email": "a@b.c", "form": "arrow"}
    with pytest.raises(SharedqError, match="unknown option for writing to Minari '--autor': did you mean"):
        library.convert(store.path, "minari:mine/carts-v2", autor="A")


# The replay of a run


def test_a_kept_replay_becomes_a_data_set_group_by_group(sharedq, here, runs):
    assert sharedq("data", "convert", "runs/kept", "data").code == 0
    store = library.open_data("data")
    assert store.manifest.groups == 2 and store.manifest.steps == 2 * 1000
    assert store.description.environment == {"kind": "probe", "name": "corridor"}
    assert "begins in its middle" in store.description.notes[0]
    arrays = checkpoints.load_arrays(RunDirectory.open(runs / "kept").checkpoint(), "rest")
    kept, written = Store("data"), 4000 // 2
    for seed in range(2):
        mine = [episode for episode in kept if episode.group == seed]
        action, end = (arrays[f"replay/storage/ring/{name}"][seed] for name in ("action", "terminated"))
        ordered = [action[(time % 500) * 2 + world] for world in range(2) for time in range(written - 500, written)]
        assert np.concatenate([episode.action for episode in mine]).tolist() == ordered
        assert sum(episode.end == End.TERMINATED for episode in mine) == end.sum()
        for episode in mine:
            cell = episode.obs.argmax(axis=1)
            assert np.array_equal(cell[1:], np.minimum(cell[:-1] + episode.action, 3))
    one = library.convert("run:runs/kept", here / "one", seed=1)
    assert one.manifest.steps == 1000 and set(one.episodes["group"]) == {1}
    assert sharedq("data", "validate", "run:runs/kept").out.endswith("episodes\n")


class Frames(gymnasium.Env):
    """Stacks of two frames that count the steps of an episode, which is truncated after seven."""

    observation_space, action_space = gymnasium.spaces.Box(0, 255, (3, 3, 2), np.uint8), gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.time = 0
        return self.stack(), {}

    def stack(self):
        return np.stack([np.full((3, 3), time, np.uint8) for time in (self.time, self.time + 1)], axis=-1)

    def step(self, action):
        self.time += 1
        return self.stack(), float(action), False, self.time == 7, {}


def test_an_unfinished_run_with_frames_stored_once_is_a_source_too(here):
    experiment = Experiment(
        environment=Gymnasium(Frames, frame_stacks=True),
        network="dense",
        replay=FrameStacks(capacity=40, batch_size=4),
        training=Interactive(steps=200, environments=2, warm_up=20, log_period=20, reward_bound=0.5),
    )
    library.train(experiment, here / "run", callback=lambda step, metrics: step >= 100, progress=None)
    assert not (here / "run/finished.json").exists()
    store = library.convert("run:run", here / "data")
    assert store.description.stack == 2 and store.description.rewards == "clipped to -0.5 .. 0.5"
    assert "begins in its middle" in store.description.notes[0]
    assert store.description.notes[1].startswith("2 episodes begin in the middle of a game: in their first")
    assert store.manifest.steps == 40
    for episode in store:
        frames = episode.obs[:, 0, 0].astype(int)
        assert np.array_equal(np.diff(frames), np.ones(len(episode.reward)))
        assert np.array_equal(episode.reward, 0.5 * episode.action)
    # Each environment has made 50 steps, and its last 20 are kept: 30 .. 34, 35 .. 41, 42 .. 48 and 49.
    assert store.episodes["length"].tolist() == 2 * [5, 7, 7, 1]


def held(data, spec, replay_rows: int, written: int, capacity: int) -> kept_replay.Kept:
    experiment = SimpleNamespace(training=SimpleNamespace(environments=ENVIRONMENTS))
    arrays = {name: np.asarray(x)[None] for name, x in data.items()}
    return kept_replay.Kept(experiment, spec, 0, written - min(written, capacity), written, replay_rows, arrays)


STACKS = EnvironmentSpec("stacks", jax.ShapeDtypeStruct((2, 3, DEPTH), np.uint8), Discrete(1000), "black")


@settings(max_examples=30)
@given(ANY_ENDS, st.integers(3, 3 * ROWS + 5))
def test_frames_come_back_from_a_ring_as_they_were_played(ends, written):
    steps = played(ends)
    data = filled(compiled(1), steps, written).storage
    named = data.ring._asdict() | {"final_frames": data.final_frames, "truncated_so_far": data.truncated_so_far}
    kept = held(named, STACKS, ROWS + DEPTH, written, ROWS)
    truncated = [(t, w) for t in range(written) for w in range(ENVIRONMENTS) if steps.truncated[t, w]]
    check(kept, steps, written, lost=set(truncated[:-ROOM]))


@settings(max_examples=20)
@given(ANY_ENDS, st.integers(3, 3 * ROWS + 5))
def test_steps_come_back_from_a_uniform_ring_as_they_were_played(ends, written):
    steps = played(ends)
    data = filled(uniform(), steps, written).storage
    check(held(data["ring"]._asdict(), STACKS, ROWS, written, ROWS), steps, written, lost=set())


@functools.cache
def uniform():
    return test_replay.compiled(Transitions(CAPACITY, CAPACITY).build(STEP, GAMMA, ENVIRONMENTS))


def check(kept: kept_replay.Kept, steps, written: int, lost: set) -> None:
    """Every step that the replay can draw is in an episode, except those whose final frame is lost."""
    for world in range(ENVIRONMENTS):
        seen = []
        for piece in kept_replay._pieces_of(kept, 0, world):
            episode = kept_replay._episode(kept, piece)
            times, last = list(range(piece.begin, piece.stop)), piece.stop - 1
            seen += times
            assert episode.action.tolist() == [time * ENVIRONMENTS + world for time in times]
            assert np.array_equal(episode.reward, steps.reward[times, world])
            assert np.array_equal(episode.obs[:-1], steps.obs[times, world][..., -1])
            died = bool(steps.terminated[last, world])
            after = steps.obs[last, world] if died and kept.frames else steps.next_obs[last, world]
            assert np.array_equal(episode.obs[-1], after[..., -1])
            assert episode.end == (End.TERMINATED if died else End.TRUNCATED)
            ended = steps.terminated[times, world] | steps.truncated[times, world]
            assert not ended[:-1].any()
            begins = not steps.obs[piece.begin, world][..., :-1].any()
            assert kept_replay._begins_in_the_middle(kept, piece) == (not begins)
        oldest = max(0, written - ROWS)
        assert seen == [time for time in range(oldest, written) if (time, world) not in lost]


# Checking and counting


def test_a_damaged_data_set_is_refused_with_its_place(refused, here):
    store = collected(here / "data")
    path = here / "data/actions.npy"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    assert f"between episode 0, step 0 and episode {len(store.episodes) - 1}, step " in refused(
        "data", "validate", "data"
    )


THREE = Discrete(3)


@pytest.mark.parametrize(("name", "bytes_"), [("actions.npy", b"\7"), ("rewards.npy", b"\x00\x00\xc0\x7f")])
def test_damaged_numbers_are_not_counted(refused, here, name, bytes_):
    collected(here / "data")
    content = bytearray((here / "data" / name).read_bytes())
    content[HEADER : HEADER + len(bytes_)] = bytes_
    (here / "data" / name).write_bytes(content)
    for verb in ("inspect", "stats"):
        assert "changed or damaged: 'sharedq data validate' names the place" in refused("data", verb, "data")


def written(out: Path, episodes: list[Episode], actions=THREE) -> Store:
    spec = EnvironmentSpec("odd", jax.ShapeDtypeStruct((2,), np.float32), actions)
    with StoreWriter(out, Description("odd", "test", spec)) as writer:
        for number, episode in enumerate(episodes):
            writer.add(episode, f"episode {number}")
        return writer.finish()


def walked(steps: int, end=End.TERMINATED, group=0, reward=1.0) -> Episode:
    obs = np.cumsum(np.ones((steps + 1, 2), np.float32), axis=0)
    return Episode(obs, np.zeros(steps, np.int32), np.full(steps, reward, np.float32), end, group)


def test_what_looks_odd_is_remarked_and_still_valid(sharedq, here):
    jumps, still, short = walked(30), walked(30), walked(3)
    jumps.obs[17:] += 1000
    still.obs[:] = 5
    short.obs[:] = 5
    written(here / "odd", [walked(30), jumps, still, short, walked(20, End.UNKNOWN)])
    answer = sharedq("data", "validate", "odd")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "remark: the data do not tell a termination from a time limit in 1 episode (first: odd, episode 4)",
        "remark: the observation stays the same for long in 1 episode (first: odd, episode 2: 30 steps)",
        "remark: an observation changes 20 times as much as usual or more in 1 episode: is an end missing there? "
        "(first: odd, episode 1, step 16)",
        "valid: 113 steps in 5 episodes",
    ]


def test_statistics_hint_at_what_data_lack(here):
    store = written(here / "odd", [walked(200, reward=0.0), walked(200, reward=0.0), walked(2, group=1, reward=0.0)])
    contents = Contents(store.description, parts_of_store(store))
    assert contents.hints() == [
        "actions 1, 2 were never taken",
        "action 0 makes up 100.0% of the steps: the data tell little about the others",
        "every reward is 0, so there is nothing to learn",
        "all episodes have the same return, so none of them shows what is better",
        "group 1 makes up only 0.50% of the steps",
    ]
    assert contents.to_dict()["rewards"] == {"values": {"0": 402}}


def test_statistics_equal_those_of_all_numbers_at_once(here):
    draws, episodes = np.random.default_rng(0), []
    for length in (3, 40, 7):
        action = draws.uniform(-1, 1, (length, 2)).astype(np.float32)
        reward = draws.normal(size=length).astype(np.float32)
        obs = draws.normal(size=(length + 1, 2)).astype(np.float32)
        episodes.append(Episode(obs, action, reward, End.TRUNCATED))
    store = written(here / "data", episodes, Continuous(-np.ones(2), np.ones(2)))
    told = Contents(store.description, parts_of_store(store)).to_dict()
    actions, rewards = (np.concatenate([episode[place] for episode in episodes]) for place in (1, 2))
    np.testing.assert_allclose(told["actions"]["mean"], actions.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(told["actions"]["std"], actions.std(axis=0), atol=1e-6)
    np.testing.assert_allclose(told["actions"]["most"], actions.max(axis=0))
    assert sum(told["rewards"]["bins"].values()) == len(rewards)
    assert told["rewards"]["bins"]["up to 10"] == (rewards > 1).sum()
    assert told["returns"]["median"] == pytest.approx(np.median([episode.reward.sum() for episode in episodes]))
    assert "dimension 1" in "\n".join(Contents(store.description, parts_of_store(store)).lines())


# The command itself


@pytest.mark.parametrize("verb", data_command.VERBS)
def test_every_command_has_help_with_the_formats_where_it_reads_them(here, capsys, verb):
    with pytest.raises(SystemExit) as ended:
        main(["data", verb, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and f"usage: sharedq data {verb}" in out
    for text in ("run:PATH  The replay of a training run", "lines:PATH  A text", "--bounds number,... or none"):
        assert (text in out) == (verb not in ("collect", "wordle"))


def test_the_commands_are_completed(sharedq, runs):
    collected(runs.parent / "mixed", steps=20)
    for words, offered in {
        "da": ["data"],
        "data con": ["convert"],
        "data --": ["--help"],
        "data collect out --from ra": ["random"],
        "data collect out --from random ru": ["runs/"],
        "data collect out --from random --in mina": [name for name in RECIPES if name.startswith("mina")],
        "data collect --sh": ["--shares"],
        "data stats --j": ["--json"],
        "data inspect mi": ["mixed"],
        "data frob ": [],
    }.items():
        answer = sharedq("complete", "--", *words.split(" "))
        assert answer.out.splitlines() == offered, words


def test_a_bar_is_drawn_in_a_terminal_only(capsys, monkeypatch):
    with bar("converting x", "steps") as show:
        show(5, 10)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with bar("converting [x]\n", "steps") as show:
        show(5, None)
        show(10, 1000)
    out = capsys.readouterr().out
    assert "converting [x]" in out and "10 of 1,000 steps" in out


@pytest.mark.parametrize(("rewards", "score"), [("raw", 50.0), ("clipped to -1 .. 1", None)])
def test_the_mean_return_is_put_on_the_scale_of_the_scores(rewards, score):
    spec = EnvironmentSpec("x", jax.ShapeDtypeStruct((2,), np.float32), Discrete(2))
    known = Description("x", "arrays", spec, rewards=rewards, reference_scores=(-10.0, 30.0))
    parts = [
        ActionsAndRewards(np.zeros(2, np.int32), np.full(2, each, np.float32), int(End.TERMINATED), 0)
        for each in (2.5, 7.5)
    ]
    contents = Contents(known, parts)
    assert contents.to_dict().get("normalised_return") == score
    told = "mean normalised return 50.0 (0 is -10, 100 is 30)" in contents.lines()
    inspected = dict(data_command._table(known, contents, None))["scores"]
    assert told == inspected.endswith("; normalised mean 50.0") == (score is not None)
