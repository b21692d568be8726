"""Opening somebody's run executes nothing, and what is trusted is told when it fails."""

import contextlib
import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import optax
import pytest

import sharedq
from sharedq.command_line import _trust, main
from sharedq.environments import Custom, Gymnasium
from sharedq.errors import SharedqError
from sharedq.experiment import TABLES, Experiment
from sharedq.imports import resolve
from sharedq.networks import FlaxTrunk
from sharedq.recipes import RECIPES, recipe
from sharedq.targets import LookaheadReplicate, PolyPrune
from sharedq.training import TRAININGS, Fused

RUN = Path(__file__).parent / "fixtures" / "0.1.0" / "corridor-finished"

THEIRS = """
from pathlib import Path
Path("executed").touch()
from sharedq.environments.probes import PROBES
make = lambda: PROBES["corridor"].environment
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    (tmp_path / "theirs.py").write_text(THEIRS)
    return tmp_path


PARTS = {
    "environment": {"kind": "custom", "factory": "theirs:make"},
    "an environment of Gymnasium": {"kind": "gymnasium", "id": "theirs:make"},
    "Gymnasium's own form": {"kind": "gymnasium", "id": "theirs:Env-v0"},
    "network": {"kind": "flax", "module": "theirs:make"},
}


@pytest.fixture(params=PARTS)
def hostile(request, here) -> str:
    """A run that names code, as it came from somebody else; gives the name."""
    shutil.copytree(RUN, here / "run")
    part = "network" if request.param == "network" else "environment"
    described = json.loads((here / "run/experiment.json").read_text())
    described["experiment"][part] = PARTS[request.param]
    (here / "run/experiment.json").write_text(json.dumps(described))
    plan = {"label": "x", "folder": "runs/x", "command": "x", "experiment": described["experiment"]}
    (here / "both").mkdir()
    described = {"schema": 1, "recipe": "corridor", "command": "x", "reference": None, "runs": [plan]}
    (here / "both/compare.json").write_text(json.dumps(described))
    return next(name for field, name in PARTS[request.param].items() if field != "kind")


@pytest.mark.parametrize(
    "command",
    [
        "evaluate run",
        "record run",
        "resume run",
        "resume both",
        "train run/experiment.json --out new",
        "cost run/experiment.json",
        "compare run/experiment.json",
    ],
)
def test_a_run_that_names_code_is_refused_and_nothing_is_run(hostile, here, command, capsys):
    if command == "resume run":
        (here / "run/finished.json").unlink()
    before = sorted(here.rglob("*"))
    assert main(command.split()) == 2
    told = capsys.readouterr()
    assert f"would import and run {hostile}: add --trust" in told.err
    assert told.out == ""
    assert sorted(here.rglob("*")) == before
    assert str(here) not in sys.path


@pytest.mark.parametrize("command", ["report run", "report both", "list", "train run/experiment.json --help"])
def test_what_only_reads_imports_nothing_and_asks_for_no_trust(hostile, here, command):
    with contextlib.suppress(SystemExit):  # help ends so
        main(command.split())
    assert not (here / "executed").exists() and "theirs" not in sys.modules


def test_from_python_too(here, hostile):
    for opened in (sharedq.load, sharedq.resume):
        (here / "run/finished.json").unlink(missing_ok=True)
        with pytest.raises(SharedqError, match=f"would import and run {hostile}"):
            opened("run")
    assert not (here / "executed").exists()


@pytest.fixture
def trained(here, capsys) -> Path:
    mine = ("--environment", "custom", "--environment.factory", "theirs:make")
    assert main(["train", "corridor", *mine, "--steps", "400", "--out", "run"]) == 0
    capsys.readouterr()
    return here / "run"


def test_what_ones_own_command_names_is_trusted(trained, here):
    assert (here / "executed").exists()
    assert sharedq.load(trained, trust=True).step == 400
    assert sharedq.load(trained, trust=["theirs:make"]).step == 400
    with pytest.raises(SharedqError, match="theirs:make"):
        sharedq.load(trained, trust=["theirs:other"])
    assert main(["evaluate", "run", "--episodes", "1"]) == 2
    assert main(["evaluate", "run", "--episodes", "1", "--trust"]) == 0
    file = "run/experiment.json"
    assert main(["cost", file, "--no-time", "--target", "online_network"]) == 2
    assert main(["cost", file, "--no-time", "--target", "online_network", "--trust"]) == 0
    named = ("--environment.factory", "theirs:make")
    assert main(["cost", file, "--no-time", "--target", "online_network", *named]) == 0


def test_a_comparison_reads_back_its_own_plan_and_its_command_repeats_a_run(here):
    mine = ("--environment", "custom", "--environment.factory", "theirs:make", "--steps", "400")
    assert main(["compare", "corridor", *mine, "--targets", "online_network", "--out", "both"]) == 0
    assert main(["resume", "both"]) == 2
    assert main(["resume", "both", "--trust"]) == 0
    (planned,) = json.loads(Path("both/compare.json").read_text())["runs"]
    assert planned["command"] == "sharedq train both/runs/target-free/experiment.json --trust"


def test_the_working_folder_shadows_no_package(here):
    for name in ("json", "numpy", "optax"):
        (here / f"{name}.py").write_text("raise SystemExit('shadowed')")
    assert resolve("optax:adam", "a thing") is optax.adam
    assert resolve("theirs:make", "a thing")().spec.name == "probe/corridor"
    assert sys.path[-1] == str(here)


def test_the_recipes_name_no_code():
    assert [name for name in RECIPES if recipe(name).imports()] == []


def test_every_part_that_can_import_says_so(here):
    """A setting that looks like an import string belongs to a kind that lists it."""
    named = {
        Custom("a:b"): ["a:b"],
        Gymnasium("a:b"): ["a:b"],
        Gymnasium("a:B-v0"): ["a:B-v0"],
        FlaxTrunk("a:b"): ["a:b"],
        LookaheadReplicate(network="a:B:hidden=3"): ["a:B"],
        LookaheadReplicate(network="flax:module=a:b"): ["a:b"],
        PolyPrune(source="lookahead_replicate:network=a:B"): ["a:B"],
        Fused(measures=("rank", "a:B:factor=2")): ["a:B"],
        Gymnasium("B-v0", kwargs={"env_id": "a:B-v0", "size": 3}): ["a:B-v0"],
        Gymnasium("a:b", kwargs={"nested": [{"c:d": ["e:f", None]}]}): ["a:b", "c:d", "e:f"],
    }
    for part, imports in named.items():
        assert part.imports() == imports
    assert [Gymnasium("CartPole-v1").imports(), Custom().imports(), FlaxTrunk().imports()] == [[], [], []]
    listing = {kind for table in TABLES.values() for kind in table.values() if hasattr(kind, "imports")}
    assert listing == {Custom, Gymnasium, FlaxTrunk, LookaheadReplicate, PolyPrune, *TRAININGS.values()}
    assert Fused(measures=("rank", "a:B:c=1")).imports() == ["a:B"]
    experiment = recipe("corridor").replace(environment=Custom("a:b"), network=FlaxTrunk("c:D"))
    assert experiment.imports() == ["a:b", "c:D"]
    with pytest.raises(SharedqError, match="import and run c:D:"):
        Experiment.from_dict(experiment.to_dict(), trust=["a:b"])


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("measures", "[theirs:N, rank]", "theirs:N"),
        ("training.measures", "rank,theirs:N:factor=2", "theirs:N"),
        ("environment.kwargs", "size=3,env_id=theirs:Env-v0", "theirs:Env-v0"),
        ("environment.kwargs", '{"env_id": "theirs:Env-v0"}', "theirs:Env-v0"),
        ("environment.factory", "theirs:make", "theirs:make"),
    ],
)
def test_a_command_names_what_stands_in_its_values(option, value, named):
    typed = Namespace(trust=False, recipe="run/experiment.json", options={option: [value]})
    assert named in _trust(typed)
    assert "theirs:other" not in _trust(typed)


def test_a_source_is_named_without_its_options():
    typed = Namespace(trust=False, recipe="run/experiment.json", options={}, targets=["theirs:Slow:period=2,tau=1"])
    assert {"theirs:Slow"} <= _trust(typed) <= {"theirs:Slow", *typed.targets}


BROKEN = {
    "def f(:\n": r"SyntaxError: invalid syntax \(.*broken.py:1\)",
    "import os\nimport no_such_package\n": r"ModuleNotFoundError: No module named 'no_such_package' \(.*broken.py:2\)",
    "import sys\n\nsys.exit(3)\n": r"SystemExit: 3 \(.*broken.py:3\)",
    "1 / 0\n": r"ZeroDivisionError: division by zero \(.*broken.py:1\)",
    "class Own(BaseException): ...\nraise Own('so')\n": r"Own: so \(.*broken.py:2\)",
    "def f():\n    raise ValueError('boom')\n": r"ValueError: boom \(.*broken.py:2\)",
    "import sys\ndef f():\n    sys.exit()\n": r"SystemExit: .*\(.*broken.py:3\)",
}


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize("part", [Custom, Gymnasium])
def test_an_error_in_a_users_module_or_factory_is_told_with_its_line(here, monkeypatch, code, part):
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (here / "broken.py").write_text(code)
    with pytest.raises(SharedqError, match=BROKEN[code]):
        part("broken:f").build()


STEPS = """
import sys
import gymnasium
import numpy as np

class World(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        sys.exit(0)

    def close(self):
        raise RuntimeError("stuck")

class Quiet(World):
    def close(self): ...
"""


def test_an_environment_that_exits_has_failed(here, monkeypatch):
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (here / "broken.py").write_text(STEPS)
    with pytest.raises(SharedqError, match=r"raised RuntimeError: stuck \(.*broken.py:16\)"):
        Gymnasium("broken:World").build()
    worlds = Gymnasium("broken:Quiet").build().open(1, 0)
    worlds.reset()
    with pytest.raises(SharedqError, match=r"of seed 0 raised SystemExit: 0 \(.*broken.py:13\)"):
        worlds.step(np.zeros(1, int))


@pytest.mark.parametrize(
    ("network", "named"),
    [("theirs:Net", ["theirs:Net"]), ("flax:module=theirs:Net", ["theirs:Net"]), ("dense:hidden=32", []), (None, [])],
)
def test_the_architecture_of_a_second_network_imports_nothing_that_is_not_trusted(network, named):
    experiment = recipe("corridor").replace(target="lookahead_replicate", **{"target.network": network})
    assert experiment.imports() == named
    if named:
        with pytest.raises(SharedqError, match="would import and run theirs:Net"):
            Experiment.from_dict(experiment.to_dict(), trust=False)
