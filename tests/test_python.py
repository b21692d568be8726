"""The library in Python: training and comparing by name, progress, callbacks, results as arrays, and the notebook."""

import json
import shlex
import sys
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import sharedq
from sharedq import library, reports
from sharedq.command_line import main
from sharedq.environments.probes import PROBES
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.targets import SharedHeads
from sharedq.trainer import _check
from sharedq.training.progress import Silent

SHORT = {"steps": 8_000, "seeds": 2}  # as in the notebook, so that one compiled program serves nearly all tests here
STEPS = [200, 2_000, 4_000, 6_000, 8_000]  # log steps: the first is the end of the warm-up, in which nothing is learned
NOTEBOOK = Path(__file__).parent.parent / "examples" / "first-steps.ipynb"


@pytest.fixture(scope="module")
def seen() -> list:
    """What the callback of `run` was given."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory, seen) -> sharedq.Run:
    """A finished run of two seeds with four log steps. To be read only."""
    out = tmp_path_factory.mktemp("runs") / "run"

    def callback(step, metrics):
        seen.append((step, metrics))

    return sharedq.train("corridor", out, seed=5, progress=None, callback=callback, **SHORT)


def files_of(run: Path) -> dict[str, bytes]:
    """The logs without their times, and the agent: what two equal runs have in common."""
    agents = {path.name: path.read_bytes() for path in run.rglob("agent.safetensors")}
    rows = [line.rsplit(",", 2)[0] for line in (run / "metrics.csv").read_text().splitlines()]
    return {"episodes.csv": (run / "episodes.csv").read_bytes(), "metrics.csv": "\n".join(rows).encode(), **agents}


# Training by name


def test_a_recipe_is_trained_by_its_name(run):
    recipe = sharedq.recipe("corridor").replace(seed=5, **SHORT)
    assert run.experiment() == recipe.to_dict()
    assert run.finished()["steps"] == 8_000
    assert isinstance(run, sharedq.Run)


def test_a_run_may_be_given_in_place_of_its_path(run):
    assert sharedq.load(run, seed=6).seed == 6
    assert sharedq.Run(run) == sharedq.Run(str(run.path)) == run
    assert repr(run) == f"Run({str(run.path)!r})"


@pytest.mark.parametrize(
    ("options", "typed"),
    [
        ({}, ""),
        ({"steps": 4_000, "seeds": 2}, " --steps 4000 --seeds 2"),
        ({"target": "shared_heads", "target.heads": 4}, " --target shared_heads --target.heads 4"),
        ({"target": SharedHeads(heads=2, period=50)}, " --target shared_heads --target.heads 2"),
        ({"algorithm.max_gradient_norm": 1}, " --algorithm.max_gradient_norm 1.0"),
        ({"network": "dense", "network.hidden": (8, 8)}, " --network dense --network.hidden 8,8"),
    ],
)
def test_the_command_of_a_run_is_one_that_another_person_can_type(options, typed):
    base = sharedq.recipe("corridor")
    changed = base.replace(**options)
    command = library._command("train", "corridor", base, changed)
    assert command == f"sharedq train corridor{typed}"
    words = shlex.split(command)[3:]
    assert base.parse(dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))) == changed


def test_a_run_keeps_its_command(run, tmp_path, monkeypatch):
    assert (run.path / "command.txt").read_text() == "sharedq train corridor --steps 8000 --seeds 2 --seed 5\n"
    monkeypatch.setattr("sharedq.library.train_experiment", lambda experiment, out, **options: (out, options))
    assert library.train(sharedq.recipe("corridor"), tmp_path)[1]["command"] is None  # which names the experiment.json
    assert library.train("corridor", tmp_path, command="mine")[1]["command"] == "mine"
    started = library.train("corridor", tmp_path, start_from=run, start_checkpoint=8_000)[1]["command"]
    assert started == f"sharedq train corridor --from {run.path} --from-checkpoint 8000"


def test_a_run_of_an_experiment_is_repeated_from_its_file(tmp_path):
    from sharedq.trainer import repeat

    corridor, command = sharedq.recipe("corridor"), f"sharedq train {tmp_path}/experiment.json"
    assert repeat(tmp_path, corridor) == command
    assert repeat(tmp_path, corridor, "runs/a b") == f"{command} --from 'runs/a b'"
    assert repeat(tmp_path, corridor, Path("runs/a"), "best") == f"{command} --from runs/a --from-checkpoint best"


def test_without_a_folder_a_run_gets_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedq.library.train_experiment", lambda experiment, out, **options: out)
    assert library.train("corridor") == Path("runs/corridor-target-network")
    Path("runs/corridor-shared-heads-k4").mkdir(parents=True)
    four = {"target": "shared_heads", "target.heads": 4}
    assert library.train("corridor", **four) == Path("runs/corridor-shared-heads-k4-2")
    assert library.train(sharedq.recipe("corridor"), **four) == Path("runs/probe-shared-heads-k4")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sharedq.train(3), "^give an Experiment or the name of a recipe, not 3$"),
        (lambda: sharedq.train("corridors"), "^unknown recipe 'corridors': did you mean corridor"),
        (lambda: sharedq.train("corridor", 3), "^out must be a path, not 3$"),
        (lambda: sharedq.train("corridor", "out", steps="many"), "takes a whole number, not 'many'$"),
        (lambda: sharedq.train("corridor", "out", seeds=1.5), "^seeds takes a whole number, not '1.5'$"),
        (lambda: sharedq.train("corridor", "out", target=3), "^target must be one of .* not 3$"),
        (lambda: sharedq.train("corridor", "out", stepz=3), "^unknown option 'stepz': did you mean steps"),
        (lambda: sharedq.train("corridor", "out", progres=None), "^unknown option 'progres': did you mean progress"),
        (lambda: sharedq.train("corridor", "out", progress=3), '^progress must be "auto", None or an object '),
        (lambda: sharedq.train("corridor", "out", progress="no"), '^progress must be "auto", None or an object '),
        (lambda: sharedq.train("corridor", "out", callback=3), "^callback must be a function, not 3$"),
        (lambda: sharedq.resume(None), "^the folder of a run must be a path, not None$"),
        (lambda: sharedq.resume("out", progress=3), '^progress must be "auto", None or an object '),
        (lambda: sharedq.recipe(3), "^a recipe is given by its name, such as 'cartpole', not by 3$"),
        (lambda: sharedq.compare(3), "^give an Experiment or the name of a recipe, not 3$"),
        (lambda: sharedq.compare("corridor", 3, "out"), "^target must be one of .* not 3$"),
        (lambda: sharedq.compare("corridor", [None], "out"), "^target must be one of .* not None$"),
        (lambda: sharedq.compare("corridor", [], "out"), "^name at least one source to compare$"),
        (lambda: sharedq.compare("corridor", target="shared_heads"), "give them as targets="),
        (lambda: sharedq.compare("corridor", tagets=["shared_heads"]), "^unknown option 'tagets': did you mean target"),
        (lambda: sharedq.compare("corridor", out=3), "^out must be a path, not 3$"),
        (lambda: sharedq.compare("corridor", progress=3), '^progress must be "auto", None or an object '),
        (lambda: sharedq.Run(3), "^the folder of a run must be a path, not 3$"),
        (lambda: sharedq.Run("nowhere"), "^there is no folder .*nowhere: give the folder of a run$"),
        (lambda: sharedq.Comparison(3), "^the folder of a comparison must be a path, not 3$"),
        (lambda: sharedq.Comparison("nowhere"), "^there is no .*compare.json: give the folder of a comparison$"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SharedqError, match=says):
        call()
    assert list(tmp_path.iterdir()) == []


# Progress


class Notes(Silent):
    def __init__(self):
        self.said, self.steps = [], []

    def say(self, text):
        self.said.append(text)

    def update(self, step, *rest, **more):
        self.steps.append(step)


def test_training_shows_its_progress_and_remarks_unless_told_not_to(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sharedq.trainer._remarks", lambda experiment: ["a remark"])
    sharedq.train("corridor", tmp_path / "run", **SHORT)
    told = capsys.readouterr().out
    assert told.startswith("a remark\n")
    assert "run: 8,000 of 8,000 steps" in told and "finished 8,000 steps of 2 seeds" in told
    (tmp_path / "run/finished.json").unlink()
    sharedq.resume(tmp_path / "run")
    assert "finished 8,000 steps" in capsys.readouterr().out
    for progress in (None, notes := Notes()):
        (tmp_path / "run/finished.json").unlink()
        sharedq.resume(tmp_path / "run", progress=progress)
    assert capsys.readouterr() == ("", "")
    assert notes.said[0] == "a remark" and "finished" in notes.said[-1]


# The callback


def test_a_callback_sees_each_row_of_the_log_for_each_seed(run, seen):
    assert [step for step, _ in seen] == STEPS
    table, episodes = run.metrics(), run.episodes()
    since = 0
    for step, metrics in seen:
        for name in set(metrics) - {"return"}:
            np.testing.assert_array_equal(np.float32(metrics[name]), np.float32(table[name][table["step"] == step]))
        for place, seed in enumerate((5, 6)):
            ended = (episodes["seed"] == seed) & (episodes["step"] > since) & (episodes["step"] <= step)
            assert metrics["return"][place] == pytest.approx(episodes["return"][ended].mean(), rel=1e-6)
        since = step
        assert set(metrics) == ({"return"} if step == 200 else {"return", "loss", "q_value", "td_error"})


def test_a_seed_without_a_finished_episode_has_no_return(run):
    from sharedq.training.loop import _asks_to_stop
    from sharedq.training.program import ChunkResult, FinishedEpisodes

    ended = [FinishedEpisodes(*np.array([[3, 5], [1.0, 2.0], [3, 2]])), FinishedEpisodes(*np.empty((3, 0)))]
    seen = {}
    told = ChunkResult({}, ended, np.array([-1, -1]), np.array([True, True]))
    assert not _asks_to_stop(lambda step, metrics: seen.update(metrics), 5, told, np.array([7.0, 8.0]))
    np.testing.assert_array_equal(seen["return"], [1.5, np.nan])
    np.testing.assert_array_equal(seen["evaluation_return"], [7, 8])
    assert _asks_to_stop(lambda step, metrics: metrics["return"][0] > 1, 5, told, None)  # NumPy's own True
    for answer, stops in ((1, True), (jnp.array(True), True), (jnp.array(False), False), (0, False)):
        assert _asks_to_stop(lambda step, metrics, answer=answer: answer, 5, told, None) is stops


@pytest.mark.parametrize("callback", [lambda: None, lambda step: True, lambda step, metrics, more: None])
def test_a_callback_that_takes_other_arguments_is_refused_at_once(tmp_path, callback):
    with pytest.raises(SharedqError, match=r"\Acallback is called as callback\(step, metrics\), .*two parameters\Z"):
        sharedq.train("corridor", tmp_path / "run", callback=callback, **SHORT)
    assert not (tmp_path / "run").exists()
    _check(None, lambda *given, more=1: None)
    _check(None, max)  # it does not tell its signature


def test_a_callback_stops_a_run_which_then_goes_on_as_if_it_never_stopped(run, tmp_path):
    notes = Notes()
    options = SHORT | {"seed": 5}  # no checkpoint is due but at the stop
    out = tmp_path / "run"
    stopped = sharedq.train("corridor", out, progress=notes, callback=lambda step, metrics: step >= 4_000, **options)
    assert stopped.finished() is None and notes.steps == STEPS[:3]
    assert notes.said[-1] == f"stopped by the callback at step 4,000; to continue: sharedq resume {stopped.path}"
    assert sharedq.load(stopped).step == 4_000
    assert set(stopped.metrics()["step"]) == {2_000, 4_000}

    def breaks(step, metrics):
        assert step == 6_000, "a row is seen once"
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        sharedq.resume(stopped, progress=None, callback=breaks)
    resumed = sharedq.resume(stopped, progress=None, callback=lambda step, metrics: step == 8_000)  # too late to stop
    assert resumed.finished()["steps"] == 8_000
    assert files_of(resumed.path) == files_of(run.path)


# Results


def test_tables_are_arrays_by_column(run):
    metrics, episodes = run.metrics(), run.episodes()
    header = (run.path / "metrics.csv").read_text().splitlines()[0]
    assert ",".join(metrics) == header
    assert metrics["step"].tolist() == [2_000, 2_000, 4_000, 4_000, 6_000, 6_000, 8_000, 8_000]
    assert metrics["seed"].tolist() == 4 * [5, 6]
    assert metrics["loss"].dtype == np.float64 and np.isfinite(metrics["loss"]).all()
    assert list(episodes) == ["step", "seed", "return", "length"]
    assert {episodes[name].dtype for name in ("step", "seed", "length")} == {np.dtype(np.int64)}
    assert {len(column) for column in episodes.values()} == {len((run.path / "episodes.csv").read_text().split()) - 1}
    assert [len(column) for column in run.evaluations().values()] == [0, 0, 0, 0]


def test_tables_are_ready_for_pandas(run):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(run.episodes())
    assert frame.groupby("seed")["return"].mean().index.tolist() == [5, 6]


def written(folder: Path, episodes: str, evaluations: str = "") -> sharedq.Run:
    """A run with these tables that nobody trained."""
    folder.mkdir()
    described = {"schema": 1, "experiment": sharedq.recipe("corridor").replace(seeds=2, steps=100).to_dict()}
    (folder / "experiment.json").write_text(json.dumps(described))
    for name, rows in (("episodes", episodes), ("evaluations", evaluations)):
        (folder / f"{name}.csv").write_text("step,seed,return,length\n" + "".join(f"{row}\n" for row in rows.split()))
    return sharedq.Run(folder)


def test_evaluations_and_curves_of_known_tables(tmp_path):
    run = written(tmp_path / "run", "10,0,1,10 20,0,3,10 60,0,5,40 100,1,4,100", "50,0,1,4 50,0,2,4 50,1,0,4")
    assert {name: column.tolist() for name, column in run.evaluations().items()} == {
        "step": [50, 50, 50],
        "seed": [0, 0, 1],
        "return": [1, 2, 0],
        "length": [4, 4, 4],
    }
    curves = run.curves(points=4)
    np.testing.assert_array_equal(curves["step"], [25, 50, 75, 100])
    np.testing.assert_array_equal(curves["returns"], [[2, 2, np.nan, np.nan], [np.nan, np.nan, np.nan, 4]])
    assert curves["seeds"].tolist() == [0, 1]
    for points, says in ((0, "points must be at least 1, not 0"), ("few", "points takes a whole number, not 'few'")):
        with pytest.raises(SharedqError, match=f"^{says}$"):
            run.curves(points)


def test_curves_are_those_of_the_report(run):
    from sharedq.reports.summary import summarise

    (task,) = summarise(reports.load(run.path)).tasks
    curves = run.curves()
    np.testing.assert_array_equal(curves["step"], task.grid)
    np.testing.assert_allclose(curves["returns"].mean(axis=0), task.results[0].curve.value)  # the IQM of two seeds


def test_a_notebook_shows_the_learning_curve(run):
    (figure,) = run.plot()
    assert figure.name == "learning_curves" and figure.png.startswith(b"\x89PNG")
    assert repr(run.plot()) == "Figures(learning_curves)"
    assert run._repr_html_().count("<img src=") == 1


def test_where_nothing_can_be_drawn_a_notebook_shows_text(run, tmp_path, monkeypatch):
    empty = written(tmp_path / "run", "")
    with pytest.raises(SharedqError, match=r"^no episode has ended in .* yet, so there is nothing to plot$"):
        empty.plot()
    assert empty._repr_html_() is None
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SharedqError, match="needs the package 'matplotlib': run  pip install 'sharedq"):
        run.plot()
    assert run._repr_html_() is None


# Comparing


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[sharedq.Comparison, Notes]:
    """Two sources, compared in Python, and what was said meanwhile."""
    notes, out = Notes(), tmp_path_factory.mktemp("comparisons") / "two"
    targets = ["target_network", SharedHeads(heads=3, period=50)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedq.reports.page.draw", lambda summary: {})
        patch.setattr("sharedq.reports.page.html", lambda *_: "page")
        patch.setattr("sharedq.reports.page.write_files", lambda *_: None)
        return sharedq.compare("corridor", targets, out, progress=notes, **SHORT), notes


def test_a_comparison_has_its_runs_by_their_labels(compared):
    comparison, notes = compared
    assert list(comparison.runs) == ["target network", "shared heads K=3"]
    network, heads = comparison.runs.values()
    assert network.experiment()["target"]["kind"] == "target_network" and heads.experiment()["target"]["heads"] == 3
    assert all(run.finished()["steps"] == 8_000 for run in (network, heads))
    assert comparison.page == comparison.path / "report.html"
    assert repr(sharedq.Comparison(comparison)) == f"Comparison({str(comparison.path)!r})"
    assert any(text.startswith("report so far") for text in notes.said) and notes.steps == 2 * STEPS
    assert len(comparison.findings()) == 1


def test_a_comparison_keeps_a_command_and_is_not_trained_twice(compared, capsys):
    comparison, _ = compared
    command = json.loads((comparison.path / "compare.json").read_text())["command"]
    assert "compare corridor --targets target_network shared_heads:heads=3 " in command
    assert main([*shlex.split(command)[1:], "--out", str(comparison.path)]) == 0  # the same plan
    told = capsys.readouterr().out
    assert told == f"report: {comparison.page}\n"
    assert comparison._repr_html_().count("<img src=") >= 3
    assert comparison.page.exists()


def test_one_source_may_be_a_text_and_the_default_folder_has_the_recipes_name(plans):
    assert plans("corridor", "shared_heads:heads=2", algorithm="dqn").path.parts[-2:] == ("comparisons", "corridor")
    (only,) = json.loads(Path("comparisons/corridor/compare.json").read_text())["runs"]
    assert only["experiment"]["target"]["heads"] == 2
    experiment = Experiment(environment=sharedq.recipe("corridor").environment, network="dense")
    assert plans(experiment).path.parts[-2:] == ("comparisons", "probe")
    planned = json.loads(Path("comparisons/probe/compare.json").read_text())
    assert len(planned["runs"]) == 4 and planned["command"] == ""


@pytest.fixture
def plans(tmp_path, monkeypatch):
    """`compare`, which writes its plan below the current folder. Nothing is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedq.comparison.carry_out", lambda out, *_, **__: out)
    return partial(sharedq.compare, progress=None)


RATES = [1e-3, 2e-3]


@pytest.mark.parametrize(
    ("options", "labels", "ranked", "folder"),
    [
        ({"vary": {"algorithm.learning_rate": RATES[:1]}}, ["target-free", "target network"], False, "corridor"),
        ({"vary": {"lr": RATES}}, ["learning_rate 0.001", "learning_rate 0.002"], True, "corridor-learning_rate"),
        ({"vary": {"environment.name": ["corridor", "action"]}}, 2 * ["target network"], False, "corridor-name"),
        (
            {"vary": {"learning_rate": RATES}, "targets": [SharedHeads(heads=2, period=9), "target_network"]},
            ["shared heads K=2, learning_rate 0.001", "target network, learning_rate 0.001"],
            True,
            "corridor-learning_rate",
        ),
    ],
)
def test_the_command_of_a_sweep_plans_the_same(plans, options, labels, ranked, folder):
    path = plans("corridor", **options).path
    assert path.parts[-2:] == ("comparisons", folder)
    planned = json.loads((path / "compare.json").read_text())
    assert [one["label"] for one in planned["runs"]][: len(labels)] == labels
    assert planned.get("ranked", False) == ranked
    Path("comparisons").rename("before")
    assert main(shlex.split(planned["command"])[1:]) == 0
    assert json.loads((path / "compare.json").read_text()) == planned


# The notebook


@pytest.mark.usefixtures("undrawn", "capsys")
def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    ids = []
    for number, cell in enumerate(notebook["cells"]):
        ids.append(cell["id"])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert len(set(ids)) == len(ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparisons", "runs"]
    first_cell = PROBES["corridor"].observations[0]
    assert names["agent"].act(first_cell) == 1


def test_the_command_of_a_sweep_has_its_values(plans):
    planned = json.loads((plans("corridor", vary=VARIED, steps=400).path / "compare.json").read_text())
    assert planned["command"] == "sharedq compare corridor --steps 400 --algorithm.learning_rate 0.1 0.2"


VARIED = {"algorithm.learning_rate": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        (3, "vary takes settings with lists of values, not 3"),
        ("algorithm.learning_rate", "vary takes settings with lists of values"),
        ({"algorithm.learning_rate": 0.1}, "vary takes a list of values for algorithm.learning_rate"),
        ({"target": ["shared_heads", "online_network"]}, "give them as targets="),
        ({"algorithm.learning_rates": [0.1, 0.2]}, "has no option .learning_rates.: did you mean learning_rate"),
    ],
)
def test_what_cannot_be_varied_is_told_in_one_line(tmp_path, vary, told):
    with pytest.raises(SharedqError, match=told):
        sharedq.compare("corridor", out=tmp_path / "sweep", vary=vary, progress=None)
    assert not (tmp_path / "sweep").exists()
