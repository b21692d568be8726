"""The command line as people meet it: one line for every mistake, nothing written by it, and runs that repeat."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from types import SimpleNamespace

import numpy as np
import pytest

from sharedq.command_line import VERBS, main
from sharedq.completion import SCRIPTS
from sharedq.environments.sync_vector_env import SyncVectorEnv
from sharedq.errors import DeviceFailed, Diverged, Stopped, Unlearned
from sharedq.experiment import TABLES
from sharedq.recipes import RECIPES, recipe
from sharedq.runs import RunDirectory
from sharedq.settings import as_typed
from sharedq.targets import SOURCES, TargetNetwork
from sharedq.training import evaluators, loop, memory
from sharedq.training.progress import Bar

pytestmark = pytest.mark.usefixtures("hasty")

SMALL = ("corridor", "--steps", "4000", "--seeds", "2", "--seed", "3", "--training.checkpoint_period", "2000")
TIMINGS = ("steps_per_second", "seconds")

MY_ENVIRONMENT = """
import jax
import jax.numpy as jnp
from sharedq.environments import Discrete, Environment, EnvironmentSpec, Outcome

def world(width=3, reward=lambda time: 0.0, end=lambda time: time % 10 == 9):
    def reset(key):
        return jnp.int32(0), jnp.zeros(3)

    def step(key, time, action):
        seen = jnp.zeros(width)
        outcome = Outcome(seen, jnp.float32(reward(time)), jnp.bool_(end(time)), jnp.bool_(False), seen)
        return time + 1, outcome

    return Environment(EnvironmentSpec("mine", jax.ShapeDtypeStruct((3,), jnp.float32), Discrete(2)), reset, step)

def make():
    return world()

def too_narrow():
    return world(width=2)

def ends_in_nan():
    return world(reward=lambda time: jnp.where(time > 1500, jnp.nan, 1.0), end=lambda time: False)

number = 3

def calls_back():
    def fails(time):
        raise ZeroDivisionError("division by zero")

    return world(reward=lambda time: jax.pure_callback(fails, jax.ShapeDtypeStruct((), jnp.float32), time))

def breaks_down():
    import gymnasium
    import numpy as np

    class Breaks(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)
        steps = 0

        def reset(self, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.steps += 1
            return np.zeros(1, np.float32), np.nan if self.steps == 250 else 1.0, False, self.steps % 50 == 0, {}

    return Breaks()

def begins_in_nan():
    import numpy as np

    broken = breaks_down()
    broken.reset = lambda seed, options=None: (np.full(1, np.nan, np.float32), {})
    return broken
"""

MY_NETWORK = """
import flax.linen as nn

class Trunk(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(8)(x))

class Sized(nn.Module):
    width: int

class Images(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(x)[:, None]

class LargeBatches(nn.Module):
    @nn.compact
    def __call__(self, x):
        if len(x) > 1:
            raise ValueError("no more than one")
        return nn.Dense(8)(x)

class Wrong(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.mean()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in; importing from it leaves no trace in other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("my_environment", "my_network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def refused(sharedq, here):
    """Runs a command that is a mistake: one line, exit code 2, nothing written. Returns the line."""

    def run(*words) -> str:
        before = contents(here)
        answer = sharedq(*words)
        assert answer.code == 2
        assert re.fullmatch(r"sharedq: [^\n]+\n", answer.err), answer.err
        assert answer.out == ""
        assert contents(here) == before
        return answer.err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that ended; to be copied, not changed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", *SMALL, "--out", str(out)]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def helped(capsys, *words) -> list[str]:
    """What a command that asks for help prints."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def rows(path: Path) -> list[dict[str, str]]:
    """A table without the columns that measure time."""
    with path.open() as file:
        return [{name: x for name, x in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


MISTAKES = {
    "trian": ["unknown command 'trian'", "train"],  # codespell:ignore
    "--frob": ["--frob", "sharedq --help"],
    "train": ["RECIPE", "sharedq train --help"],
    "train cartpol": ["unknown recipe 'cartpol'", "cartpole"],
    "train gone.json": ["gone.json", "recipe"],
    "train gone.json --help": ["gone.json", "recipe"],
    "train cartpol --help": ["unknown recipe 'cartpol'", "cartpole"],
    "train corridor --target=shared_head --help": ["unknown target 'shared_head'", "shared_heads"],
    "train corridor extra": ["'extra'"],
    "train corridor --steps=5 extra": ["'extra'"],
    "train corridor --lr 1e-4 3e-4": [
        "--lr takes one value here, not 2: to train a run for each, write sharedq compare corridor --lr 1e-4 3e-4"
    ],
    "cost corridor --period 1 2": ["sharedq compare corridor --period 1 2"],
    "train corridor --head 5": ["unknown option '--head'"],
    "train corridor --lr 0": ["--lr must be above 0"],
    "train corridor --learning_rate x": ["--learning_rate takes a finite number, not 'x'"],
    "train corridor --lr 1 --learning_rate 2": ["algorithm.learning_rate is given twice, by two of its names"],
    "train corridor --target lookahead_replicate --learning_rate 1": [
        "--learning_rate can be --algorithm.learning_rate or --target.learning_rate: write it in full"
    ],
    "train corridor --network dense --hidden [64,x]": ["--hidden takes a whole number, not 'x'"],
    "compare corridor --lr 1e-4 1e-4": ["learning_rate 0.0001 would be trained twice: name each value once"],
    "compare corridor --lr 1e-4 0.0001": ["learning_rate 0.0001 would be trained twice: name each value once"],
    "compare corridor --lr 1e-4 -1": ["--lr must be above 0"],
    f"compare corridor --lr {' '.join('123456')} --period {' '.join(map(str, range(1, 18)))}": ["102 runs, and 100"],
    "compare corridor --seeds 2 3": ["--seeds takes one number: --seeds 3 trains three seeds side by side"],
    "train corridor --seed 1 2": ["--seed takes one number"],
    "compare corridor --target shared_heads online_network": ["write --targets shared_heads ..."],
    "compare corridor --target shared_heads --targets online_network --lr 1 2": ["write --targets shared_heads ..."],
    "completion fish": ["'fish'", "'bash', 'zsh'"],
    "train corridor --stepz 5": ["unknown option '--stepz'", "--steps"],
    "train corridor --training.stepz 5": ["no option 'stepz'", "steps"],
    "train corridor --overwrit": ["--overwrit", "sharedq train --help"],
    "train corridor --steps": ["--steps", "value"],
    "train corridor --steps --seeds 2": ["--steps", "value"],
    "train corridor --steps ten": ["--steps", "whole number", "'ten'"],
    "train corridor --steps 1.5": ["--steps", "whole number", "'1.5'"],
    "train corridor --steps 0": ["--steps", "at least 1"],
    "train corridor --steps 99999999999": ["--steps", "at most"],
    "train corridor --seeds 0": ["seeds must be at least 1, not 0"],
    "train corridor --seed -1": ["seed cannot be negative"],
    "train corridor --seed 99999999999": ["99999999999", "lower seed"],
    "train corridor --target shared_head": ["unknown target 'shared_head'", "shared_heads"],
    "train corridor --target.heads 3": ["target 'target_network' has no option 'heads'"],
    "train corridor --target online_network --target.heads 3": ["'online_network' has no option 'heads'"],
    "train corridor --target shared_heads --target.heads 0": ["target.heads must be at least 1, not 0"],
    "train corridor --target.period 0": ["target.period must be at least 1"],
    "train corridor --environment catpole": ["unknown environment 'catpole'", "cartpole"],
    "train corridor --environment.name coridor": ["unknown probe 'coridor'", "corridor"],
    "train minatar-breakout --game brekout": ["unknown MinAtar game 'brekout'", "breakout"],
    "train corridor --network densee": ["unknown network 'densee'", "dense"],
    "train corridor --network convolutional": ["network 'convolutional'", "probe/corridor", "(4,)"],
    "train corridor --algorithm.gamma 2": ["algorithm.gamma", "0 .. 1"],
    "train corridor --replay.batch_size 5000": ["replay.batch_size 5000", "replay.capacity 1000"],
    "train corridor --replay.capacity 100000000000": ["TB of memory", "is free: lower --replay.capacity"],
    "train corridor --wandb sometimes": ["'sometimes'", "offline"],
    "compare corridor --targets shared_head": ["unknown target 'shared_head'", "shared_heads"],
    "compare corridor --targets shared_heads:head=3": ["no option 'head'", "heads"],
    "train corridor --measures [nanm:N,rank]": ["no module 'nanm'"],
    "compare corridor --targets shared_heads:heads": ["is not written as name:option=value"],
    "compare corridor --targets target_network target_network": ["target network would be trained twice"],
    "compare corridor --target shared_heads": ["--targets shared_heads"],
    "compare corridor --network convolutional": ["network 'convolutional'"],
    "compare corridor --replay.capacity 100000000000": ["TB of memory", "is free: lower --replay.capacity"],
    "cost corridor --format xml": ["'xml'", "json"],
    "train corridor --target.period 4e9": ["target.period can be 2,147,483,647 at most, not 4,000,000,000"],
    "train corridor --target iterated_networks --target.copy_period 4e9": ["target.copy_period can be 2,147,483,647"],
    "train corridor --target shared_heads --target.heads 4e9": ["target.heads can be 1,000 at most"],
    "train corridor --target iterated_networks --target.networks 4e9": ["target.networks can be 1,000 at most"],
    "train corridor --algorithm.epsilon_steps 1e30": ["algorithm.epsilon_steps can be 2,147,483,647 at most"],
    "train corridor --training.warm_up 1e12": ["training.warm_up can be 2,147,483,647 at most"],
    "train corridor --training.checkpoint_period 1e12": ["training.checkpoint_period can be 2,147,483,647 at most"],
    "train corridor --training.environments 1e9": ["training.environments can be 1,000,000 at most"],
    "train corridor --training.gradient_steps 1e9": ["1,000,000,000 in each cycle", "gradient_steps"],
    "train corridor --training.update_period 2e9": ["2,000,000,000 steps between two rows", "update_period"],
    "train corridor --steps 2e9 --training.log_period 1": ["1,000,000,000 rows", "raise training.log_period"],
    "train corridor --steps 2e9 --training.log_period 2e9": ["2,000,000,000 steps", "lower training.log_period"],
    "train corridor --replay.n_step 1e9": ["replay.n_step can be 10,000 at most"],
    "train corridor --replay.batch_size 1e12": ["replay.batch_size can be 2,147,483,647 at most"],
    "train corridor --network simba --network.blocks 1e5": ["network.blocks can be 100 at most, not 100,000"],
    "train corridor --network dense --network.hidden 4e9": ["network.hidden of a layer can be 1,000,000 at most"],
    f"train corridor --network dense --network.hidden {','.join('1' * 101)}": [
        "network.hidden can have 100 layers at most, not 101"
    ],
    "train minatar-breakout --network.sizes 1e7": ["network.sizes of a layer can be 100 at most"],
    "train sac-pendulum --algorithm.actor_depth 1e5": ["algorithm.actor_depth can be 100 at most"],
    "train sac-pendulum --algorithm.actor_period 4e9": ["algorithm.actor_period can be 2,147,483,647 at most"],
    "train sac-pendulum --algorithm.critics 4e9": ["algorithm.critics can be 10,000 at most"],
    "train sac-pendulum --algorithm.atoms 4e9": ["algorithm.atoms can be 100,000 at most"],
    "train cartpole --environment.time_limit 4e9": ["time_limit can be 2,147,483,647 at most"],
    "train corridor --out /": ["/ names no folder of its own", "--out"],
    "train corridor --out ..": [".. names no folder of its own", "--out"],
    "train r\udcff": [r"unknown recipe 'r\udcff'"],
    "compare corridor --training interactive": ["is compiled and not stepped by the host: add --training fused"],
    "resume nowhere": ["nowhere", "give the folder of a run"],
    "resume .": ["holds no run"],
    "evaluate nowhere": ["nowhere", "give the folder of a run"],
    "evaluate .": ["holds no run"],
    "report nowhere": ["nowhere is not a folder"],
    "report .": ["no run in ."],
    "list more": ["'more'"],
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_line_that_says_what_to_write_instead(refused, command):
    line = refused(*command.split())
    for words in MISTAKES[command]:
        assert words in line


def test_the_version_is_the_package_s(sharedq):
    said = f"sharedq {version('sharedq')} (Python {python_version()}, JAX {version('jax')})\n"
    assert sharedq("--version") == (0, said, "")


def test_help_on_an_experiment_file_tells_its_values(capsys, finished):
    lines = helped(capsys, "train", finished / "experiment.json", "--help")
    assert lines[lines.index("  --seed whole number") + 1].split()[0] == "3"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help(capsys, verb):
    out = "\n".join(helped(capsys, verb, "--help"))
    assert f"usage: sharedq {verb}" in out
    if verb in ("train", "compare", "cost"):
        assert all(name in out for name in RECIPES)


def test_help_and_no_command_at_all_list_the_commands(sharedq, capsys):
    answer = sharedq()
    assert answer.code == 0
    assert all(f"    {verb} " in answer.out for verb in VERBS)
    assert helped(capsys, "--help") == answer.out.splitlines()


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("cartpole --help", {}),
        ("--out somewhere cartpole -h", {}),
        ("cartpole --target shared_heads --help", {"target": "shared_heads"}),
        ("cartpole --help --target=shared_heads --target.heads=3", {"target": "shared_heads", "target.heads": 3}),
        ("cartpole --steps 2e5 --help", {"steps": 200_000}),
    ],
)
def test_help_lists_every_option_with_type_value_and_meaning(capsys, words, typed):
    lines = helped(capsys, "train", *words.split())
    for name, option in recipe("cartpole").replace(**typed).options().items():
        at = lines.index(f"  --{name} {option.takes}")
        assert option.about
        assert lines[at + 1].strip() == f"{as_typed(option.value)}  {option.about}".strip()


def test_help_tells_of_short_names(capsys):
    out = "\n".join(helped(capsys, "train", "cartpole", "--help"))
    assert "is enough if no other option has the same: --period 500 for --target.period 500" in out
    assert "--lr: short for --algorithm.learning_rate" in out


def test_python_runs_the_package_as_the_command(here):
    words = [sys.executable, "-m", "sharedq", "train", "cartpol"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        2,
        "sharedq: unknown recipe 'cartpol': did you mean cartpole or cartpole-per or cartpole-iql?\n",
    )


@pytest.mark.parametrize(
    ("words", "recipes"),
    [
        ("Pong pong ALE/Pong-v5 PongNoFrameskip-v4 Pong-ram-v0", "atari-cnn --game Pong"),
        ("ms_pacman MsPacman-v4", "atari-cnn --game MsPacman"),
        (
            "space_invaders SpaceInvaders",
            "minatar-space-invaders or pqn-minatar-space-invaders or atari-cnn --game SpaceInvaders",
        ),
        (
            "MinAtar/Breakout-v1",
            "minatar-breakout or minatar-rainbow or minatar-rainbow-full or pqn-minatar-breakout or "
            "minatar-breakout-per",
        ),
        ("Breakout-v5", "atari-cnn --game Breakout"),
        ("CartPole-v1 CartPole", "cartpole or cartpole-per"),
        ("LunarLander-v3 LunarLander", "lunar-lander"),
        ("Pendulum-v1 pendulum", "sac-pendulum"),
        (
            "MountainCar-v0 mountaincar-v0",
            "lunar-lander --environment.id MountainCar-v0 or sac-pendulum --environment.id MountainCar-v0",
        ),
        ("cheetah-run CheetahRun", "sac-mlp or crossq or sac-simba-dmc or xqc or flash-sac"),
        ("dog-trot", "sac-simba-dog-trot or xqc-dog-trot or flash-sac-dog-trot"),
        ("walker-walk walker_walk", "sac-mlp --environment.task walker-walk"),
    ],
)
def test_an_environment_in_place_of_a_recipe_gets_the_recipe_that_fits(refused, words, recipes):
    for word in words.split():
        assert refused("train", word) == f"sharedq: unknown recipe '{word}': for this environment write {recipes}\n"


def test_an_environment_is_not_made_only_to_name_its_recipe(refused, monkeypatch):
    monkeypatch.setattr("gymnasium.make", lambda name: pytest.fail("made"))
    both = "lunar-lander --environment.id Taxi-v4 or sac-pendulum --environment.id Taxi-v4"
    assert refused("train", "Taxi-v4").endswith(f"write {both}\n")


def test_games_and_tasks_of_recipes_are_known_without_their_packages(refused, monkeypatch):
    monkeypatch.setattr("sharedq.suggestions.find_spec", lambda package: None)
    assert "atari-cnn --game Pong" in refused("train", "Pong")
    assert "sac-swingup" in refused("train", "cartpole-swingup")
    assert "did you mean" in refused("train", "cartpole-balance")


@pytest.mark.parametrize("hidden", [("[64,32]",), ("[64,", "32]"), ("(64, 32)",), ("64,32",), ("--hidden=[64,32]",)])
def test_a_list_may_stand_in_brackets(capsys, hidden):
    words = hidden if hidden[0].startswith("--") else ("--network.hidden", *hidden)
    lines = helped(capsys, "train", "cartpole", *words, "--seeds", "3", "--help")
    assert lines[lines.index("  --network.hidden whole number,...") + 1].split()[0] == "64,32"
    assert lines[lines.index("  --seeds whole number") + 1].split()[0] == "3"


def complete(sharedq, *words) -> list[str]:
    answer = sharedq("complete", "--", *words)
    assert (answer.code, answer.err) == (0, "")
    return answer.out.splitlines()


def test_what_may_follow_is_offered(sharedq, here, finished):
    shutil.copytree(finished, here / "runs/first")
    (here / ".hidden").mkdir()
    for words, offered in {
        "tr": ["train"],
        "--v": ["--version"],
        "train mina": [name for name in RECIPES if name.startswith("mina")],
        "train --tr": ["--trust"],
        "train --out x cartpole --wandb o": ["online", "offline"],
        "train cartpole --target sha": ["shared_heads"],
        "train cartpole --target = sha": ["shared_heads"],  # as bash has it
        "train cartpole --target=sha": ["--target=shared_heads"],  # as zsh has it
        "train cartpole --target.": [f"--target.{name}" for name in ("period", "tau", "joint_batch")],
        "train cartpole --target=online_network --target.": [],
        "train cartpole --target shared_heads --hea": ["--heads"],
        "train cartpole --lr": ["--lr"],
        "train cartpole --lea": ["--learning_rate"],
        "train cartpole --norm bat": ["batch", "batch_pixel", "batch_renorm"],
        "compare cartpole --targets online_network targ": ["target_network"],
        "train cartpole ca": [],
        "train my_module:NAME --ta": [],
        "train cartpol --ta": [],
        "evaluate r": ["runs/"],
        "evaluate --episodes 3 runs/": ["runs/first"],
        "evaluate gone/": [],
        "completion z": ["zsh"],
        "frob ": [],
        "list x": [],
    }.items():
        assert complete(sharedq, *words.split(" ")) == offered, words
    assert set(VERBS) <= set(complete(sharedq, "")) and "complete" not in complete(sharedq, "")
    assert complete(sharedq, "train", "cartpole", "--target", "=") == list(TABLES["target"])


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_completes_with_the_script(sharedq, here, shell):
    """A shell is given a command that offers two words, one with a space in it."""
    script = sharedq("completion", shell).out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (here / "script").write_text(script)
    assert subprocess.run([shell, "-n", "script"], check=False).returncode == 0
    if shell == "bash":
        offers = """offers() { [ "$*" = "complete -- evaluate run" ] && printf '%s\\n' 'run 1' runs/; }"""
        line = "COMP_WORDS=(sharedq evaluate run); COMP_CWORD=2; _sharedq offers; printf '<%s>' \"${COMPREPLY[@]}\""
        words = [shell, "-c", f". ./script; {offers}; complete -p sharedq; {line}"]
        said = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (said.stdout, said.stderr) == ("complete -o default -F _sharedq sharedq\n<run\\ 1><runs/>", "")


def test_list_names_every_recipe_and_kind(sharedq):
    out = sharedq("list").out
    for family in ("MinAtar", "Atari", "Gymnasium", "DeepMind Control Suite", "streaming, without a replay"):
        assert f"recipes: {family}\n  " in out
    for name in (*RECIPES, *(kind for table in TABLES.values() for kind in table)):
        assert re.search(rf"^  {name} +\S", out, re.M), name


def test_a_run_leaves_its_files(finished):
    written = set(contents(finished))
    assert {
        "command.txt",
        "cost.json",
        "episodes.csv",
        "experiment.json",
        "finished.json",
        "metrics.csv",
        "versions.json",
        "checkpoints/000000004000/agent.safetensors",
        "tensorboard/seed_3/events.out.tfevents.sharedq",
        "tensorboard/seed_4/events.out.tfevents.sharedq",
    } <= written
    assert (finished / "command.txt").read_text() == f"sharedq train {' '.join(SMALL)} --out {finished}\n"
    assert [name for name in written if name.startswith("checkpoints/0") and name.count("/") == 1] == [
        "checkpoints/000000004000"
    ]
    assert {row["seed"] for row in rows(finished / "episodes.csv")} == {"3", "4"}


@pytest.fixture
def untrained(monkeypatch):
    """No training: a command ends where it would begin."""
    monkeypatch.setattr("sharedq.trainer.run_program", lambda *_, **__: None)


def test_a_run_that_is_all_warm_up_says_that_it_will_not_learn(sharedq, untrained):
    said = "nothing will be learned: the warm-up takes 200 steps, and the run has 200; raise --steps"
    assert said in sharedq("train", "corridor", "--steps", 200).out


def test_a_run_that_ends_while_it_explores_says_so(sharedq, untrained):
    settings = ("corridor", "--steps", 300, "--algorithm.epsilon_steps", 601)
    said = "most actions will be random: their share falls over 601 steps, and there are 300; "
    assert said not in sharedq("train", *settings).out  # they are to be random, to the end
    assert said in sharedq("train", *settings, "--algorithm.epsilon_end", 0.1).out


def test_equal_commands_give_equal_numbers_in_folders_of_their_own(sharedq, finished):
    first = Path("runs/corridor-target-network")
    shutil.copytree(finished, first)
    before = contents(first)
    answer = sharedq("train", *SMALL)
    assert answer.code == 0 and "nothing will be learned" not in answer.out
    assert contents(first) == before
    for table in ("metrics.csv", "episodes.csv"):
        again = rows(Path("runs/corridor-target-network-2") / table)
        assert again
        assert again == rows(finished / table)


def test_a_run_can_be_repeated_from_its_experiment_file(sharedq, finished):
    assert sharedq("train", finished / "experiment.json", "--out", "again").code == 0
    assert rows(Path("again/metrics.csv")) == rows(finished / "metrics.csv")


def test_an_experiment_file_of_another_format_is_refused(refused, here, finished):
    shutil.copy(finished / "experiment.json", here / "newer.json")
    edit(here / "newer.json", schema=99)
    assert "newer.json was written in format 99, this version reads format 1" in refused("train", "newer.json")


def test_a_source_that_is_new_to_the_table_is_in_the_table_of_costs(sharedq, monkeypatch):
    class Another(TargetNetwork):
        label = "another"

    monkeypatch.setitem(SOURCES, "another", Another)
    costs = json.loads(sharedq("cost", "corridor", "--no-time", "--format", "json").out)
    assert list(costs)[:4] == ["target-free", "target network", "shared heads K=1", "shared heads K=9"]
    assert len(costs) == len(SOURCES) + 1 - 2  # shared heads come twice, and a table has no weights to prune
    assert costs["another"] == costs["target network"]


def test_a_folder_that_holds_something_is_left_alone(refused, here, finished):
    shutil.copytree(finished, here / "run")
    (here / "other").mkdir()
    (here / "other/letter.txt").write_text("dear")
    assert "already holds a run" in refused("train", *SMALL, "--out", "run")
    assert "not a run" in refused("train", *SMALL, "--out", "other")
    assert "not a run" in refused("train", *SMALL, "--out", "other", "--overwrite")
    assert "not a run" in refused("train", *SMALL, "--out", "other/letter.txt")
    assert "holds no comparison" in refused("compare", "corridor", "--out", "other", "--overwrite")
    assert "holds no comparison" in refused("compare", "corridor", "--out", "other/letter.txt")


def test_overwrite_replaces_a_run(sharedq, here, finished):
    shutil.copytree(finished, here / "run")
    assert sharedq("train", "corridor", "--steps", 400, "--out", "run", "--overwrite").code == 0
    assert json.loads(Path("run/finished.json").read_text())["steps"] == 400
    assert [path.name for path in here.iterdir()] == ["run"]


def test_memory_that_is_not_there_is_said_before_anything_is_written(refused, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    for verb in ("train", "compare"):
        line = refused(verb, "corridor", "--seeds", 2)
        assert re.search(
            r"needs \S+ kB of memory, \S+ kB of it for the replay, and 1 kB is free: lower --replay.capacity", line
        )


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("pgx.minatar.breakout", "train minatar-breakout", "minatar"),
        ("pgx.minatar.breakout", "compare minatar-breakout", "minatar"),
        ("matplotlib", "compare corridor", "report"),
        ("wandb", "train corridor --wandb offline", "wandb"),
    ],
)
def test_a_missing_extra_is_named_before_training(refused, monkeypatch, package, command, extra):
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install 'sharedq[{extra}]'" in refused(*command.split())


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("", "package.module:name"),
        ("my_environment", "package.module:name"),
        ("nowhere:make", "no module 'nowhere'"),
        ("my_environment:mak", "'my_environment' has no 'mak'"),
        ("my_environment:number", "is not a function"),
        ("my_environment:dict", "has no 'dict'"),
        ("my_environment:calls_back", "a function that compiled code calls back raised ZeroDivisionError: division by"),
        ("my_environment:too_narrow", "obs is float32[2] where float32[3] is declared"),
    ],
)
def test_a_custom_environment_that_breaks_the_contract_is_told_how(refused, here, factory, words):
    (here / "my_environment.py").write_text(MY_ENVIRONMENT)
    assert words in refused("train", "corridor", "--environment", "custom", "--environment.factory", factory)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("", "package.module:name"),
        ("my_network:Trnk", "'my_network' has no 'Trnk'"),
        ("my_network:Sized", "width"),
        ("my_network:Images", "must return features [B, F], one row for each input, and returned (1, 1, 8)"),
        ("my_network:LargeBatches", "raised ValueError: no more than one"),
        ("my_network:Wrong", "must return features [B, F], one row for each input, and returned ()"),
    ],
)
def test_a_users_network_that_does_not_fit_is_told_why(refused, here, module, words):
    (here / "my_network.py").write_text(MY_NETWORK)
    assert words in refused("train", "corridor", "--network", "flax", "--network.module", module)


def test_a_users_environment_and_network_train(sharedq, here):
    (here / "my_environment.py").write_text(MY_ENVIRONMENT)
    (here / "my_network.py").write_text(MY_NETWORK)
    mine = ("--environment", "custom", "--environment.factory", "my_environment:make")
    answer = sharedq(
        "train", "corridor", *mine, "--network", "flax", "--network.module", "my_network:Trunk", "--steps", 400
    )
    assert answer.code == 0
    assert {row["length"] for row in rows(Path("runs/corridor-target-network/episodes.csv"))} == {"10"}


def test_a_loss_that_is_no_number_stops_at_once(sharedq):
    answer = sharedq("train", "corridor", "--seed", 5, "--algorithm.learning_rate", 1e30, "--out", "run")
    assert answer.code == 3
    step = re.fullmatch(
        r"sharedq: the loss of seed 5 is not a finite number at step (\d+); no checkpoint was written before; "
        r"gradient steps were too large: .*\n",
        answer.err,
    )
    assert 200 < int(step[1]) < 400
    assert not Path("run/finished.json").exists()


def test_a_loss_that_breaks_later_leaves_the_last_good_checkpoint(sharedq, here):
    (here / "my_environment.py").write_text(MY_ENVIRONMENT)
    answer = sharedq(
        *("train", "corridor", "--environment", "custom", "--environment.factory", "my_environment:ends_in_nan"),
        *("--training.log_period", 1000, "--training.checkpoint_period", 1000, "--out", "run"),
    )
    assert answer.code == 3
    told = re.search(r"seed 0 is not a finite number at step ([\d,]+); the last good checkpoint is (\S+);", answer.err)
    assert 3000 < int(told[1].replace(",", "")) < 4000  # two environments, so NaN comes 1,500 steps each
    assert told[2] == str(here / "run/checkpoints/000000003000")
    played = sharedq("evaluate", "run", "--trust", "--episodes", 2, "--max-steps", 20).out
    assert played.startswith("seed 0 at step 3,000 of 20,000: mean return 20.00")


def test_a_world_that_breaks_down_leaves_the_last_good_checkpoint(sharedq, here):
    (here / "my_environment.py").write_text(MY_ENVIRONMENT)
    answer = sharedq(
        *("train", "corridor", "--environment", "gymnasium", "--environment.id", "my_environment:breaks_down"),
        *("--training", "interactive", "--training.environments", 1, "--training.update_period", 50),
        *("--training.log_period", 100, "--training.checkpoint_period", 100, "--seed", 2, "--out", "run"),
    )
    kept = here / "run/checkpoints/000000000200"
    assert answer.code == 3 and kept.is_dir()
    assert answer.err == (
        f"sharedq: a reward of seed 2 is not a finite number at step 250; the last good checkpoint is {kept}; "
        "look at what the environment does there, or train with other --seeds\n"
    )
    again = sharedq("resume", "run", "--trust")
    assert (again.code, again.err) == (3, answer.err)


def test_worlds_that_begin_broken_have_diverged_and_do_not_end_a_comparison(sharedq, here):
    (here / "my_environment.py").write_text(MY_ENVIRONMENT)
    answer = sharedq(
        *("compare", "corridor", "--environment", "gymnasium", "--environment.id", "my_environment:begins_in_nan"),
        *("--training", "interactive", "--training.environments", 1, "--steps", 400, "--seed", 2),
        *("--targets", "online_network", "target_network", "--out", "both"),
    )
    assert answer.code == 3 and "learning diverged on target-free and target network; the report" in answer.err
    page = Path("both/report.html").read_text()
    assert all(f"{one} diverged at step 0 (seed 2)" in page for one in ("target-free", "target network"))
    assert json.loads(Path("both/runs/target-network/diverged.json").read_text()) == {
        "step": 0,
        "seed": 2,
        "message": "an observation of seed 2 is not a finite number at step 0; no checkpoint was written before; "
        "look at what the environment does there, or train with other --seeds",
    }


def test_an_error_in_ones_own_environment_is_told_in_one_line_and_the_run_can_go_on(sharedq, here):
    fails = MY_ENVIRONMENT.replace("np.nan if self.steps == 250 else 1.0", "1 / (250 - self.steps)")
    (here / "my_environment.py").write_text(fails)
    line = fails[: fails.index("1 / (250")].count("\n") + 1
    answer = sharedq(
        *("train", "corridor", "--environment", "gymnasium", "--environment.id", "my_environment:breaks_down"),
        *("--training", "interactive", "--training.environments", 1, "--training.update_period", 50, "--steps", 400),
        *("--training.log_period", 100, "--training.checkpoint_period", 100, "--seed", 2, "--out", "run"),
    )
    assert answer.code == 2
    assert answer.err == (
        "sharedq: environment 'my_environment:breaks_down' of seed 2 raised ZeroDivisionError: division by zero "
        f"({here / 'my_environment.py'}:{line}) at step 250; the last good checkpoint is "
        f"{here / 'run/checkpoints/000000000200'}; once it is corrected, continue with: "
        f"sharedq resume {here / 'run'} --trust\n"
    )
    assert (
        sharedq("resume", "run", "--trust").code == 0
    )  # its steps are counted anew, so it does not come to 250 of them


@pytest.mark.parametrize(("name", "why"), [("film.mp4", " (no ffmpeg found: wrote a GIF)"), ("film.gif", "")])
def test_a_gif_in_place_of_an_mp4_is_told(sharedq, monkeypatch, name, why):
    recorded = SimpleNamespace(record=lambda out, *_: (out.with_suffix(".gif"), 7.0))
    monkeypatch.setattr("sharedq.agent.load", lambda *_, **__: recorded)
    assert sharedq("record", "run", "--out", name).out == f"film: film.gif, return 7.00{why}\n"


def test_a_run_that_diverged_is_not_gone_on_with(sharedq):
    told = sharedq("train", "corridor", "--algorithm.learning_rate", 1e30, "--out", "run").err
    answer = sharedq("resume", "run")
    assert (answer.code, answer.err) == (3, told)


def test_a_source_that_diverges_does_not_keep_the_others_from_being_compared(sharedq):
    words = ("corridor", "--targets", "lookahead_replicate:learning_rate=1e38", "target_network", "--out", "both")
    for again in (("compare", *words), ("resume", "both")):
        answer = sharedq(*again)
        assert answer.code == 3
        assert re.fullmatch(
            r"sharedq: learning diverged on lookahead-replicate; the report on what there is: both/report.html\n",
            answer.err,
        )
        assert "lookahead-replicate diverged at step" in Path("both/report.html").read_text()
    assert Path("both/runs/target-network/finished.json").exists()


def test_evaluate_speaks_of_every_seed(sharedq, finished):
    lines = sharedq("evaluate", finished, "--episodes", 3).out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seed 3", "seed 4"]
    assert all("mean return 1.00" in line and "mean length 4.0 over 3 episodes" in line for line in lines)
    assert "3 cut at 2 steps" in sharedq("evaluate", finished, "--episodes", 3, "--max-steps", 2).out


@pytest.fixture
def compared(here) -> Path:
    """A finished comparison of two sources, with one seed each."""
    return shutil.copytree(Path(__file__).parent / "fixtures/0.1.0/comparison", here / "both")


def test_evaluate_speaks_of_every_run_of_a_comparison(sharedq, compared):
    lines = sharedq("evaluate", "both", "--episodes", 2, "--max-steps", 5).out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["target-free, seed 0", "target network, seed 0"]
    shutil.rmtree(compared / "runs/target-free")
    first, second = sharedq("evaluate", "both", "--episodes", 2, "--max-steps", 5).out.splitlines()
    assert (first, second) == ("target-free has no checkpoint yet", lines[1])
    shutil.rmtree(compared / "runs/target-network/checkpoints")
    answer = sharedq("evaluate", "both")
    assert answer.code == 2 and answer.out.count("has no checkpoint yet") == 2
    told = "sharedq: no run of both has a checkpoint yet: wait, or continue with sharedq resume both\n"
    assert answer.err == told


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--episodes 0", "at least 1"),
        ("--episodes 1000000000", "episodes can be 10,000,000 at most"),
        ("--episodes 10000000", "is free: lower --episodes"),
        ("--max-steps 0", "at least 1"),
        ("--max-steps 3000000000", "max_steps can be 2,147,483,647 at most"),
        ("--episods 3", "--episods"),
    ],
)
def test_evaluate_refuses(refused, finished, option, words, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000_000)
    assert words in refused("evaluate", finished, *option.split())


def _truncate(run: Path) -> None:
    file = run / "checkpoints/000000004000/agent.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def _flip(run: Path) -> None:
    file = run / "checkpoints/000000004000/agent.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")


def _of_another(run: Path) -> None:
    edit(run / "checkpoints/000000004000/checkpoint.json", experiment="0" * 64)


def _half(run: Path) -> None:
    file = run / "experiment.json"
    file.write_text(file.read_text()[:200])


def _change(part: str, **fields):
    def change(run: Path) -> None:
        described = json.loads((run / "experiment.json").read_text())
        described["experiment"][part] |= fields
        (run / "experiment.json").write_text(json.dumps(described))

    return change


def _drop(run: Path) -> None:
    described = json.loads((run / "experiment.json").read_text())
    del described["experiment"]["replay"]
    (run / "experiment.json").write_text(json.dumps(described))


DAMAGE = {
    "truncated": (_truncate, "is truncated"),
    "edited": (_flip, "checksum differs"),
    "an edited checkpoint.json": (_of_another, "checkpoint.json was edited"),
    "half an experiment": (_half, "experiment.json"),
    "another experiment": (_change("algorithm", gamma=0.5), "experiment.json was edited or damaged"),
    "an incomplete experiment": (_drop, "experiment.json was edited or damaged"),
    "a setting of another type": (_change("training", log_period=1000.5), "training.log_period takes a whole number"),
    "a setting out of bounds": (_change("target", period=0), "target.period must be at least 1"),
    "an unknown kind": (_change("network", kind="densee"), "unknown network 'densee'"),
    "a newer schema": (lambda run: edit(run / "experiment.json", schema=99), "format 99"),
    "a list": (lambda run: (run / "experiment.json").write_text("[]"), "describes no experiment"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_refused(refused, here, finished, damage):
    shutil.copytree(finished, here / "run")
    (here / "run/finished.json").unlink()
    harm, words = DAMAGE[damage]
    harm(here / "run")
    assert words in refused("evaluate", "run")
    assert words in refused("resume", "run")


def test_weights_and_biases_hears_the_run(sharedq, here, monkeypatch):
    heard = []
    fake = SimpleNamespace(
        init=lambda **about: (
            heard.append(about)
            or SimpleNamespace(
                log=lambda values, step: heard.append((step, values)), finish=lambda: heard.append("end")
            )
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert sharedq("train", *SMALL, "--wandb", "offline", "--out", "run").code == 0
    about, *logged, end = heard
    assert about["mode"] == "offline"
    assert about["name"] == "run"
    assert about["config"] == json.loads(Path("run/experiment.json").read_text())["experiment"]
    assert end == "end"
    table = rows(Path("run/metrics.csv"))
    losses = {step: values["loss"] for step, values in logged if "loss" in values}
    for step, loss in losses.items():
        mean = sum(float(row["loss"]) for row in table if row["step"] == str(step)) / 2
        assert loss == pytest.approx(mean, rel=1e-5)
    assert sorted(losses) == [2000, 4000]


def test_weights_and_biases_itself_takes_what_it_hears(sharedq, here, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for folder in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(folder, str(here))
    assert sharedq("train", *SMALL, "--wandb", "offline", "--out", "run").code == 0
    (written,) = here.glob("wandb/offline-run-*/*.wandb")
    for _ in range(100):  # its own process writes the file, a moment later
        if b"td_error" in written.read_bytes():
            return
        time.sleep(0.1)
    pytest.fail("the values did not come")


def test_weights_and_biases_begins_no_run_for_a_mistake(refused, here, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # would fail on init
    shutil.copytree(finished, here / "run")
    assert "already holds a run" in refused("train", *SMALL, "--wandb", "offline", "--out", "run")


class Dead(io.TextIOBase):
    """A pipe whose reader has left."""

    def write(self, text):
        raise BrokenPipeError


def test_a_training_whose_reader_has_left_goes_on_to_its_end(here, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Dead())
    assert main(["train", "corridor", "--steps", "400", "--out", "run"]) == 0
    assert json.loads(Path("run/finished.json").read_text())["steps"] == 400
    assert main(["report", "run"]) == main(["list"]) == 141


def test_a_mistake_is_one_too_where_nobody_hears_of_it(here, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Dead())
    assert main(["train", "cartpol"]) == 2


@pytest.mark.parametrize("shell", ["head -1", "true"])
def test_a_pipe_that_closes_ends_no_training(here, shell):
    begin = "import sys; from sharedq.command_line import main; sys.exit(main())"
    command = f"set -o pipefail; {sys.executable} -c '{begin}' train corridor --steps 400 --out run | {shell}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert Path("run/finished.json").exists()


def test_closed_streams_and_few_letters_are_no_tracebacks(here):
    folder = here / "ü\x1b[31m"
    folder.mkdir()
    code = f"import sys; from sharedq.command_line import main; sys.exit(main(['report', {str(folder)!r}]))"
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for closed in ("", ">&-", "2>&-", ">&- 2>&- <&-"):
        command = f"exec {sys.executable} -c {shlex.quote(code)} {closed}"
        ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=surroundings, check=False)
        assert ended.returncode == 2
        if "2>&-" not in closed:
            assert re.fullmatch(r"sharedq: no run in .*/\\xfc\\x1b\[31m: .*\n", ended.stderr)


def test_a_run_may_lie_in_a_folder_whose_name_is_no_text(sharedq, here):
    run = os.fsdecode(b"r\xff/\xfe")
    try:
        (here / run).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes no such name")
    (here / run).rmdir()
    answer = sharedq("train", "corridor", "--steps", 300, "--out", run)
    assert (answer.code, answer.err) == (0, "") and rf"{here}/r\udcff/\udcfe" in answer.out
    assert (here / run / "command.txt").read_bytes().endswith(b"--out 'r\xff/\xfe'\n")
    assert "mean return" in sharedq("evaluate", run, "--episodes", 2, "--max-steps", 5).out
    assert sharedq("report", run, "--out", f"{run}/page").out == "report: r\\udcff/\\udcfe/page/report.html\n"
    assert "finished.json: whole" in sharedq("verify", run).out
    assert sharedq("resume", run).err == (
        rf"sharedq: {here}/r\udcff/\udcfe is finished already: nothing to resume; to train it for longer, add --steps N"
        + "\n"
    )


def test_what_a_file_says_commands_no_terminal(sharedq, here, finished):
    shutil.copytree(finished, here / "run")
    (here / "run/finished.json").unlink()
    message = "the loss of \x1b]0;owned\x07 and\nmore \u202e"
    (here / "run/diverged.json").write_text(json.dumps({"step": 1, "seed": 3, "message": message}))
    answer = sharedq("resume", "run")
    assert (answer.code, answer.err) == (3, r"sharedq: the loss of \x1b]0;owned\x07 and\nmore \u202e" + "\n")


def test_too_few_open_files_are_found_before_training(refused, monkeypatch):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (30, 30))
    monkeypatch.setattr(memory, "SPARE_FILES", 0)
    for verb in ("train", "compare"):
        assert re.search(
            r"needs \d+ open files and 30 are allowed: lower --seeds, ", refused(verb, *SMALL[:1], "--seeds", 31)
        )


def test_weights_and_biases_without_a_login_is_told_before_training(refused, monkeypatch):
    class UsageError(Exception): ...

    def login():
        raise UsageError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=login))
    line = refused("train", "corridor", "--wandb", "online")
    assert "Weights & Biases: UsageError: No API key configured.; use --wandb offline, or log in first" in line


def test_memory_that_is_full_is_no_traceback(refused, monkeypatch):
    def build(self):
        raise MemoryError("Unable to allocate 4 TiB")

    monkeypatch.setattr("sharedq.experiment.Experiment.build", build)
    assert "the memory is full (Unable to allocate 4 TiB)" in refused("train", "corridor")


def test_a_bar_takes_no_name_for_markup():
    from rich.console import Console

    bar, said = Bar("[/runs]\x1b[31m", 10, 1), io.StringIO()
    bar.update(5, 1.0, None, True)
    Console(file=said, width=200).print(bar.live.get_renderable())
    assert r"[/runs]\x1b[31m" in said.getvalue()


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_signal_ends_at_once_by_its_own_number_and_says_how_to_go_on(here, numbers):
    run = RunDirectory.create("run", {}, "sharedq")
    with pytest.raises(Stopped) as stopped, loop._stops(run, "sharedq resume run"):
        [os.kill(os.getpid(), number) for number in numbers]
    assert stopped.value.exit_code == 143
    told = "stopped at once; no checkpoint was written before; to continue: sharedq resume run"
    assert str(stopped.value) == told


def test_an_action_that_is_no_number_is_not_blamed_on_the_world(here):
    class Untouched:
        def step(self, action):
            raise AssertionError

    with pytest.raises(Unlearned) as unlearned:
        SyncVectorEnv([Untouched()]).step(np.array([[np.nan]], np.float32))
    assert "an action is not a finite number: learning diverged" in str(unlearned.value)
    run = RunDirectory.create("run", {}, "sharedq")
    with pytest.raises(Diverged, match="lower the learning rate"), loop._breakdowns(run, ""), evaluators.placed(3, 7):
        raise unlearned.value
    assert (run.diverged()["seed"], run.diverged()["step"]) == (3, 7)


JaxRuntimeError = type("JaxRuntimeError", (RuntimeError,), {})

CALLED_BACK = """INTERNAL: CpuCallback error calling callback: Traceback (most recent call last):
  File "a.py", line 5, in <module>
  File "b.py", line 2, in f
ValueError: boom
more"""

FAILURES = {
    "RESOURCE_EXHAUSTED: 9 bytes.\nmore": r"the device ran out of memory \(RESOURCE_EXHAUSTED: 9 bytes.\): lower --.*",
    "INTERNAL: no reason\nmore": "the device failed: INTERNAL: no reason",
    CALLED_BACK: r"a function that compiled code calls back raised ValueError: boom \(b.py:2\)",
}


@pytest.mark.parametrize("text", FAILURES)
def test_what_fails_on_the_device_is_told_in_a_line_with_what_is_left_of_the_run(here, text):
    run = RunDirectory.create("run", {}, "sharedq")
    onwards = "no checkpoint was written before; once it is corrected, continue with: sharedq resume run"
    with (
        pytest.raises(DeviceFailed, match=f"^{FAILURES[text]}; {onwards}$"),
        loop._breakdowns(run, "sharedq resume run"),
    ):
        raise JaxRuntimeError(text)


def test_a_mistake_of_ours_keeps_its_traceback(here, monkeypatch):
    def build(self):
        raise RuntimeError("ours")

    monkeypatch.setattr("sharedq.experiment.Experiment.build", build)
    with pytest.raises(RuntimeError, match="ours"):
        main(["train", "corridor"])
