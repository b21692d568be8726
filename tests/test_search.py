"""Searching for settings end to end: processes that are stopped and killed, equal budgets, pruning, and bad input."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import pytest
from test_reports import STEPS, make_run

from sharedq import reports
from sharedq.command_line import main
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.recipes import recipe
from sharedq.reports.summary import summarise
from sharedq.reports.trials import CHECKS, values_of
from sharedq.runs import RunDirectory
from sharedq.search_space import Source, Varied, check, drawn, read_varied

SHORT = "--environment.name action --training.warm_up 100 --training.log_period 50 --algorithm.epsilon_steps 100"
WORDS = (
    f"search corridor {SHORT} --steps 1000 --seeds 2 --seed 1 --trials 2 --targets online_network target_network "
    "--vary epsilon_end=0..1 learning_rate=0.02,1e38 period=1..50"
).split()

SLOW = (  # a pole falls at once if the action is always the same, and later if it is random
    "search cartpole --environment gymnasium --environment.id CartPole-v1 --training interactive --steps 12000 "
    "--training.log_period 500 --training.warm_up 500 --training.update_period 200 --epsilon_steps 1 "
    "--vary epsilon_end=1,0"
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Lets the processes that train compile with few optimisations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A finished search of two sources."""
    out = tmp_path_factory.mktemp("searched") / "out"
    assert main([*WORDS, "--out", str(out)]) == 0
    return out


def trials_of(out: Path) -> dict[str, list[tuple]]:
    """The settings, the state, the value and the values on the way of each trial, by its study in the journal."""
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "journal.log")))
    names = optuna.get_all_study_names(storage)
    return {
        name: [
            (one.params, one.state.name, one.value, one.intermediate_values)
            for one in optuna.load_study(study_name=name, storage=storage).trials
        ]
        for name in names
    }


def told(out: Path) -> str:
    """The words of the page."""
    page = (out / "search.html").read_text()
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page[page.index("<main>") : page.index("</main>")])).split())


def wait_for(found, process) -> None:
    end = time.monotonic() + 120
    while not found():
        assert process.poll() is None, "the search ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_source_has_as_many_trials_with_the_same_budget(searched):
    trials = trials_of(searched)
    assert {name: len(found) for name, found in trials.items()} == {"online_network": 2, "target_network": 2}
    runs = [RunDirectory.open(path.parent) for path in sorted(searched.glob("trials/*/*/experiment.json"))]
    assert len(runs) == 4
    budgets = {(x["seed"], x["seeds"], x["training"]["steps"]) for x in (run.experiment() for run in runs)}
    assert budgets == {(1, 2, 1000)}
    assert all("period" in params for params, *_ in trials["target_network"])
    assert not any("period" in params for params, *_ in trials["online_network"])


def test_the_value_of_a_trial_is_the_area_that_reports_rank_by(searched):
    ended = [place for place, one in enumerate(trials_of(searched)["target_network"], 1) if one[1] == "COMPLETE"]
    assert ended
    for number in ended:
        folder = searched / "trials" / "target-network" / f"{number:04d}"
        area = summarise(reports.load(folder)).tasks[0].results[0].area.value
        assert trials_of(searched)["target_network"][number - 1][2] == pytest.approx(area, rel=1e-12)


def test_a_trial_that_diverged_is_named_and_the_search_goes_on(searched):
    states = {name: [one[1] for one in found] for name, found in trials_of(searched).items()}
    assert "FAIL" in states["online_network"] and "COMPLETE" in states["online_network"]
    assert "failed: learning diverged" in told(searched)


def test_the_best_command_of_the_page_trains_the_best_trial(searched):
    page = (searched / "search.html").read_text()
    best = [unescape(words) for words in re.findall(r"<pre>(sharedq train [^<]*)</pre>", page)]
    assert len(best) == 2
    trials = trials_of(searched)["target_network"]
    number = max((one[2], place) for place, one in enumerate(trials, 1) if one[1] == "COMPLETE")[1]
    options = iter(best[1].split()[3:])
    asked = recipe("corridor").parse({name.removeprefix("--"): next(options) for name in options})
    assert asked == Experiment.from_dict(
        RunDirectory.open(searched / "trials" / "target-network" / f"{number:04d}").experiment()
    )


def test_a_finished_search_trains_nothing_again(searched, capsys):
    before = {path: path.stat().st_mtime_ns for path in searched.glob("trials/**/*")}
    assert main([*WORDS, "--out", str(searched)]) == 0
    assert {path: path.stat().st_mtime_ns for path in searched.glob("trials/**/*")} == before
    assert "trial" not in capsys.readouterr().out


def test_stopped_killed_and_repeated_a_search_ends_as_one_that_was_not(searched, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sharedq", *WORDS, "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for((out / "trials/online-network/0001/experiment.json").exists, first)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate()
    assert first.returncode == 130 and "to continue, repeat: sharedq search corridor" in errors
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for((out / "trials/target-network/0001/experiment.json").exists, second)
    second.kill()
    second.wait()
    with (out / "journal.log").open("a") as journal:
        journal.write('{"op_code":6,"half a li')  # a process that was killed while it wrote
    assert main(command[3:]) == 0
    assert trials_of(out) == trials_of(searched)


def test_a_trial_that_learns_less_than_the_others_is_stopped_early(tmp_path, monkeypatch):
    monkeypatch.setattr("sharedq.search.UNPRUNED", 1)
    assert main([*SLOW.split(), "--seed", "2", "--trials", "2", "--out", str(tmp_path / "out")]) == 0
    (good, _, _, whole), (bad, state, _, part) = trials_of(tmp_path / "out")["search"]
    assert (good["epsilon_end"], bad["epsilon_end"], state) == ("1", "0", "PRUNED")
    assert list(whole) == list(range(1, CHECKS)) and list(part) == [1, 2, 3]
    run = reports.load(tmp_path / "out" / "trials" / "0002").runs[0]
    assert not run.finished and run.reached.max() < 12_000
    assert "pruned at 30 %" in told(tmp_path / "out")


def test_a_search_goes_on_with_more_trials_and_the_same_settings_are_not_trained_twice(tmp_path):
    words = f"search corridor {SHORT} --steps 400 --vary epsilon_end=0.5,0 --out".split()
    for trials in ("1", "2"):
        assert main([*words, str(tmp_path / "out"), "--trials", trials]) == 0
    trials = trials_of(tmp_path / "out")["search"]
    assert [one[:3] for one in trials] == [trials[0][:3]] * 2
    assert len(list((tmp_path / "out" / "trials").glob("*/experiment.json"))) == 1
    assert "so it was not trained again" in told(tmp_path / "out")


def test_the_value_so_far_is_the_area_up_to_there(searched):
    folder = searched / "trials" / "target-network" / "0001"
    values = values_of(folder, start=100)
    assert len(values) == CHECKS and values[-1] == summarise(reports.load(folder)).tasks[0].results[0].area.value
    run = reports.load(folder).runs[0]
    inside = (run.episodes.step > 100) & (run.episodes.step <= 500)
    seeds = [run.episodes.returns[inside & (run.episodes.seed == seed)].mean() for seed in run.seeds]
    assert values[4] == pytest.approx(sum(seeds) / 2, abs=0.1)  # windows of a curve weigh episodes a little otherwise


def test_a_check_counts_once_the_run_has_passed_it(tmp_path):
    at_it, past_it = (make_run(tmp_path / str(until), [1.0], until=until, finished=False) for until in (500, 520))
    assert len(values_of(at_it, start=0)) == 4 and len(values_of(past_it, start=0)) == 5


def test_a_run_from_data_is_ranked_by_its_evaluations_as_in_reports(tmp_path):
    run = make_run(tmp_path / "run", [1.0, 2.0])
    described = json.loads((run / "experiment.json").read_text())
    described["experiment"]["training"] |= {"kind": "offline"}
    (run / "experiment.json").write_text(json.dumps(described))
    rows = [f"{step},{seed},{step + seed},1" for step in (STEPS // 4, STEPS // 2, STEPS) for seed in (0, 1)]
    (run / "evaluations.csv").write_text("\n".join(["step,seed,return,length", *rows]) + "\n")
    values = values_of(run, start=0)
    assert values[-1] == pytest.approx(STEPS * (1 / 4 + 1 / 2 + 1) / 3 + 0.5)
    assert values[-1] == summarise(reports.load(run)).tasks[0].results[0].area.value
    assert values[4] == pytest.approx(STEPS * (1 / 4 + 1 / 2) / 2 + 0.5)


# ---- What is varied ----


def test_ranges_are_read():
    assert read_varied(
        ["lr=log:1e-5..1e-3", "period=1..50", "heads=1,3", "network.widths=[64,64],[8]", "tau=-1..1"]
    ) == [
        Varied("lr", ("1e-5", "1e-3"), is_range=True, is_log=True),
        Varied("period", ("1", "50"), is_range=True),
        Varied("heads", ("1", "3")),
        Varied("network.widths", ("[64,64]", "[8]")),
        Varied("tau", ("-1", "1"), is_range=True),
    ]


def test_a_setting_that_a_kind_lacks_is_left_out_of_its_trials():
    base, varied = recipe("corridor"), read_varied(["target=shared_heads,online_network", "target.heads=1,3,9"])
    assert {one.kind("target") for one in check(base, {}, [Source("", {})], varied)} == {
        "shared_heads",
        "online_network",
    }
    choose = {"target": "shared_heads", "target.heads": "9"}.get
    assert drawn(base, {}, varied, lambda name, _: choose(name), None) == {
        "target": "shared_heads",
        "target.heads": "9",
    }
    assert drawn(base, {}, varied, lambda *_: "online_network", None) == {"target": "online_network"}


def test_drawn_numbers_have_the_type_of_the_setting_and_stay_inside_the_range():
    varied = read_varied(["learning_rate=log:1.23456e-4..1e-2", "period=1..50"])
    low = drawn(recipe("corridor"), {}, varied, None, lambda one, low, high: low)
    high = drawn(recipe("corridor"), {}, varied, None, lambda one, low, high: high)
    assert low == {"learning_rate": "0.0001235", "period": "1"}
    assert high == {"learning_rate": "0.01", "period": "50"}
    middle = drawn(recipe("corridor"), {}, varied[:1], None, lambda *_: 0.00123456789)
    assert middle == {"learning_rate": "0.001235"}


BAD = {
    "--vary learning_rat=0..1 --trials 2": "did you mean --learning_rate",
    "--vary learning_rate=1..0.1 --trials 2": "the range 1..0.1 of learning_rate is empty",
    "--vary learning_rate=log:0..1 --trials 2": "begin it above 0",
    "--vary learning_rate=log:1,2 --trials 2": "is written as LOW..HIGH",
    "--vary learning_rate=a..b --trials 2": "is written as LOW..HIGH",
    "--vary gamma=0.1..0.9 --trails 2": "unknown option '--trails'",
    "--vary learning_rate=-1..1 --trials 2": "learning_rate",
    "--vary gamma=0.5..1.5 --trials 2": "gamma",
    "--vary period=0.5..10 --trials 2": "takes a whole number",
    "--vary learning_rate --trials 2": "NAME=RANGE",
    "--vary gamma=0.9 --trials 2": "write --gamma 0.9 instead",
    "--vary gamma=0.9,,0.8 --trials 2": "empty value",
    "--vary gamma=0.9,0.9 --trials 2": "a value twice",
    "--vary gamma=0.1..0.9 gamma=0.2,0.3 --trials 2": "gamma twice",
    "--vary gamma=0.1..0.9 --gamma 0.5 --trials 2": "gamma is varied and has a value",
    "--vary gamma=0.1..0.9 --trials 0": "--trials must be at least 1",
    "--vary gamma=0.1..0.9 --trials 1 --jobs 0": "--jobs must be at least 1",
    "--vary gamma=0.1..0.9": "needs --trials",
    "--trials 2": "needs --vary",
    "--vary steps=100,200 --trials 2": "the same seeds and steps",
    "--vary environment.name=corridor,action --trials 2": "the same task",
    "--vary period=1..5 --trials 2 --lr 0.1 0.2": "--vary lr=0.1,0.2",
    "--vary target=online_network,target_network --trials 2 --targets online_network": "target is varied",
    "--vary heads=1,3 --trials 2 --targets online_network": "heads",
    "--vary period=1..5 --trials 2 --targets online_network online_network": "trained twice",
    "--vary period=1..5 --trials 2 --steps 50 --training.warm_up 100": "the warm-up takes 100 of 50 steps",
    "--vary training.warm_up=10,500,20 --trials 2 --steps 400": "the warm-up takes 500 of 400 steps",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_writes_nothing(words, tmp_path, capsys):
    assert main(["search", "corridor", *words.split(), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("sharedq: ") and line.count("\n") == 1 and BAD[words] in line
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(searched, tmp_path, capsys):
    def refused(*words) -> str:
        before = {path: path.read_bytes() for path in searched.glob("*") if path.is_file()}
        assert main([*words, "--out", str(searched)]) == 2
        assert {path: path.read_bytes() for path in searched.glob("*") if path.is_file()} == before
        return capsys.readouterr().err

    assert "its options seed is 1 and not 2" in refused(*[word if word != "1" else "2" for word in WORDS])
    fewer = ["1" if before == "--trials" else word for before, word in zip(["", *WORDS], WORDS, strict=False)]
    assert "has 2 trials already: give --trials 2 or more, not 1" in refused(*fewer)
    changed = [word.replace("=1..50", "=1..60") for word in WORDS]
    assert "its vary is" in refused(*changed) and "another search" in refused(*changed)
    (tmp_path / "letter.txt").write_text("mine")
    assert main([*WORDS, "--out", str(tmp_path)]) == 2
    assert "holds letter.txt and no search" in capsys.readouterr().err
    assert main(["resume", str(searched)]) == 2
    assert "repeat its command" in capsys.readouterr().err


def test_without_optuna_the_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sharedq.search.find_spec", lambda name: None)
    assert (
        main(["search", "corridor", "--vary", "gamma=0.1..0.9", "--trials", "1", "--out", str(tmp_path / "out")]) == 2
    )
    assert "pip install 'sharedq[search]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_damaged_journal_or_plan_is_one_line(searched, tmp_path, capsys):
    for name, content in (("journal.log", b"{}\n{]\n{}\n"), ("search.json", b"[]")):
        out = shutil.copytree(searched, tmp_path / name)
        (out / name).write_bytes(content)
        assert main([*WORDS, "--out", str(out)]) == 2
        line = capsys.readouterr().err
        assert "damaged" in line and line.count("\n") == 1


def test_the_page_shows_no_text_as_markup(tmp_path):
    from sharedq.reports.trials import Trial, Tuned, write

    hostile = "<script>alert(1)</script>"
    trial = Trial(1, "trials/0001", 1.5, f"finished {hostile}", {hostile: hostile}, {})
    tuned = Tuned(hostile, "target_network", [trial], {hostile: 1.0}, trial, f"sharedq train {hostile}")
    page = write(tmp_path, hostile, hostile, {hostile: "choices"}, [tuned], hostile, True).read_text()
    assert hostile not in page and page.count("&lt;script&gt;") > 8


def test_a_page_of_somebody_else_is_left_alone(tmp_path):
    from sharedq.reports.trials import check_page

    (tmp_path / "search.html").write_text("mine")
    with pytest.raises(SharedqError, match="left alone"):
        check_page(tmp_path)


def test_an_option_that_only_the_varied_kinds_have_may_stand_beside_them(tmp_path):
    words = ["--vary", "target=maxmin,redq", "--target.networks", "3", "--trials", "1", "--steps", "300"]
    assert main(["search", "corridor", *words, "--training.warm_up", "100", "--out", str(tmp_path / "out")]) == 0
    assert "finished" in (tmp_path / "out" / "search.html").read_text()
