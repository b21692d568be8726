"""Parts that installed packages bring, and parts of a user's own by where they are, wherever ours have a name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sharedq
from sharedq import tables
from sharedq.command_line import main
from sharedq.errors import SharedqError
from sharedq.experiment import TABLES, Experiment

EXAMPLE = Path(__file__).parents[1] / "examples" / "sharedq-plugin"
SHORT = "--steps=400 --training.warm_up=100 --training.log_period=200 --training.checkpoint_period=200".split()  # noqa: SIM905

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package as pip does, but into a folder of this test."""

    def install(entry_points: dict[str, dict[str, str]], name: str = "sharedq-plugin") -> None:
        site = tmp_path / "site"
        shutil.copytree(EXAMPLE / "sharedq_plugin", site / "sharedq_plugin", dirs_exist_ok=True)
        info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        groups = (
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in entry_points.items()
        )
        (info / "entry_points.txt").write_text("\n".join(groups))
        monkeypatch.syspath_prepend(site)
        tables.entry_points.cache_clear()

    monkeypatch.chdir(tmp_path)
    tables.entry_points.cache_clear()
    yield install
    tables.entry_points.cache_clear()
    for module in [name for name in sys.modules if name.startswith(("sharedq_plugin", "own_", "leaving"))]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder into which pip has installed the example."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, folder / "source")  # pip builds inside of it
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    words = ["install", *offline, "--target", str(folder / "site"), str(folder / "source")]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return folder / "site"


@pytest.fixture
def example(install, installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    tables.entry_points.cache_clear()


@pytest.mark.usefixtures("example")
def test_parts_of_an_installed_package_stand_among_ours(capsys):
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    names = ("young_average", "fourier", "cliff", "relative_step")
    for name in (*names, "a walk along a cliff", "A slow average of the network"):
        assert name in told
    with pytest.raises(SystemExit, match="0"):
        main(["train", "cliff", "--help"])
    told = capsys.readouterr().out
    assert "young_average" in told and "--target.final_tau number" in told and "in the end" in told
    assert main(["train", "cartpole", "--target", "young_averag"]) == 2
    assert "did you mean young_average" in capsys.readouterr().err


def test_a_run_with_parts_of_a_package_is_resumed_elsewhere_and_names_the_package_that_is_gone(installed, tmp_path):
    site = shutil.copytree(installed, tmp_path / "site")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    options = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True, "check": False}

    def run(*words) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "sharedq", *words], **options)

    trained = run(
        "train", "cliff", *SHORT, "--replay.capacity", "500", "--training.keep_replay", "true", "--out", "run"
    )
    assert trained.returncode == 0, trained.stderr
    site.rename(tmp_path / "elsewhere")
    gone = run("resume", "run", "--steps", "600")
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1
    assert "is of the package 'sharedq-plugin', which is not installed here: install it" in gone.stderr
    (tmp_path / "elsewhere").rename(site)
    resumed = run("resume", "run", "--steps", "600")
    assert resumed.returncode == 0, resumed.stderr
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["sharedq-plugin"] == "0.1.0"


@pytest.mark.usefixtures("example")
def test_an_experiment_names_the_packages_of_its_parts():
    ours = sharedq.recipe("corridor")
    assert ours.packages() == {} and "packages" not in ours.to_dict()
    mine = ours.replace(target="young_average", **{"training.measures": "relative_step"})
    named = {"target 'young_average'": "sharedq-plugin", "measure 'relative_step'": "sharedq-plugin"}
    assert mine.packages() == named
    assert Experiment.from_dict(mine.to_dict()) == mine
    with pytest.raises(SharedqError, match="is of the package 'no-such-thing', which is not installed here"):
        Experiment.from_dict(mine.to_dict() | {"packages": {"target 'young_average'": "no-such-thing"}})
    for damaged in ("text", {"x": 5}, {"x": ""}, [1]):
        with pytest.raises(SharedqError):
            Experiment.from_dict(ours.to_dict() | {"packages": damaged})


def test_the_examples_own_tests_pass(installed):
    path = os.pathsep.join([str(installed), str(Path(sharedq.__file__).parents[1])])
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(installed.parent), "-c", os.devnull]
    environment = {**os.environ, "PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, *words, str(EXAMPLE / "tests")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("example")
def test_an_installed_recipe_is_trained_resumed_evaluated_and_costed_without_being_asked_for_trust(capsys):
    assert main(["train", "cliff", *SHORT, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    assert main(["cost", "run/experiment.json", "--no-time"]) == 0
    assert main(["resume", "run"]) == 2
    captured = capsys.readouterr()
    assert "finished already" in captured.err and "mean return" in captured.out and "parameters, held" in captured.out
    assert sharedq.load("run").values([1.0] + [0.0] * 47).shape == (4,)


@pytest.mark.usefixtures("example")
def test_an_installed_measure_gets_a_column_and_needs_no_trust():
    experiment = sharedq.recipe("cliff").replace(**{"training.measures": "relative_step"})
    assert experiment.imports() == []
    assert experiment.build().program().metric_names[-1] == "measures/relative_step"


@pytest.mark.usefixtures("example")
def test_an_installed_source_is_compared_with_ours(capsys):
    words = ["corridor", *SHORT, "--targets", "target_network", "young_average:final_tau=0.1", "--out", "comparison"]
    assert main(["compare", *words]) == 0
    assert "young average" in Path("comparison/report.html").read_text()


def test_an_entry_point_may_name_what_the_package_exports_but_not_take_our_name(install, tmp_path, capsys):
    install({"sharedq.targets": {"mine": "own_package:Slow", "target_network": "own_package:Slow"}}, name="own-package")
    (tmp_path / "site" / "own_package").mkdir()
    (tmp_path / "site" / "own_package" / "__init__.py").write_text("from own_package.inner import Slow as Slow")
    (tmp_path / "site" / "own_package" / "inner.py").write_text(OWN)
    assert main(["train", "corridor", *SHORT, "--out", "run", "--target", "mine"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    assert TABLES["target"].name_of(type(Experiment.from_dict(sharedq.recipe("corridor").to_dict()).target)) == (
        "target_network"
    )


def test_a_broken_package_is_reported_and_hides_nothing_else(install, tmp_path, capsys):
    install({"sharedq.targets": {"leaves": "leaving:Slow"}}, name="leaving-package")
    (tmp_path / "site" / "leaving.py").write_text("import sys\nsys.exit()")
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert "leaving.py:2" in told and "cartpole" in told
    assert main(["train", "corridor", "--target", "leaves"]) == 2


@pytest.mark.usefixtures("own_parts")
def test_errors_in_parts_of_ones_own_are_told_with_their_line(tmp_path, capsys):
    (tmp_path / "own_failing.py").write_text(OWN.replace("return TargetNetwork", "1 / 0; return TargetNetwork"))
    assert main(["train", "corridor", "--target", "own_failing:Slow", "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert "target 'slow copy' raised ZeroDivisionError" in told and "own_failing.py:" in told


def test_an_old_name_stays_the_own_name_of_somebody_elses_kind(own_parts, tmp_path):
    (tmp_path / "own_fields.py").write_text(
        OWN.replace("period: int", "polyak: int").replace("self.period", "self.polyak")
    )
    experiment = sharedq.recipe("corridor").replace(target="own_fields:Slow", **{"target.polyak": 7})
    assert experiment.target.polyak == 7
    assert Experiment.from_dict(experiment.to_dict(), trust=True) == experiment


OWN = '''
from dataclasses import dataclass
from sharedq.targets import TargetNetwork

@dataclass(frozen=True)
class Slow:
    """A target network that is copied seldom."""

    period: int = 40  # gradient steps

    label = "slow copy"

    def build(self, network):
        return TargetNetwork(self.period).build(network)


class Plain:
    pass
'''


@pytest.fixture
def own_parts(install, tmp_path):
    (tmp_path / "own_parts.py").write_text(OWN)


@pytest.mark.usefixtures("own_parts")
def test_a_part_of_ones_own_goes_by_where_it_is(capsys):
    options = ["corridor", *SHORT, "--out", "run", "--target", "own_parts:Slow", "--target.period", "30"]
    assert main(["train", *options]) == 0
    assert Experiment.from_dict(sharedq.runs.RunDirectory.open("run").experiment(), trust=True).target.period == 30
    del sys.modules["own_parts"]
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 2
    assert "would import and run own_parts:Slow: add --trust" in capsys.readouterr().err
    assert "own_parts" not in sys.modules
    assert main(["evaluate", "run", "--episodes", "2", "--trust"]) == 0


@pytest.mark.usefixtures("own_parts")
def test_a_source_of_ones_own_is_compared_and_gone_on_with(capsys):
    words = ["corridor", *SHORT, "--targets", "online_network", "own_parts:Slow:period=20", "--out", "comparison"]
    assert main(["compare", *words]) == 0
    assert "slow copy" in Path("comparison/report.html").read_text()
    capsys.readouterr()
    assert main(["resume", "comparison"]) == 2
    assert "add --trust" in capsys.readouterr().err
    assert main(["resume", "comparison", "--trust"]) == 0


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_parts:Plain", "target 'own_parts:Plain' is not a dataclass of settings"),
        ("own_parts:Missing", "has no 'Missing'"),
        ("no_such_module:Slow", "no module 'no_such_module'"),
        ("dataclasses:dataclass", "is not a dataclass of settings"),
    ],
)
def test_what_can_be_no_part_is_refused_in_one_line(name, message, capsys):
    assert main(["train", "corridor", "--target", name, "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not Path("run").exists()


def test_a_package_that_cannot_be_loaded_is_named(install, capsys):
    install({"sharedq.targets": {"broken": "sharedq_plugin.no_such_file:Broken"}}, name="broken-package")
    assert main(["train", "corridor", "--target", "broken"]) == 2
    assert "'broken' of the package broken-package cannot be loaded" in capsys.readouterr().err


def test_a_class_that_no_other_process_could_find_is_refused():
    from dataclasses import make_dataclass

    local = make_dataclass("Local", [], namespace={"build": lambda self, network: None}, frozen=True)
    local.__qualname__ = "test.<locals>.Local"
    with pytest.raises(SharedqError, match="must be defined at the top of a module"):
        TABLES["target"].name_of(local)
