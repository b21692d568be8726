"""Comparing sources of targets end to end, and going on with a comparison that was killed."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sharedq import reports
from sharedq.collecting import collect
from sharedq.command_line import main
from sharedq.comparison import Member, labels_of, plan, planned, sweep, with_target
from sharedq.datasets.store import Store
from sharedq.errors import SharedqError
from sharedq.recipes import recipe

SMALL = ("--seeds", "3", "--steps", "4000", "--training.log_period", "1000")
THREE = ("online_network", "target_network", "shared_heads:heads=3")
FIXTURE = Path(__file__).parent / "fixtures" / "0.1.0" / "comparison"
TIMINGS = ("steps_per_second", "seconds")


def command(out: Path, *targets: str) -> list[str]:
    return ["compare", "corridor", *SMALL, "--targets", *targets, "--out", str(out)]


def runs_of(out: Path) -> dict[str, tuple]:
    """What each run ended with, but not how long it took."""

    def rows(path: Path) -> list[dict[str, str]]:
        with path.open() as file:
            return [{k: x for k, x in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]

    return {
        run.name: (
            (run / "checkpoints/000000004000/agent.safetensors").read_bytes(),
            rows(run / "metrics.csv"),
            rows(run / "episodes.csv"),
        )
        for run in sorted((out / "runs").iterdir())
    }


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """A finished comparison; to be copied."""
    out = tmp_path_factory.mktemp("comparisons") / "three"
    assert main(command(out, *THREE)) == 0
    return out


def test_every_source_has_a_run_and_the_page_speaks_of_all(compared):
    plan = json.loads((compared / "compare.json").read_text())
    labels = ["target-free", "target network", "shared heads K=3"]
    assert [one["label"] for one in plan["runs"]] == labels
    assert plan["reference"] == "target network"
    assert all((compared / one["folder"] / "finished.json").exists() for one in plan["runs"])
    assert len({agent for agent, _, _ in runs_of(compared).values()}) == 3
    page = (compared / "report.html").read_text()
    assert all(label in page for label in labels)


def test_each_run_is_that_of_the_source_alone(compared, tmp_path):
    alone = ["train", "corridor", *SMALL, "--target", "shared_heads", "--target.heads", "3"]
    assert main([*alone, "--out", str(tmp_path / "runs/shared-heads-k3")]) == 0
    assert runs_of(tmp_path)["shared-heads-k3"] == runs_of(compared)["shared-heads-k3"]


@pytest.mark.parametrize("again", ["the same command", "resume"])
def test_a_comparison_that_is_done_trains_nothing_again(compared, tmp_path, again):
    out = shutil.copytree(compared, tmp_path / "out")
    before = times(out / "runs")
    assert main(["resume", str(out)] if again == "resume" else command(out, *THREE)) == 0
    assert times(out / "runs") == before


def test_killed_in_the_middle_it_goes_on_with_what_is_left(compared, tmp_path):
    two, out = THREE[1:], tmp_path / "out"
    code = "import sys; from sharedq.command_line import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, *command(out, *two)], stdout=subprocess.DEVNULL)
    while not (out / "runs/shared-heads-k3/experiment.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "shared heads K=3" in (out / "report.html").read_text(), (
        "a page on what there is, which names what is missing"
    )

    done = out / "runs/target-network"
    before = times(done)
    assert main(command(out, *two)) == 0
    assert times(done) == before
    assert (out / "report.html").exists()
    assert runs_of(out) == {name: run for name, run in runs_of(compared).items() if (out / "runs" / name).exists()}


def test_two_processes_share_the_runs_of_a_comparison(compared, tmp_path, capsys):
    """What a process has claimed is left to it, and taken over once the process has been killed."""
    out, code = tmp_path / "out", "import sys; from sharedq.command_line import main; sys.exit(main())"
    with subprocess.Popen([sys.executable, "-c", code, *command(out, *THREE)], stdout=subprocess.DEVNULL) as process:
        while not list(out.glob("runs/*/experiment.json")):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        assert main(command(out, *THREE)) == 0
        assert "another process trains 1 of 3, target-free" in capsys.readouterr().out
        assert sorted(path.parent.name for path in out.glob("runs/*/finished.json")) == [
            "shared-heads-k3",
            "target-network",
        ]
        process.kill()
    assert main(command(out, *THREE)) == 0
    assert runs_of(out) == runs_of(compared)
    assert not list(out.glob("runs/*.claim")) and main(["verify", str(out)]) == 0


def test_a_process_that_plans_later_joins_one_that_trains_already(tmp_path, monkeypatch):
    members, out = sweep(recipe("corridor"), {}, ["target_network"]), tmp_path / "out"

    def planned_by_another(experiment):
        monkeypatch.setattr("sharedq.comparison.prepared", lambda _: None)
        plan("corridor", members, out, "", overwrite=False)
        held.enter_context(held_elsewhere(out / "lock", "shared"))

    with ExitStack() as held:
        monkeypatch.setattr("sharedq.comparison.prepared", planned_by_another)
        plan("corridor", members, out, "", overwrite=False)
        with pytest.raises(SharedqError, match="another process is writing"):
            plan("corridor", members, out, "", overwrite=True)


def test_a_run_that_is_resumed_elsewhere_stops_no_comparison(finished, capsys):
    (finished / "runs/target-network/finished.json").unlink()
    shutil.rmtree(finished / "runs/target-free")
    with held_elsewhere(finished / "runs/target-network/lock", "alone"):
        assert main(["resume", str(finished)]) == 0
    assert "another process trains" in capsys.readouterr().out
    assert (finished / "runs/target-free/finished.json").exists()


def test_a_page_that_cannot_be_written_stops_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr("sharedq.comparison.FRESH", 0.0)
    write, failed = reports.write, []

    def fails_in_training(out, training=False, **options):
        if training:
            failed.append(out)
            raise OSError("the disk is full")
        return write(out, **options)

    monkeypatch.setattr("sharedq.reports.write", fails_in_training)
    assert main(command(tmp_path / "out", *THREE[:1])) == 0
    assert failed


HOLD = """
import sys
from pathlib import Path
from sharedq.runs.lock import locked
with locked(Path(sys.argv[1]), "taken", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(file: Path, how: str):
    """Another process holds the lock `file` meanwhile."""
    words = [sys.executable, "-c", HOLD, str(file), how]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


def test_a_run_that_another_process_trains_is_left_to_it(finished, capsys):
    shutil.rmtree(finished / "runs/target-free")
    with held_elsewhere(finished / "runs/target-free.claim", "alone"):
        assert main(["resume", str(finished)]) == 0
        assert "another process trains 1 of" in capsys.readouterr().out
        assert not (finished / "runs/target-free").exists()
    assert main(["resume", str(finished)]) == 0
    assert (finished / "runs/target-free/finished.json").exists()


def test_a_comparison_that_is_being_trained_is_not_replaced(finished):
    with held_elsewhere(finished / "lock", "shared"):
        with pytest.raises(SharedqError, match="another process is writing"):
            replace_with(finished)
        assert main(["resume", str(finished)]) == 0


def test_the_page_is_kept_fresh_while_a_run_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("sharedq.comparison.FRESH", 0.0)
    monkeypatch.setattr("sharedq.comparison.MOST_TIME", 1e9)
    seen, write = [], reports.write

    def watched(out, **options):
        page = write(out, **options)
        summary = json.loads((Path(out) / "summary.json").read_text())
        seen.append(([(one["label"], one["status"]) for one in summary["runs"]], summary["left"]))
        return page

    monkeypatch.setattr("sharedq.reports.write", watched)
    assert main(command(tmp_path / "out", *THREE[:2])) == 0
    during = [left for runs, left in seen if ("target-free", "unfinished") in runs]
    assert len(during) >= 2 and max(left or 0 for left in during) > 0
    assert seen[-1][0][-1][1] == "finished" and seen[-1][1] is None


def refused(capsys, *words) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    return answer.err


def test_another_comparison_in_the_same_folder_is_refused(compared, tmp_path, capsys):
    out = shutil.copytree(compared, tmp_path / "out")
    before = times(out)
    assert "holds another comparison" in refused(capsys, *command(out, *THREE[:2]))
    assert "holds another comparison" in refused(capsys, *command(out, *THREE), "--algorithm.gamma", "0.5")
    assert times(out) == before


def test_the_same_comparison_is_known_by_any_path(compared, tmp_path, monkeypatch):
    shutil.copytree(compared, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert main(command(Path("out"), *THREE)) == 0


@pytest.mark.parametrize("content", ["", "[]", '{"runs": 3}', '{"runs": [{"label": "target network"}]}'])
def test_a_plan_that_was_edited_is_refused(compared, tmp_path, capsys, content):
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "compare.json").write_text(content)
    for words in (command(out, *THREE), ["resume", str(out)]):
        assert "compare.json was edited or damaged" in refused(capsys, *words)


def test_a_run_of_another_experiment_among_them_is_refused(compared, tmp_path, capsys):
    out = shutil.copytree(compared, tmp_path / "out")
    file = out / "runs/target-network/experiment.json"
    file.write_text(file.read_text().replace('"gamma": 0.9', '"gamma": 0.5'))
    assert "target-network holds another run" in refused(capsys, "resume", str(out))


def test_a_missing_matplotlib_stops_a_resumed_comparison_too(compared, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'sharedq[report]'" in refused(capsys, "resume", str(compared))


def test_sources_of_one_name_are_told_apart_by_what_differs():
    corridor = recipe("corridor")
    wanted = ("target_network", "target_network:period=7", "shared_heads:heads=2", "shared_heads:heads=3,period=7")
    assert labels_of([with_target(corridor, one) for one in wanted]) == [
        "target network (period 50)",
        "target network (period 7)",
        "shared heads K=2",
        "shared heads K=3",
    ]
    wanted = ("shared_heads:period=5", "shared_heads:period=7,behaviour_head=mean", "shared_heads:period=7")
    assert labels_of([with_target(corridor, one) for one in wanted]) == [
        "shared heads K=1 (period 5, behaviour_head uniform)",
        "shared heads K=1 (period 7, behaviour_head mean)",
        "shared heads K=1 (period 7, behaviour_head uniform)",
    ]


def test_a_setting_of_several_numbers_can_be_compared():
    wanted = with_target(recipe("corridor"), "shared_heads:heads=2,loss_weights=1,0.5,period=7")
    assert (wanted.target.heads, wanted.target.loss_weights, wanted.target.period) == (2, (1.0, 0.5), 7)
    with pytest.raises(SharedqError, match="is not written as name:option=value"):
        with_target(recipe("corridor"), "shared_heads:2,heads=2")


def test_sources_that_differ_get_folders_that_differ(tmp_path):
    wanted = ("target_network", "target_network:period=7", "target_network:tau=0.5")
    plan("corridor", sweep(recipe("corridor"), {}, wanted), tmp_path / "out", "", overwrite=False)
    folders = [one["folder"] for one in json.loads((tmp_path / "out/compare.json").read_text())["runs"]]
    assert len(set(folders)) == 3


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """The plan that a command writes; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedq.comparison.carry_out", lambda out, *_, **__: out)

    def run(*words: str) -> dict:
        assert main(["compare", "corridor", *words]) == 0
        (written,) = tmp_path.glob("*/*/compare.json")
        return json.loads(written.read_text()) | {"out": written.parent.name}

    return run


def test_several_values_of_an_option_are_a_run_each(plan_of):
    found = plan_of("--lr", "1e-3", "2e-3", "--gamma", "0.5")
    assert [one["label"] for one in found["runs"]] == ["learning_rate 0.001", "learning_rate 0.002"]
    assert (found["reference"], found["ranked"]) == ("learning_rate 0.001", True)
    assert found["out"] == "corridor-learning_rate"
    for one, rate in zip(found["runs"], (1e-3, 2e-3), strict=True):
        settings = one["experiment"]
        assert (settings["algorithm"]["learning_rate"], settings["algorithm"]["gamma"]) == (rate, 0.5)
        assert settings["target"] == {"kind": "target_network", "period": 50, "tau": 1.0, "joint_batch": False}


def test_values_of_several_options_and_sources_are_all_combined(plan_of):
    words = ("--network", "dense", "--hidden", "[8]", "[8,", "8]", "--training.update_period", "2", "4")
    found = plan_of(*words, "--targets", "target_network", "shared_heads:heads=2")
    assert len(found["runs"]) == len({one["folder"] for one in found["runs"]}) == 8
    assert [one["label"] for one in found["runs"]][1:4] == [
        "shared heads K=2, hidden 8, update_period 2",
        "target network, hidden 8, update_period 4",
        "shared heads K=2, hidden 8, update_period 4",
    ]
    last = found["runs"][-1]["experiment"]
    assert (last["network"]["hidden"], last["training"]["update_period"], last["target"]["heads"]) == ([8, 8], 4, 2)


def test_one_source_is_in_no_label_and_may_be_named_either_way(plan_of):
    found = plan_of("--target", "shared_heads", "--target.heads", "2", "3")
    assert [(one["label"], one["experiment"]["target"]["heads"]) for one in found["runs"]] == [
        ("heads 2", 2),
        ("heads 3", 3),
    ]
    corridor = recipe("corridor")
    assert list(sweep(corridor, {"lr": ["1", "2"]}, ["shared_heads"])) == ["learning_rate 1.0", "learning_rate 2.0"]
    varied = {"target": ["lookahead_replicate"], "target.learning_rate": ["1", "2"], "lr": ["3", "4"]}
    assert next(iter(sweep(corridor, varied, ()))) == "target.learning_rate 1.0, algorithm.learning_rate 3.0"


def test_runs_on_several_environments_are_not_ranked_and_have_the_same_labels_in_each(plan_of):
    found = plan_of("--environment.name", "corridor", "action")
    runs = [(one["label"], one["folder"], one["experiment"]["environment"]["name"]) for one in found["runs"]]
    assert "ranked" not in found and runs == [
        ("target network", "runs/name-corridor", "corridor"),
        ("target network", "runs/name-action", "action"),
    ]


def test_a_value_is_the_reference_also_over_several_environments(plan_of):
    found = plan_of("--environment.name", "corridor", "action", "--lr", "1e-3", "2e-3", "--target", "shared_heads")
    assert (found["reference"], "ranked" in found) == ("learning_rate 0.001", False)
    assert [one["label"] for one in found["runs"]] == 2 * ["learning_rate 0.001", "learning_rate 0.002"]


def test_each_source_and_value_is_trained_in_each_environment(plan_of):
    varied = ("--environment.name", "corridor", "action", "--lr", "1e-3", "2e-3")
    found = plan_of(*varied, "--targets", "target_network", "online_network")
    labels = [one["label"] for one in found["runs"]]
    assert len(labels) == 8 and sorted(labels) == sorted(2 * list(dict.fromkeys(labels)))
    assert len({one["folder"] for one in found["runs"]}) == 8
    assert (labels[0], found["reference"]) == 2 * ("target network, learning_rate 0.001",)


def test_an_algorithm_without_targets_is_trained_once(plan_of):
    found = plan_of("--algorithm", "dqn", "bc", "--targets", "online_network", "target_network", "shared_heads:heads=2")
    assert [one["label"] for one in found["runs"]] == [
        "target-free",
        "target network",
        "shared heads K=2",
        "behaviour cloning",
    ]
    assert found["reference"] == "target network" and "ranked" not in found
    last = found["runs"][-1]
    assert (last["folder"], last["experiment"]["target"]) == ("runs/behaviour-cloning", {"kind": "none"})


def test_an_algorithm_without_targets_is_trained_once_for_each_other_value():
    corridor, varied = recipe("corridor"), {"algorithm": ["dqn", "bc"], "lr": ["0.1", "0.2"], "period": ["5", "7"]}
    both = [f"learning_rate {rate}, period {period}" for rate in (0.1, 0.2) for period in (5, 7)]
    words = [*(f"algorithm dqn, {one}" for one in both), *(f"behaviour cloning, learning_rate {x}" for x in (0.1, 0.2))]
    assert list(sweep(corridor, varied, ())) == words
    assert planned("corridor", corridor, varied, None).ranked
    assert list(sweep(corridor, {"algorithm": ["bc"]}, ["target_network", "online_network"])) == ["behaviour cloning"]
    with pytest.raises(SharedqError, match="would be trained twice"):
        sweep(corridor, {"algorithm": ["bc", "bc"]}, ())


def test_a_comparison_on_data_keeps_its_data_and_goes_on(tmp_path, monkeypatch, undrawn, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharedq.reports.page.draw", lambda summary: {task.name: [] for task in summary.tasks})
    collect("data", ["random"], 200, environment="corridor")
    words = "corridor --training offline --replay dataset --data data --steps 20 --algorithm dqn bc"
    words += " --targets online_network"
    words += " --training.evaluation_period 10 --training.evaluation_episodes 2 --training.log_period 10 --batch_size 8"
    assert main(["compare", *words.split(), "--out", "out"]) == 0
    manifest = Store("data").manifest
    for name in ("algorithm-dqn", "behaviour-cloning"):
        run = tmp_path / "out/runs" / name
        noted = json.loads((run / "data.json").read_text())
        assert (noted["steps"], noted["used"], noted["behaviour"]) == (200, 200, "random actions")
        assert json.loads((run / "experiment.json").read_text())["experiment"]["replay"]["content"] == manifest.content
    capsys.readouterr()
    assert main(["compare", *words.split(), "--out", "out"]) == 0
    assert "compiling" not in capsys.readouterr().out  # nothing is trained again
    assert main(["verify", "out"]) == 0 and "data.json: whole\n" in capsys.readouterr().out
    shutil.rmtree("data")
    collect("data", ["random"], 200, environment="corridor", seed=1)
    assert "holds another comparison" in refused(capsys, "compare", *words.split(), "--out", "out")


def test_shares_of_data_are_not_ranked(tmp_path):
    base = recipe("minatar-cql").replace(data="data")
    found = planned("minatar-cql", base, {"fraction": ["0.1", "1"]}, None)
    assert not found.ranked and list(found.members) == ["fraction 0.1", "fraction 1.0"]
    assert planned("minatar-cql", base, {"batch_size": ["8", "32"]}, None).ranked


def test_all_values_are_checked_before_a_folder_is_made(tmp_path, capsys):
    out = tmp_path / "out"
    told = refused(capsys, "compare", "corridor", "--replay.batch_size", "8", "5000", "--out", str(out))
    assert "replay.batch_size 5000 is larger than replay.capacity 1000" in told
    told = refused(capsys, "compare", "corridor", "--network", "table", "convolutional", "--out", str(out))
    assert "network 'convolutional'" in told
    assert not out.exists()


@pytest.mark.parametrize(("training", "seeds", "for_one"), [("interactive", 1, True), ("interactive", 2, False)])
def test_a_comparison_lays_out_the_cores_as_its_runs_do(tmp_path, monkeypatch, training, seeds, for_one):
    asked = []
    monkeypatch.setattr("sharedq.trainer.use_all_cores", lambda for_one, devices: asked.append((for_one, devices)))
    options = {"environment.id": "CartPole-v1", "training": training, "seeds": seeds}
    one = recipe("cartpole").replace(environment="gymnasium", **options)
    plan("cartpole", {"one": Member("one", one)}, tmp_path / "out", "", overwrite=False)
    assert asked == [(for_one, seeds)]  # each seed of environments on the host has a device of its own


def test_what_takes_a_comparisons_place_takes_none_of_its_runs(compared, tmp_path):
    shutil.copytree(compared, tmp_path / "out")
    replace_with(tmp_path / "out")
    assert not any((tmp_path / "out/runs").iterdir())


def test_no_source_twice_and_at_least_one():
    corridor = recipe("corridor")
    with pytest.raises(SharedqError, match="target network would be trained twice"):
        labels_of([corridor, corridor])
    with pytest.raises(SharedqError, match="at least one source"):
        planned("corridor", corridor, {}, [])


def replace_with(out: Path, target: str = "target_network") -> None:
    plan("corridor", sweep(recipe("corridor"), {}, [target]), out, "", overwrite=True)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/thesis/experiment.json", "thesis"),
        ("runs/target-free/thesis.txt", "also holds thesis.txt, which no run has"),
        ("runs/target-free/.git/HEAD", "also holds .git, which no run has"),
        ("report.html", "was not written by a report"),
    ],
)
def test_overwriting_a_comparison_removes_nothing_of_somebody_elses(finished, name, words):
    (finished / name).parent.mkdir(exist_ok=True)
    (finished / name).write_text("years of work")
    before = contents(finished)
    with pytest.raises(SharedqError, match=words):
        replace_with(finished)
    assert contents(finished) == before


@pytest.fixture
def finished(tmp_path):
    return shutil.copytree(FIXTURE, tmp_path / "comparison")


def test_a_folder_in_the_way_of_a_run_is_found_before_anything_is_removed(finished):
    (finished / "runs/shared-heads-k1").mkdir()
    (finished / "runs/shared-heads-k1/notes.txt").write_text("years of work")
    before = contents(finished)
    with pytest.raises(SharedqError, match="shared-heads-k1 is no run, so it is left alone"):
        replace_with(finished, "shared_heads")
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["", "runs", "runs/target-free", "compare.json"])
def test_a_link_is_not_replaced(finished, name):
    (finished / name).rename(finished.parent / "moved")
    (finished / name).symlink_to(finished.parent / "moved")
    before = contents(finished.parent / "moved")
    with pytest.raises(SharedqError, match="is a link"):
        replace_with(finished)
    assert contents(finished.parent / "moved") == before


def test_a_file_called_compare_json_is_no_comparison(tmp_path):
    (tmp_path / "compare.json").write_text("{}")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SharedqError, match=r"also holds thesis\.txt, which no comparison has"):
        replace_with(tmp_path)
    (tmp_path / "thesis.txt").unlink()
    replace_with(tmp_path)
    assert len(json.loads((tmp_path / "compare.json").read_text())["runs"]) == 1


def test_a_comparison_is_replaced_by_one_process(finished, capsys):
    with held_elsewhere(finished / "lock", "alone"):
        assert "another process is writing" in refused(capsys, "resume", str(finished))
        with pytest.raises(SharedqError, match="another process is writing"):
            replace_with(finished)
    assert (finished / "runs/target-free/finished.json").exists()
    assert main(["resume", str(finished)]) == 0


def test_what_a_report_would_replace_is_found_before_training(finished, capsys, monkeypatch):
    monkeypatch.setattr("sharedq.comparison.train", lambda *_, **__: pytest.fail("trained"))
    shutil.rmtree(finished / "runs/target-free")
    (finished / "report.html").write_text("years of work")
    assert "was not written by a report" in refused(capsys, "resume", str(finished))


def test_a_run_in_the_way_is_found_before_the_first_is_trained(finished, capsys, monkeypatch):
    monkeypatch.setattr("sharedq.comparison.train", lambda *_, **__: pytest.fail("trained"))
    shutil.rmtree(finished / "runs/target-free")
    (finished / "runs/target-network/experiment.json").rename(finished / "runs/target-network/notes.json")
    assert "target-network is no run, so it is left alone" in refused(capsys, "resume", str(finished))
