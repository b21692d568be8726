"""The house stands: imports point down, light things stay light, every setting is explained, nothing is pickled."""

import ast
import dataclasses
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sharedq
from sharedq import settings
from sharedq.experiment import TABLES, Experiment

ROOT = Path(sharedq.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

FLOORS = {  # of each package or module right under sharedq/; a room imports from lower floors, or from beside it
    **dict.fromkeys(["errors", "validation", "json_files", "settings", "imports", "output", "random_keys", "units"], 1),
    **dict.fromkeys(["runtime"], 1),
    **dict.fromkeys(["tables", "old_names", "trees", "formats", "processes"], 1),
    **dict.fromkeys(["transitions", "optimizers", "exploration", "normalisers"], 1),
    **dict.fromkeys(["bellman", "networks", "runs", "samplers"], 1),
    **dict.fromkeys(["targets", "replay", "environments", "reports"], 2),
    **dict.fromkeys(["algorithms", "datasets", "transcripts"], 3),
    **dict.fromkeys(["training", "playing", "analysis"], 4),
    **dict.fromkeys(["experiment", "agent", "live", "starting", "trainer", "comparison", "recipes", "testing"], 5),
    **dict.fromkeys(["child_process", "remote_blocks", "redis_queue"], 1),
    **dict.fromkeys(["ray_cluster", "actor"], 5),
    **dict.fromkeys(["results", "library", "suggestions", "completion", "data_evaluation"], 5),
    **dict.fromkeys(["search", "search_space", "bundles"], 5),
    **dict.fromkeys(["collecting", "kept_replay", "data_sources", "data_command", "wordle_players", "watching"], 5),
    **dict.fromkeys(["exporting", "serving"], 6),
    **dict.fromkeys(["command_line", "__main__"], 7),
}


def module_of(file: Path) -> str:
    parts = ("sharedq", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imports_of(file: Path, at_import_time: bool = False) -> set[str]:
    """The modules of the house that a file imports, also inside functions unless only import time is asked for."""
    tree = ast.parse(file.read_text())
    nodes = tree.body if at_import_time else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "sharedq"}


def wing(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def arrows() -> set[tuple[str, str]]:
    """From wing to wing."""
    pairs = {(wing(name), wing(other)) for name, file in MODULES.items() for other in imports_of(file)}
    return {(a, b) for a, b in pairs if a != b and a}


def test_every_room_has_a_floor():
    assert {wing(name) for name in MODULES} - {""} == set(FLOORS)


def test_imports_never_point_up():
    up = {(a, b) for a, b in arrows() if b and FLOORS[a] < FLOORS[b]}
    assert not up, f"arrows that point up: {sorted(up)}"


def test_the_wings_of_a_floor_do_not_know_each_other():
    beside = {(a, b) for a, b in arrows() if b and FLOORS[a] == FLOORS[b] == 2}
    assert not beside, f"wings of one floor that import each other: {sorted(beside)}"


def test_no_circles_between_files():
    graph = {name: imports_of(file, at_import_time=True) - {name} for name, file in MODULES.items()}
    for name in graph:  # a package's face re-exports its files; they do not import the face
        assert not [other for other in graph[name] if name.startswith(f"{other}.")], f"{name} imports its own face"
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_no_circles_between_wings():
    graph: dict[str, set[str]] = {}
    for a, b in arrows():
        graph.setdefault(a, set()).add(b)
    TopologicalSorter(graph).prepare()


def test_reports_read_run_directories_and_know_nothing_else():
    assert {b for a, b in arrows() if a == "reports"} <= {"errors", "formats", "json_files", "processes", "units"}


def test_recipes_stand_on_experiments_and_not_the_other_way():
    below = {"experiment", "agent", "trainer", "comparison"}
    assert not {(a, b) for a, b in arrows() if a in below and b == "recipes"}


def test_the_face_imports_nothing_of_the_house_at_import_time():
    assert imports_of(ROOT / "__init__.py") == set()


@pytest.mark.parametrize("name", sharedq.__all__)
def test_the_face_leads_to_what_it_names(name):
    assert getattr(sharedq, name).__name__ == name


def test_the_face_knows_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sharedq.nothing  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import sharedq",
        "import sharedq.reports.statistics",
        "from sharedq.command_line import main; main(['--help'])",
        "from sharedq.command_line import main; main(['--version'])",
        "from sharedq.command_line import main; assert main(['trian', 'cartpole']) == 2",
        "from sharedq.command_line import main; assert main(['complete', '--', 'train', '--out', 'x', '--w']) == 0",
        "from sharedq.command_line import main; assert main(['completion', 'bash']) == 0",
    ],
)
def test_what_is_light_does_not_import_jax(code):
    check = f"import sys; {code}; sys.exit('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


KINDS = {f"{part}/{name}": kind for part, table in TABLES.items() for name, kind in table.items()}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_explained_and_so_is_every_field(name):
    kind = KINDS[name]
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "no one wrote a docstring, so dataclass did"
    explained = {field for field, text in settings.comments(kind).items() if text}
    assert {field.name for field in dataclasses.fields(kind)} <= explained
    assert kind.__dataclass_params__.frozen


def test_every_option_has_a_help_text():
    for name in KINDS:
        part, kind = name.split("/")
        options = Experiment(environment=TABLES["environment"]["cartpole"]()).replace(**{part: kind}).options()
        assert [name for name, option in options.items() if not option.about] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_says_what_it_is_and_pickles_nothing(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the first line of a file says what it is"
    names = {getattr(node, field, None) for node in ast.walk(tree) for field in ("id", "attr", "module", "arg")}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "allow_pickle"} & names
