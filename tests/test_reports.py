"""Reports on synthetic run directories: the page says what the data say, stands alone, and survives odd runs."""

import csv
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sharedq.command_line import main
from sharedq.errors import SharedqError
from sharedq.reports import load, write
from sharedq.reports.environment_names import environment_name
from sharedq.reports.figures import spread
from sharedq.reports.finding import p_value
from sharedq.reports.load_runs import load_run
from sharedq.reports.looks import DARK, KINDS, LIGHT, SHADES, looks
from sharedq.reports.measures import file_names
from sharedq.reports.settings_told import portable
from sharedq.reports.summary import summarise
from sharedq.runs import run_files
from sharedq.runs.run_directory import versions
from sharedq.runs.sealed import sealed

STEPS = 1000
FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
VOID = {"meta", "source", "img", "br"}


def make_run(folder: Path, returns: list[float], kind: str = "shared_heads", **changes) -> Path:
    """A run whose seed i gets returns[i] in every episode, one episode each 20 steps, up to `until`."""
    options = {
        "until": STEPS,
        "finished": True,
        "game": "breakout",
        "held": 200,
        "seed": 0,
        "environment": "minatar",
    } | changes
    folder.mkdir(parents=True)
    experiment = {
        "environment": {"kind": options["environment"], "game": options["game"], "time_limit": None},
        "target": {"kind": kind},
        "training": {"steps": STEPS},
        "seeds": len(returns),
        "seed": options["seed"],
    }
    (folder / "experiment.json").write_text(json.dumps({"schema": 1, "experiment": experiment}))
    steps = range(20, options["until"] + 1, 20)
    rows = [f"{step},{seed},{value},20" for step in steps for seed, value in enumerate(returns, options["seed"])]
    (folder / "episodes.csv").write_text("\n".join(["step,seed,return,length", *rows]) + "\n")
    rows = [f"{step},{seed},,{100 + step},1" for step in steps for seed, _ in enumerate(returns, options["seed"])]
    (folder / "metrics.csv").write_text("\n".join(["step,seed,loss,steps_per_second,seconds", *rows]) + "\n")
    size = {"agent": 4 * options["held"] + 570, "weights": 4 * options["held"], "replay": 10_000, "activations": 9}
    cost = {"parameters": {"trained": 100, "held": options["held"]}, "bytes": size}
    (folder / "cost.json").write_text(json.dumps(cost))
    (folder / "command.txt").write_text("sharedq train minatar --target " + kind + "\n")
    if options["finished"]:
        finished = {"steps": STEPS, "seconds": 2.0, "compile_seconds": 1.5, "steps_per_second": 512.0}
        (folder / "finished.json").write_text(json.dumps(finished))
    return folder


def make_comparison(folder: Path, labels: dict[str, str], reference: str | None = None) -> Path:
    """compare.json over runs already made: label -> folder."""
    runs = [{"label": label, "folder": where, "command": "sharedq train"} for label, where in labels.items()]
    content = {"schema": 1, "recipe": "two targets", "command": "sharedq compare", "reference": reference, "runs": runs}
    folder.mkdir(exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def pair(tmp_path):
    """A reference with mean return 10 and a run with exactly twice that and half the parameters."""
    make_run(tmp_path / "runs" / "a", [9, 10, 10, 11], "target_network")
    make_run(tmp_path / "runs" / "b", [20, 20, 20, 20], held=100)
    return make_comparison(tmp_path, {"target network": "runs/a", "heads": "runs/b"}, "target network")


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps text, attributes and table cells."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.open, self.words, self.attributes, self.tags = path.read_text(), [], [], [], set()
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_the_page_says_what_the_data_say(pair):
    page = Page(write(pair))
    first, second = summary_of(pair)["runs"]
    assert (first["area"], second["area"], second["area_ratio"], second["improvement"]) == (10, 20, 2, 1)
    assert second["improvement_low"] is None and "16 of 4 × 4 pairs" in page.text
    assert second["final_return"] == 20 and second["parameters_held"] == 100 and first["bytes_weights"] == 800
    assert first["bytes_beside_weights"] == 570
    assert "heads: 200 %" in page.text
    assert "with 50 % of its parameters; it is above target network (p = 0.029)." in page.text
    assert "not separated" not in page.text
    assert (second["p"], second["separated"], second["seeds_needed"]) == (pytest.approx(2 / 70), True, None)
    assert second["hedges_g"] == pytest.approx(10 / math.sqrt(2 / 6) * (1 - 3 / 23)) and first["hedges_g"] is None
    assert (first["collapsed"], second["collapsed"]) == (0, 0) and "collapsed</small>" not in page.source
    assert "4 seeds, 1 environment, 1 comparison, and the smallest p that this allows is 0.029." in page.text
    assert "1.5 s" in page.text and "512" in page.text and "800 B" in page.text
    assert "sharedq compare" in page.text and "--target shared_heads" in page.text


def test_the_page_shows_the_intervals_of_the_summary(pair):
    page, result = Page(write(pair)), summarise(load(pair)).tasks[0].result("heads")
    assert f"200 % [{100 * result.relative.low:.0f}, {100 * result.relative.high:.0f}]" in page.text
    assert 1.6 < result.relative.low < 2 < result.relative.high < 2.5


def test_what_is_not_separated_is_told_with_the_seeds_that_it_would_take(tmp_path, undrawn):
    make_run(tmp_path / "a", [8, 9, 10, 12, 13], "target_network")
    make_run(tmp_path / "b", [9, 10, 11, 13, 15])
    page, row = Page(write(tmp_path)), summary_of(tmp_path)["runs"][1]
    assert row["hedges_g"] == pytest.approx(1.2 / math.sqrt((17.2 + 23.2) / 8) * (1 - 3 / 31))
    assert row["seeds_needed"] == math.ceil(16 / row["hedges_g"] ** 2) == 69 and row["separated"] is False
    assert (
        f"; not separated with 5 seeds (p = {row['p']:.2f}): a difference of this size would take about 69 seeds per "
        "run." in page.text
    )


@pytest.mark.parametrize(
    ("p", "words"),
    [
        *[(0.0001, "< 0.001"), (0.00099, "< 0.001"), (0.001, "= 0.001"), (0.0286, "= 0.029"), (0.0494, "= 0.049")],
        *[(0.0496, "< 0.05"), (0.05, "= 0.050"), (0.0504, "= 0.050"), (0.1, "= 0.10"), (1.0, "= 1.00")],
    ],
)
def test_a_p_below_the_level_is_not_rounded_to_it(p, words):
    assert p_value(p) == f"p {words}"


def test_runs_without_any_difference_would_take_more_seeds_than_anybody_has(tmp_path, undrawn):
    make_run(tmp_path / "a", [8, 10, 12, 14], "target_network")
    make_run(tmp_path / "b", [8, 10, 12, 14])
    page, row = Page(write(tmp_path)), summary_of(tmp_path)["runs"][1]
    assert "(p = 1.00): a difference of this size would take more than 100 seeds per run." in page.text
    assert row["seeds_needed"] == 101


def test_an_interval_that_leaves_the_reference_out_does_not_separate_without_the_test(tmp_path, undrawn):
    make_run(tmp_path / "a", [10, 10.1, 10.2], "target_network")
    make_run(tmp_path / "b", [20, 20.1, 20.2])
    page, row = Page(write(tmp_path)), summary_of(tmp_path)["runs"][1]
    assert row["area_ratio_low"] > 1.9 and row["p"] == pytest.approx(0.1) and row["separated"] is False
    assert "not separated with 3 seeds (p = 0.10): a difference of this size would take about 4 seeds" in page.text
    assert "With 3 seeds no test can reach 0.05: these numbers describe the runs, and separate none." in page.text


def test_a_run_below_its_reference_is_called_so_and_its_collapsed_seeds_are_counted(tmp_path, undrawn):
    make_run(tmp_path / "a", [10, 10, 11, 11, 12], "target_network")
    make_run(tmp_path / "b", [1, 7, 7, 5, 5])
    page, (first, second) = Page(write(tmp_path)), summary_of(tmp_path)["runs"]
    assert f"; it is below a (p = {2 / 252:.3f}); 3 of 5 collapsed." in page.text  # below 32 / 6
    assert (first["collapsed"], second["collapsed"]) == (0, 3) and "<small>3 of 5 collapsed</small>" in page.source


def test_seeds_that_cannot_collapse_are_not_counted(tmp_path, undrawn):
    make_run(tmp_path / "a", [-10, -10, -11], "target_network")
    make_run(tmp_path / "b", [-10, -12, -90])
    assert [row["collapsed"] for row in summary_of(write(tmp_path).parent)["runs"]] == [None, None]
    assert "collapsed." not in Page(tmp_path / "report.html").text.split("How the numbers")[0]


def test_the_scores_of_each_seed_are_a_table(tmp_path, undrawn):
    make_run(tmp_path / "a", [8, 10, 12], "target_network", seed=4)
    make_run(tmp_path / "b", [5, 15, 25], until=400, finished=False)
    write(tmp_path)
    with (tmp_path / "seeds.csv").open() as file:
        rows = [tuple(row.values())[1:] for row in csv.DictReader(file)]
    assert rows == [
        *[("a", str(4 + at), f"{x}.0", f"{x}.0", str(x / 10)) for at, x in enumerate((8, 10, 12))],
        *[("b", str(at), f"{x}.0", f"{x}.0", str(x / 10)) for at, x in enumerate((5, 15, 25))],
    ]
    (task,) = summarise(load(tmp_path)).tasks
    result = task.result("a")
    assert result.seed_names == (4, 5, 6) and result.seeds == 3 and result.seed_curves.shape == (3, len(task.grid))
    np.testing.assert_array_equal(result.seed_areas, result.seed_finals)
    np.testing.assert_array_equal(task.normalised("b"), [0.5, 1.5, 2.5])
    assert task.normalised("absent") is None


def test_a_seed_without_episodes_has_no_scores(tmp_path, undrawn):
    run = make_run(tmp_path / "a", [1, 2, 3])
    lines = (run / "episodes.csv").read_text().splitlines(keepends=True)
    (run / "episodes.csv").write_text("".join(line for line in lines if line.split(",")[1] != "1"))
    (task,) = summarise(load(tmp_path)).tasks
    assert task.results[0].seed_names == (0, 2) and task.results[0].seed_areas.tolist() == [1, 3]


def test_several_environments_are_tested_together(tmp_path, undrawn):
    for game, scale in (("breakout", 1), ("asterix", 100), ("freeway", 10)):
        make_run(tmp_path / game / "net", [scale * x for x in (1, 1.1, 1.2)], "target_network", game=game)
        make_run(tmp_path / game / "heads", [scale * x for x in (2, 2.2, 2.3)], game=game)
        make_run(tmp_path / game / "same", [scale * x for x in (0.9, 1.1, 1.2)], "online_network", game=game)
    page, summary = Page(write(tmp_path)), summarise(load(tmp_path))
    told = {row["label"]: row for row in summary_of(tmp_path)["overall"]}
    assert told["heads"]["separated"] and 1e-4 <= told["heads"]["p"] < 0.001 and not told["same"]["separated"]
    assert (
        "of the reference’s area under the learning curve over 3 environments; it is above the reference (p"
        in page.text
    )
    assert "over 3 environments; not separated with 3 seeds on each (p = " in page.text
    assert "With 3 seeds no test can reach 0.05 on one environment alone." in page.text
    assert (
        "3 seeds, 1 environment, 2 comparisons, and the smallest p that this allows is 0.10; 3 seeds, 3 env"
        in page.text
    )
    assert all(one.test.p >= 0.1 for task in summary.tasks for one in task.results if one.test)
    profile = summary.profiles["heads"]
    assert set(summary.profiles) == {"net", "heads", "same"} and profile.share is None  # 9 scores are few
    np.testing.assert_allclose(profile.scores, np.sort(3 * [2 / 1.1, 2, 2.3 / 1.1]))


def test_profiles_of_many_seeds_have_a_band_and_negative_returns_none(tmp_path, undrawn):
    make_run(tmp_path / "a", list(range(1, 26)), "target_network")
    make_run(tmp_path / "b", list(range(2, 27)))
    profiles = summarise(load(tmp_path)).profiles
    assert profiles["b"].share.value[0] == 1 and profiles["b"].share.value[-1] == 0
    assert (profiles["a"].levels == profiles["b"].levels).all() and profiles["a"].share.low[50] < 0.5
    make_run(tmp_path / "c", [-1, -2], "iterated_networks", game="freeway")
    make_run(tmp_path / "d", [-1, -2], "target_network", game="freeway")
    assert summarise(load(tmp_path)).profiles == {}


def test_the_page_stands_alone(pair):
    page = Page(write(pair))
    assert not re.search(r"https?:|url\(|@import", page.source)
    assert page.tags.isdisjoint({"link", "iframe"}) and page.source.count("<script") == 2  # its numbers, and its own
    linked = [value for name, value in page.attributes if name in ("src", "srcset", "href")]
    assert linked and all(value.startswith("data:image/svg+xml;base64,") for value in linked)


def test_hostile_labels_are_shown_as_text(tmp_path):
    label = '_<script>alert("$x^$")</script> & a label that does not end for a while'
    make_run(tmp_path / "runs" / "a", [1, 2], "target_network")
    make_run(tmp_path / "runs" / "b", [1, 2])
    page = Page(write(make_comparison(tmp_path, {"ref": "runs/a", label: "runs/b"})))
    assert page.source.count("<script") == 2 and label in page.text


def test_files_beside_the_page(pair, tmp_path):
    out = tmp_path / "elsewhere"
    assert write(pair, out) == out / "report.html"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    drawn = {
        f"figures/{name}{end}" for name in ("learning_curves", "areas", "memory", "speed") for end in (".svg", ".png")
    }
    assert names == drawn | {"report.html", "summary.json", "summary.csv", "seeds.csv", "curves.csv"}
    assert all(run_files.ours(name) for name in names)
    assert not (pair / "report.html").exists()
    with (out / "curves.csv").open() as file:
        points = [row for row in csv.DictReader(file) if row["label"] == "heads"]
    assert len(points) == 50 and {float(row["return_iqm"]) for row in points} == {20}
    with (out / "summary.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["target network", "heads"]


def test_the_same_runs_give_the_same_bytes(pair, tmp_path):
    first, second = write(pair, tmp_path / "first"), write(pair, tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


def test_one_label_one_colour_in_light_and_dark(pair):
    write(pair)
    for name in ("learning_curves", "areas", "memory", "speed"):
        drawn = (pair / "figures" / f"{name}.svg").read_text()
        assert 'style="fill: #0b66b0' in drawn or "stroke: #0b66b0" in drawn  # the colour of shared heads
        assert '[style*="fill: #0b66b0"]{fill:#62b5f5!important}' in drawn
        assert drawn.index("prefers-color-scheme:dark") < drawn.index("<g")


def test_one_seed_has_no_interval_and_says_why(tmp_path):
    make_run(tmp_path / "a", [10], "target_network")
    make_run(tmp_path / "b", [15])
    page = Page(write(tmp_path))
    assert "b: 150 %" in page.text and "not separated with 1 seed (p = 1.00)." in page.text
    assert "Intervals are not shown where a run or its reference has fewer than 3 seeds" in page.text
    assert summary_of(tmp_path)["runs"][1]["area_ratio_low"] is None


def test_an_unfinished_run_is_compared_over_the_steps_that_both_have_done(tmp_path):
    make_run(tmp_path / "a", [10, 10], "target_network")
    folder = make_run(tmp_path / "b", [30, 30], until=400, finished=False)
    with (folder / "episodes.csv").open("a") as file:
        file.write("420,0,9")  # killed in the middle of a line
    page = Page(write(tmp_path))
    row = summary_of(tmp_path)["runs"][1]
    assert (row["status"], row["compared_steps"], row["area_ratio"]) == ("unfinished", 400, 3)
    assert "unfinished: 400 of 1,000 steps" in page.text and "over the first 400 steps" in page.text
    assert row["steps_per_second"] == 310  # the median of what it recorded on the way


def test_a_run_without_any_episode(tmp_path):
    make_run(tmp_path / "a", [10, 10], "target_network")
    make_run(tmp_path / "b", [1, 1], until=0, finished=False)
    assert "2 of 2 seeds finished no episode" in Page(write(tmp_path)).text


def test_only_a_run_without_any_episode(tmp_path):
    assert "nothing to compare" in Page(write(make_run(tmp_path / "a", [1], until=0, finished=False))).text


def test_negative_returns_are_compared_by_difference(tmp_path):
    make_run(tmp_path / "a", [-20, -20], "target_network")
    make_run(tmp_path / "b", [-5, -5])
    page, row = Page(write(tmp_path)), summary_of(tmp_path)["runs"][1]
    assert row["area_ratio"] is None and row["area_difference"] == 15
    assert "+15.0" in page.text and "differences instead of percentages" in page.text


def test_without_a_reference_areas_are_shown_as_they_are(tmp_path):
    make_run(tmp_path / "a", [3, 3])
    make_run(tmp_path / "b", [4, 4])
    page = Page(write(tmp_path))
    assert "Area, mean return" in page.text and "P(better)" not in page.text.split("How the numbers")[0]
    assert "not exactly one with a target network" in page.text


def test_seeds_count_from_the_first(tmp_path):
    make_run(tmp_path / "a", [3, 5], seed=7)
    (run,) = load(tmp_path).runs
    assert run.seeds == (7, 8) and summarise(load(tmp_path)).tasks[0].result("a").area.value == 4


def test_a_single_run(tmp_path):
    page = Page(write(make_run(tmp_path / "alone", [3, 3, 3])))
    assert "mean return over training 3.00 [3.00, 3.00]" in page.text
    assert "Tests." not in page.text and "Hedges" not in page.text  # there is nothing to compare


def test_environments_are_kept_apart_and_then_averaged(tmp_path):
    for game, scale in (("breakout", 1), ("asterix", 100)):
        make_run(tmp_path / game / "net", [scale] * 3, "target_network", game=game)
        make_run(tmp_path / game / "heads", [3 * scale] * 3, game=game)
    page = Page(write(tmp_path))
    overall = {row["label"]: row["area_ratio"] for row in summary_of(tmp_path)["overall"]}
    assert overall == {"heads": 3} and "over 2 environments" in page.text
    assert "MinAtar Asterix, MinAtar Breakout" in page.text
    assert (tmp_path / "figures" / "overall_areas.png").exists()


def test_same_names_in_different_folders_are_told_apart(tmp_path):
    make_run(tmp_path / "x" / "run", [1])
    make_run(tmp_path / "y" / "run", [2])
    assert [run.label for run in load(tmp_path).runs] == ["x/run", "y/run"]


def test_a_planned_run_that_has_not_started_is_named(pair):
    make_comparison(pair, {"target network": "runs/a", "later": "runs/c"}, "target network")
    assert "later has not started" in Page(write(pair)).text


def test_more_labels_than_colours(tmp_path):
    for number in range(15):
        make_run(tmp_path / f"run {number}", [number, number])
    assert len(summary_of(write(tmp_path).parent)["runs"]) == 15


def spoil(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (spoil("experiment.json", "{"), "experiment.json was edited or damaged"),
        (spoil("experiment.json", '{"schema": 2}'), "has schema 2"),
        (spoil("experiment.json", '{"schema": 1, "experiment": {}}'), "'experiment.seeds' is missing"),
        (spoil("cost.json", "[]"), "must be an object, not []"),
        (spoil("episodes.csv", "step,seed,length\n"), "no column 'return'"),
        (spoil("episodes.csv", "step,seed,return,length\n1,0,high,3\n"), "line 2: 'high' is no number"),
        (spoil("episodes.csv", "step,seed,return,length\n1,0,2\n"), "line 2: it has 3 cells for 4 columns"),
        (spoil("episodes.csv", "step,seed,return,length\n1,7,2,3\n"), "line 2: seed is 7"),
        (lambda folder: (folder / "metrics.csv").write_bytes(b"\xff\n"), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path, damage, words):
    damage(make_run(tmp_path / "a", [1, 2]))
    with pytest.raises(SharedqError) as caught:
        load(tmp_path)
    assert words in str(caught.value) and str(tmp_path / "a") in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_to_report_on(tmp_path):
    with pytest.raises(SharedqError, match="no run in"):
        load(tmp_path)
    with pytest.raises(SharedqError, match="is not a folder"):
        load(tmp_path / "absent")


def test_a_reference_that_is_no_run(pair):
    make_comparison(pair, {"target network": "runs/a"}, "other")
    with pytest.raises(SharedqError, match="names the reference 'other'"):
        load(pair)


def test_without_matplotlib_the_extra_is_named(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SharedqError, match=r"sharedq\[report\]"):
        write(pair)


def test_reports_import_neither_jax_nor_matplotlib():
    code = "import sys, sharedq.reports; print({'jax', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_curves_that_lie_on_each_other(tmp_path):
    for name in "ab":
        make_run(tmp_path / name, [0, 1, 2, 3])
    rows = summary_of(write(tmp_path).parent)["runs"]
    assert rows[0]["area"] == rows[1]["area"] == 1.5


def test_a_source_has_the_same_hue_in_every_report():
    few = looks({"a": "shared_heads"})
    many = looks({"x": "target_network", "K=1": "shared_heads", "K=9": "shared_heads", "y": "my.module:Source"})
    assert few["a"] == many["K=1"]
    assert {label: look.colour // SHADES for label, look in many.items()} == {
        "x": 1,
        "K=1": 0,
        "K=9": 0,
        "y": len(KINDS),
    }
    assert len({look.colour for look in many.values()}) == len({look[1:] for look in many.values()}) == 4


def test_runs_of_one_source_are_told_apart_by_shade_line_or_marker():
    assert len(set(looks({str(number): "shared_heads" for number in range(40)}).values())) == 40
    strange = looks({str(number): f"my.module:Source{number}" for number in range(9)} | {"ours": "target_network"})
    assert len(set(strange.values())) == 10
    assert len({look.colour // SHADES for look in strange.values()}) == len(KINDS) + 1


def luminance(colour: str) -> float:
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines define it; they ask for 3 between a figure and its background."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("paper", "background"), [(LIGHT, "#fdfdfc"), (LIGHT, "#ffffff"), (DARK, "#15181c")])
def test_colours_stand_out_from_the_page_and_shades_from_each_other(paper, background):
    assert len(set(paper.colours)) == SHADES * (len(KINDS) + 1)
    assert min(contrast(colour, background) for colour in paper.colours) > 3
    for hue in range(0, len(paper.colours), SHADES):
        base, *others = paper.colours[hue : hue + SHADES]
        assert min(contrast(base, other) for other in others) > 1.25


def test_atari_is_measured_against_humans(tmp_path):
    make_run(tmp_path / "a", [16.1] * 4, environment="atari", game="Breakout")  # a random player has 1.7, a human 30.5
    page = Page(write(tmp_path))
    assert "% of a human" in page.text and "50 %" in page.text
    with (tmp_path / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["final_human"]) == pytest.approx(0.5)
    make_run(tmp_path / "b", [16.1] * 4, environment="atari", game="A game without a reference")
    assert [task.results[0].human is None for task in summarise(load(tmp_path)).tasks] == [False, True]


def test_a_run_that_diverged_is_called_so(tmp_path):
    run = make_run(tmp_path / "a", [1, 2], until=400, finished=False)
    (run / "diverged.json").write_text(json.dumps({"step": 431, "seed": 1, "message": "the loss of seed 1 ..."}))
    assert "a diverged at step 431 (seed 1); what it has so far is used." in Page(write(tmp_path)).text
    with (tmp_path / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "diverged"


def finished_with(run: Path, **changes) -> None:
    """finished.json as a run leaves it, with the checksums of its logs."""
    logs = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("episodes.csv", "metrics.csv")}
    content = {"steps": STEPS, "logs": logs} | changes
    (run / "finished.json").write_text(json.dumps(content))


def halve(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def test_a_run_whose_logs_are_whole_has_no_remark(tmp_path, undrawn):
    run, said = make_run(tmp_path / "a", [1, 2]), []
    finished_with(run)
    page = Page(write(tmp_path, say=said.append))
    assert said == [] and "not whole" not in page.text and "vouches" not in page.text


@pytest.mark.parametrize(
    ("vouched", "harm", "words"),
    [
        (True, lambda run: halve(run / "episodes.csv"), "episodes.csv is not the file that the run finished with"),
        (
            True,
            lambda run: spoil("metrics.csv", "step,seed\n")(run),
            "metrics.csv is not the file that the run finished",
        ),
        (True, lambda run: finished_with(run, logs={}), "episodes.csv is not the file that the run finished with"),
        (True, lambda run: (run / "episodes.csv").unlink(), "episodes.csv is missing"),
        (False, lambda run: halve(run / "episodes.csv"), "episodes.csv has 500 of the 1,000 steps of seed 0"),
        (False, lambda run: halve(run / "metrics.csv"), "metrics.csv ends at step 500 of 1,000 for seed 0"),
        (
            False,
            lambda run: spoil("finished.json", '{"steps": 500}')(run),
            "finished.json says that it ended at step 500",
        ),
        (False, lambda run: spoil("finished.json", '{"steps": 500}')(run), "episodes.csv goes beyond step 500"),
        (
            False,
            lambda run: (run / "episodes.csv").write_text("step,seed,return,length\n20,0,1"),
            "ends in half a line",
        ),
    ],
)
def test_a_finished_run_whose_logs_are_not_whole_is_told_of(tmp_path, undrawn, vouched, harm, words):
    run, said = make_run(tmp_path / "a", [1, 2]), []
    if vouched:
        finished_with(run)
    harm(run)
    page = Page(write(tmp_path, say=said.append))
    assert words in page.text and "finished, but its logs are not whole" in page.text
    assert any(line.startswith("a is not whole: ") and words in line for line in said)
    assert summary_of(tmp_path)["runs"][0]["status"] == "damaged"


def test_a_finished_run_without_checksums_is_told_of(tmp_path, undrawn):
    make_run(tmp_path / "a", [1, 2])
    assert "Nothing vouches for the logs of a: finished.json has no checksums" in Page(write(tmp_path)).text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("nan,0,1,1", "line 2: step is nan"),
        ("-5,0,1,1", "line 2: step is -5"),
        ("1.5,0,1,1", "line 2: step is 1.5"),
        ("1e30,0,1,1", "line 2: step is 1e"),
        ("5,0,1,1\n5,nan,1,1", "line 3: seed is nan"),
        ("5,0,inf,1", "line 2: return is inf"),
        ("5,0,,1", "line 2: return is nan"),
        ("5,0,1e300,1", "line 2: return is 1e"),
        ("5,0,1,-3", "line 2: length is -3"),
        ("5,0,1,inf", "line 2: length is inf"),
        ("5,0,1,1\n\n6,0,1,1", "line 3: it has 1 cells for 4 columns"),
        ("5,0,1,1\n#,0,1,1", "line 3: '#' is no number"),
        ("9,0,1,1\n9,1,1,1\n8,0,1,1", "line 4: step is 8, but no row of a seed may be earlier"),
        ("9,0,1,5\n9,1,1,5\n9,0,1,5", "line 4: length is 5, but the seed's episodes are then longer together"),
    ],
)
def test_a_wrong_cell_is_told_by_its_line(tmp_path, rows, words):
    spoil("episodes.csv", f"step,seed,return,length\n{rows}\n")(make_run(tmp_path / "a", [1, 2]))
    with pytest.raises(SharedqError, match=r"episodes\.csv was edited or damaged") as told:
        load(tmp_path)
    assert words in str(told.value)


def test_a_row_of_metrics_that_stands_there_twice_is_told_by_its_line(tmp_path):
    run = make_run(tmp_path / "a", [1])
    with (run / "metrics.csv").open("a") as file:
        file.write("1000,0,,1,1\n")
    with pytest.raises(SharedqError, match=r"metrics\.csv was edited or damaged \(line 52: step is 1000"):
        load(tmp_path)


def test_a_run_that_diverged_may_have_returns_that_are_no_numbers(tmp_path):
    run = make_run(tmp_path / "a", [1], until=400, finished=False)
    with (run / "episodes.csv").open("a") as file:
        file.write("420,0,nan,20\n")
    spoil("diverged.json", '{"step": 420, "seed": 0, "message": ""}')(run)
    assert len(load(tmp_path).runs[0].episodes.step) == 20


@pytest.mark.parametrize("seeds", [10**12, 10_001, 0, -1])
def test_more_seeds_than_a_report_takes_are_refused_before_they_are_counted(tmp_path, seeds):
    run = make_run(tmp_path / "a", [1])
    described = json.loads((run / "experiment.json").read_text())
    described["experiment"]["seeds"] = seeds
    spoil("experiment.json", json.dumps(described))(run)
    with pytest.raises(SharedqError, match=f"lists {seeds} seeds from 0 on, and a report takes 1 to 10,000"):
        load(tmp_path)


@pytest.mark.parametrize("label", ["=cmd()", "+1", "-1", "@sum", " =1", "\t=1"])
def test_a_label_is_no_formula_in_a_spreadsheet(tmp_path, undrawn, label):
    make_run(tmp_path / "runs" / "a", [1, 2])
    write(make_comparison(tmp_path, {label: "runs/a"}))
    for name in ("summary.csv", "curves.csv"):
        with (tmp_path / name).open() as file:
            (shown,) = {row["label"] for row in csv.DictReader(file)}
        assert not shown.lstrip().startswith(("=", "+", "-", "@"))
    (row,) = summary_of(tmp_path)["runs"]
    assert row["label"] == label.replace("\t", "\N{REPLACEMENT CHARACTER}")


def test_numbers_below_zero_stay_numbers(tmp_path, undrawn):
    write(make_run(tmp_path / "a", [-5, -5]))
    with (tmp_path / "a" / "summary.csv").open() as file:
        assert next(csv.DictReader(file))["area"] == "-5.0"


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_the_umask_says_who_may_read_a_report(pair, undrawn, umask, mode):
    before = os.umask(umask)
    try:
        write(pair)
    finally:
        os.umask(before)
    written = [pair / "report.html", pair / "summary.csv", *(pair / "figures").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in written} == {mode}


@pytest.mark.parametrize(
    "name", ["report.html", "summary.json", "summary.csv", "seeds.csv", "curves.csv", "figures/areas.png"]
)
def test_a_report_replaces_what_a_report_wrote_and_nothing_else(pair, tmp_path, undrawn, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("years of work")
    with pytest.raises(SharedqError, match="was not written by a report, so it is left alone"):
        write(pair, out)
    assert [path for path in out.rglob("*") if path.is_file()] == [out / name]
    assert (out / name).read_text() == "years of work"
    write(pair, out, overwrite=True)
    write(pair, out)
    assert (out / name).read_text(errors="replace") != "years of work"


def test_links_to_runs_are_told_of_and_not_followed(tmp_path, undrawn):
    make_run(tmp_path / "elsewhere" / "b", [1])
    make_run(tmp_path / "here" / "a", [1])
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    assert "link is a link, and links are not followed" in Page(write(tmp_path / "here")).text
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SharedqError, match="link is a link, which is not followed"):
        load(tmp_path / "links")


def test_a_report_imports_no_jax_and_no_module_that_a_run_names(tmp_path):
    run = make_run(tmp_path / "a", [1, 2])
    text = (run / "experiment.json").read_text().replace('"minatar"', '"custom"').replace('"breakout"', '"spy:make"')
    (run / "experiment.json").write_text(text)
    (tmp_path / "spy.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys; from sharedq.command_line import main; assert main(['report', 'a']) == 0; "
        "sys.exit(bool({'jax', 'spy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("report: a/report.html\n")


def test_a_report_of_0_1_0_is_replaced(tmp_path):
    folder = shutil.copytree(FIXTURES / "comparison", tmp_path / "comparison")
    (folder / "summary.json").write_text(
        '{"schema": 1, "title": "", "finding": [], "notes": [], "method": {}, "runs": [], "overall": []}'
    )
    head = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport">'
    (folder / "report.html").write_text(f"{head}<h2>How the numbers are made</h2>")
    (folder / "summary.csv").write_text("environment,label,target\n")
    (folder / "curves.csv").write_text("environment,label,step\n")
    assert "target-free" in Page(write(folder)).text


def watched(run: Path, measures: dict[str, list], steps: tuple[int, ...] = (200, 600, 1000)) -> Path:
    """Writes `measures` (a value for each step, the same for all seeds) into metrics.csv, and evaluations."""
    seeds = sorted({int(line.split(",")[1]) for line in (run / "metrics.csv").read_text().splitlines()[1:]})
    lines = [f"step,seed,steps_per_second,{','.join(f'measures/{name}' for name in measures)}"]
    for place, step in enumerate(steps):
        cells = ",".join(str(values[place]) for values in measures.values())
        lines += [f"{step},{seed},{100 * (place + 1)},{cells}" for seed in seeds]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    rows = [f"{step},{seed},{step / 100 + seed + e},5" for step in (500, 1000) for seed in seeds for e in (0, 2)]
    (run / "evaluations.csv").write_text("\n".join(["step,seed,return,length", *rows]) + "\n")
    return run


def test_measures_and_evaluations_are_shown(pair):
    watched(pair / "runs" / "b", {"rank": [4, "", 8], "My norm/2": [1, 2, 0.00321], "target_churn": ["", "", ""]})
    page = Page(write(pair))
    row = summary_of(pair)["runs"][1]
    assert row["measure_rank"] == 6 and row["measure_My norm/2"] == pytest.approx(1.00107)
    assert "measure_target_churn" not in row  # it has no number
    assert (row["evaluation_final"], row["evaluation_best"]) == (12.5, 12.5)  # seeds 0 to 3 have 11, 12, 13, 14
    assert summary_of(pair)["runs"][0]["evaluation_best"] is None
    assert "effective rank" in page.text and "My norm/2, as the run measured it." in page.text
    with (pair / "measure_curves.csv").open() as file:
        points = [(row["measure"], row["step"], float(row["value_iqm"])) for row in csv.DictReader(file)]
    assert points[:2] == [("evaluation_return", "500", 7.5), ("evaluation_return", "1000", 12.5)]
    assert points[2:4] == [("rank", "200", 4), ("rank", "1000", 8)]
    drawn = {path.name for path in (pair / "figures").iterdir()}
    assert {"evaluation_returns.svg", "measure_rank.png", "measure_my_norm_2.svg"} <= drawn
    assert "measure_target_churn.svg" not in drawn
    assert all(run_files.ours(f"figures/{name}") for name in drawn) and run_files.ours("measure_curves.csv")


def test_what_a_source_says_of_itself_is_shown_and_the_return_against_the_sparsity(pair):
    run = pair / "runs" / "b"
    columns = {"sparsity": [0, 0.5, 0.9], "chosen/2": [0, 1, 0.5], "parameters_left": [90, 50, 10]}
    watched(run, columns)
    file = run / "metrics.csv"
    file.write_text(file.read_text().replace("measures/", "target/"))
    page = Page(write(pair))
    row = summary_of(pair)["runs"][1]
    assert row["measure_target/sparsity"] == 0.9 and row["measure_target/parameters_left"] == 10
    assert row["measure_target/chosen/2"] == pytest.approx(0.5)
    assert "sparsity, at the end" in page.text and "network 2 chosen" in page.text
    assert "max_sparsity" not in page.text
    figure = pair / "figures" / "return_and_sparsity.svg"
    assert figure.exists() and run_files.ours("figures/return_and_sparsity.svg")
    change(run, "target", max_sparsity=0.9)
    assert "pruned up to its max_sparsity of 0.9" in Page(write(pair)).text


def test_evaluations_that_are_many_are_averaged_in_windows(tmp_path):
    run = make_run(tmp_path / "a", [1, 1])
    rows = [f"{step},{seed},{step % 4},1" for step in range(1, 1001) for seed in (0, 1)]
    (run / "evaluations.csv").write_text("\n".join(["step,seed,return,length", *rows]) + "\n")
    evaluated = summarise(load(tmp_path)).tasks[0].results[0].evaluated
    assert len(evaluated.steps) == 50 and set(evaluated.curve.value) == {1.5}
    assert (evaluated.final.value, evaluated.best.value) == (1.5, 3)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("5,0,inf,1", "line 2: return is inf"),
        ("5,9,1,1", "line 2: seed is 9"),
        ("9,0,1,1\n8,0,1,1", "line 3: step is 8, but no row of a seed may be earlier"),
        ("5,0,1,1\n5,1,1,1\n5,0,1,1\n5,0,1,1", "line 5: step is 5, but the seed has more than 2 episodes at this step"),
    ],
)
def test_a_wrong_cell_of_an_evaluation_is_told_by_its_line(tmp_path, rows, words):
    run = make_run(tmp_path / "a", [1, 2])
    change(run, "training", evaluation_episodes=2)
    spoil("evaluations.csv", f"step,seed,return,length\n{rows}\n")(run)
    with pytest.raises(SharedqError, match=r"evaluations\.csv was edited or damaged") as told:
        load(tmp_path)
    assert words in str(told.value)


def change(run: Path, part: str, **settings) -> None:
    described = json.loads((run / "experiment.json").read_text())
    described["experiment"].setdefault(part, {}).update(settings)
    (run / "experiment.json").write_text(json.dumps(described))


def test_evaluations_that_were_asked_for_and_are_missing_are_told_of(tmp_path, undrawn):
    run = make_run(tmp_path / "a", [1, 2])
    change(run, "training", evaluation_period=100)
    finished_with(run)
    assert "a is not whole: evaluations.csv is missing." in Page(write(tmp_path)).text


def test_areas_begin_after_the_warm_up(tmp_path):
    run = make_run(tmp_path / "a", [0, 0])
    rows = [f"{step},{seed},{0 if step <= 400 else 6},20" for step in range(20, 1001, 20) for seed in (0, 1)]
    spoil("episodes.csv", "\n".join(["step,seed,return,length", *rows]) + "\n")(run)
    change(run, "training", warm_up=200)
    assert summarise(load(tmp_path)).tasks[0].results[0].area.value == pytest.approx(6 * 30 / 40)
    change(run, "algorithm", random_steps=400)
    assert summarise(load(tmp_path)).tasks[0].results[0].area.value == 6
    change(run, "training", warm_up=1000)
    assert np.isnan(summarise(load(tmp_path)).tasks[0].results[0].area.value)
    assert "mean return over training –" in Page(write(tmp_path)).text


def test_speeds_have_their_spread_after_the_warm_up(tmp_path):
    run = watched(make_run(tmp_path / "a", [1, 2], finished=False), {"rank": [1, 1, 1]})
    assert load(tmp_path).runs[0].speed == (200, 200, 100, 300)
    change(run, "training", warm_up=300)  # the second row's stretch begins within it
    assert load(tmp_path).runs[0].speed == (300, 300, 300, 300)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"kind": "minatar", "game": "space_invaders", "sticky": 0.1}, "MinAtar Space Invaders"),
        ({"kind": "atari", "game": "MsPacman", "fire": "never"}, "Atari Ms Pacman"),
        ({"kind": "gymnasium", "id": "LunarLander-v3"}, "gymnasium/LunarLander-v3"),
        ({"kind": "gymnasium", "id": "mine.worlds:make"}, "mine.worlds:make"),
        ({"kind": "control", "task": "cheetah-run"}, "DM Control cheetah-run"),
        ({"kind": "cartpole", "time_limit": 500}, "CartPole"),
        ({"kind": "probe", "name": "corridor"}, "corridor"),
        ({"kind": "minatar", "game": None}, "minatar"),
        ({}, "environment"),
    ],
)
def test_an_environment_has_a_name_that_people_use(options, name):
    assert environment_name(options) == name


def test_the_title_is_the_environment_and_the_recipe_stands_below(pair, undrawn):
    page = Page(write(pair))
    assert "<title>MinAtar Breakout</title>" in page.source and "<h1>MinAtar Breakout</h1>" in page.source
    assert "Varied from the recipe two targets." in page.text
    assert summary_of(pair)["title"] == "MinAtar Breakout"


def test_environments_of_one_name_are_told_apart_and_many_are_counted(tmp_path, undrawn):
    for number in range(4):
        change(make_run(tmp_path / f"run{number}", [1]), "environment", sticky=number / 10)
    page = Page(write(tmp_path))
    assert "<h1>4 environments</h1>" in page.source and ">minatar breakout (sticky 0.2)</h2>" in page.source


def test_the_date_is_shown_if_a_run_tells_it(pair, undrawn):
    assert "Begun" not in Page(write(pair)).text
    for name, date in (("a", "2026-11-24T23:59Z"), ("b", "2026-11-25T00:10:07.5+00:00")):
        (pair / "runs" / name / "versions.json").write_text(json.dumps({"date": date, "numpy": "2.4"}))
    page = Page(write(pair))
    assert "Begun 2026-11-24 23:59 to 2026-11-25 00:10 UTC." in page.text and "numpy 2.4" in page.text
    assert ">date<" not in page.source
    (pair / "runs" / "b" / "versions.json").write_text('{"date": "<script>"}')
    assert "Begun 2026-11-24 23:59 UTC." in Page(write(pair)).text


def test_settings_that_differ_are_told_apart_from_those_that_all_share(pair, undrawn):
    change(pair / "runs" / "b", "target", heads=9)
    page = Page(write(pair)).text
    differing, shared = page.split("These settings differ between the runs.")[1].split("settings that all runs share")
    assert "target target_network shared_heads" in differing and "target.heads – 9" in differing
    assert "environment.game breakout" in shared and "training.steps 1000" in shared


def test_commands_tell_no_paths_of_the_machine(pair, undrawn):
    inside = pair / "runs" / "a" / "experiment.json"
    (pair / "runs" / "a" / "command.txt").write_text(f"sharedq train {inside} --out=/home/somebody/work/first\n")
    page = Page(write(pair))
    assert "sharedq train runs/a/experiment.json --out=first" in page.text
    assert str(pair) not in page.source and "somebody" not in page.source


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("sharedq train cartpole --out runs/it", "sharedq train cartpole --out runs/it"),
        ("sharedq train cartpole --out '/home/a b/it'", "sharedq train cartpole --out it"),
        ("sharedq compare C:\\\\work\\\\a.json", "sharedq compare a.json"),
        ("sharedq compare x --targets a:b=1,c=2 --out /x/y/", "sharedq compare x --targets a:b=1,c=2 --out y"),
        ("an 'unfinished /quote", "an 'unfinished /quote"),
    ],
)
def test_a_command_without_the_paths_of_the_machine(typed, told):
    assert portable(typed, Path("/x")) == told


def test_a_reference_can_be_named(pair, undrawn):
    write(pair, reference="heads")
    rows = {row["label"]: row for row in summary_of(pair)["runs"]}
    assert rows["target network"]["area_ratio"] == 0.5 and rows["heads"]["area_ratio"] is None
    with pytest.raises(SharedqError, match="unknown reference 'head': did you mean heads"):
        write(pair, reference="head")
    with pytest.raises(SharedqError, match="unknown reference 'x': choose from heads, target network"):
        write(pair, reference="x")


def test_ranked_runs_are_ordered_by_their_area(tmp_path, undrawn):
    labels = {}
    for number, level in enumerate([2, 5, 3]):
        make_run(tmp_path / "runs" / str(number), [level, level, level])
        labels[f"learning_rate {number}"] = f"runs/{number}"
    make_comparison(tmp_path, labels)
    plan = json.loads((tmp_path / "compare.json").read_text())
    assert [row["area"] for row in summary_of(write(tmp_path).parent)["runs"]] == [2, 5, 3]
    (tmp_path / "compare.json").write_text(json.dumps(plan | {"ranked": True}))
    page = Page(write(tmp_path))
    assert [row["area"] for row in summary_of(tmp_path)["runs"]] == [5, 3, 2]
    assert "Ranked by the area under the learning curve, learning_rate 1 is the first of 3." in page.text
    make_run(tmp_path / "runs" / "3", [1, 9, 3])
    labels["learning_rate 3"] = "runs/3"
    runs = [{"label": label, "folder": where} for label, where in labels.items()]
    (tmp_path / "compare.json").write_text(json.dumps(plan | {"ranked": True, "runs": runs}))
    assert "is the first of 4; these data do not separate it from learning_rate 3" in Page(write(tmp_path)).text


def test_names_of_figures_are_safe_and_told_apart():
    names = file_names(["rank", "Rank", "RANK", "../../x", "a" * 300, "雪", ""])
    assert names["rank"] == "measure_rank" and names["Rank"] == "measure_rank-2" and names["RANK"] == "measure_rank-3"
    assert names["../../x"] == "measure__x" and len(set(names.values())) == 7
    assert all(run_files.ours(f"figures/{name}.svg") and len(name) < 60 for name in names.values())


def test_labels_beside_curves_do_not_lie_on_each_other():
    heights = np.array([0.1, 0.1, 0.2, 0.1])
    places = spread(np.array([0.5, 0.5, 0.51, 0.99]), heights)
    assert (np.diff(places) >= (heights[:-1] + heights[1:]) / 2 - 1e-12).all()
    assert places[0] >= 0.05 and places[-1] <= 0.95
    assert places[:3].mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(spread(np.array([0.2, 0.7]), np.array([0.1, 0.1])), [0.2, 0.7])


def test_the_command_names_a_reference(pair, undrawn, capsys):
    assert main(["report", str(pair), "--reference", "heads"]) == 0
    assert summary_of(pair)["runs"][0]["reference"] == "heads"
    assert main(["report", str(pair), "--reference", "other"]) == 2
    assert "unknown reference 'other'" in capsys.readouterr().err


def test_a_new_run_tells_the_date_in_the_form_that_a_report_reads(tmp_path):
    run = make_run(tmp_path / "a", [1])
    (run / "versions.json").write_text(json.dumps(versions()))
    assert datetime.now(UTC) - datetime.fromisoformat(f"{load(tmp_path).runs[0].date}+00:00") < timedelta(days=1)


CONTENT = "3f2a" * 16


def make_offline(folder: Path, levels: list[float], kind: str = "shared_heads", **changes) -> Path:
    """A run from a data set, whose seed i is evaluated at steps 250, 500, 750, 1000: levels[i], with 4 more at last."""
    options = {"algorithm": "cql", "content": CONTENT, "fraction": 1.0, "path": "data/mixed", "scores": [10, 30]}
    options |= {"evaluated": True} | changes
    run = make_run(folder, levels, kind, **{name: changes[name] for name in ("environment", "game") if name in changes})
    change(run, "training", kind="offline", evaluation_period=250, evaluation_episodes=2)
    change(run, "algorithm", kind=options["algorithm"], random_steps=800)
    change(run, "replay", kind="dataset", batch_size=32, n_step=1, fraction_of="first")
    change(run, "replay", **{name: options[name] for name in ("path", "content", "fraction")})
    spoil("episodes.csv", "step,seed,return,length\n")(run)
    steps = (250, 500, 750, 1000)
    rows = [
        f"{step},{s},{x + 4 * (step == 1000) + e},9" for step in steps for s, x in enumerate(levels) for e in (-1, 1)
    ]
    spoil("evaluations.csv", "\n".join(["step,seed,return,length", *rows * options["evaluated"]]) + "\n")(run)
    data = {"source": "arrays:/home/somebody/logs/mixed.npz", "reader": "arrays", "environment": "minatar/breakout"}
    data |= {"behaviour": "half of it random", "rewards": "raw", "reference_scores": options["scores"], "made": "2026"}
    data |= {"notes": ["a note on <it>"], "steps": 5000, "episodes": 40, "groups": 1, "used": 500}
    data |= {"ends": {"unknown": 0, "terminated": 39, "truncated": 1}}
    (run / "data.json").write_bytes(sealed(data))
    return run


def test_a_run_from_data_is_judged_by_its_evaluations(tmp_path):
    make_offline(tmp_path / "net", [8, 12, 10, 10], "target_network")
    make_offline(tmp_path / "heads", [20] * 4)
    page, (heads, net) = Page(write(tmp_path)), summary_of(tmp_path)["runs"]
    assert (net["area"], net["final_return"], net["evaluation_best"]) == (11, 14, 14)
    assert (heads["area"], heads["final_return"], heads["area_ratio"]) == (21, 24, pytest.approx(21 / 11))
    assert (heads["steps_are"], heads["data"], heads["data_fraction"]) == ("gradient steps", CONTENT, 1)
    assert (heads["final_normalised"], net["final_normalised"]) == (70, 20) and heads["final_human"] is None
    (task,) = summarise(load(tmp_path)).tasks
    np.testing.assert_array_equal(task.grid, [250, 500, 750, 1000])
    assert task.start == 0  # random steps are not taken
    with (tmp_path / "curves.csv").open() as file:
        points = [(row["step"], float(row["return_iqm"])) for row in csv.DictReader(file) if row["label"] == "net"]
    assert points == [("250", 10), ("500", 10), ("750", 10), ("1000", 14)]
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "learning_curves.svg" in drawn and "evaluation_returns.svg" not in drawn
    assert not (tmp_path / "measure_curves.csv").exists()
    for words in ("heads: 191 %", "Normalised score", "Updates/s", "1,000 gradient steps per seed", "Best evaluation"):
        assert words in page.text
    for words in ("Final evaluation", "Steps/s", "since the point before; where none ended", "finished no episode"):
        assert words not in page.text


def test_the_page_tells_the_data_without_the_paths_of_the_machine(tmp_path):
    make_offline(tmp_path / "a", [1, 2], path="/home/somebody/data/mixed", fraction=0.1)
    page = Page(write(tmp_path))
    told = page.text.split("How the numbers are made")[0].split(" Data ", 1)[1]
    for words in (
        "data set mixed",
        f"checksum {CONTENT[:12]}",
        "source arrays:mixed.npz",
        "behaviour half of it random",
    ):
        assert f" {words} " in told
    for words in (
        "5,000 in 40 episodes, of which 500 are used",
        "10 %: the first steps of each group",
        "batch size 32",
    ):
        assert words in told
    assert "39 terminated, 1 truncated" in told and "a note on <it>" in told and "10 of a random agent" in told
    assert "somebody" not in page.source and "--data" in page.text


def test_a_run_from_data_without_an_environment_has_no_returns_and_no_empty_figure(tmp_path):
    make_offline(tmp_path / "a", [1, 2], evaluated=False, environment="recorded")
    change(tmp_path / "a", "training", evaluation_period=None)
    page = Page(write(tmp_path))
    assert "No agent was evaluated in an environment: there are no returns to compare." in page.text
    assert "a: 2 of 2 seeds have no evaluation; left out." in page.text
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"speed"}
    assert not re.search(r"<h\d>[^<]*</h\d>\s*<h[12]", page.source) and "<tbody></tbody>" not in page.source


@pytest.mark.parametrize("other", [{"content": "0" * 64}, {"fraction": 0.5}])
def test_runs_on_other_data_are_another_task(tmp_path, undrawn, other):
    for name, changes in (("one", {}), ("two", other)):
        make_offline(tmp_path / name / "net", [10] * 3, "target_network", **changes)
        make_offline(tmp_path / name / "heads", [21] * 3, **changes)
    page, (first, second) = Page(write(tmp_path)), summarise(load(tmp_path)).tasks
    assert first.name != second.name and [len(task.results) for task in (first, second)] == [2, 2]
    assert f"data {CONTENT[:12]}" in first.title and "minatar breakout" in first.title
    assert "are other tasks even in the same environment" in page.text and "over 2 tasks" in page.text


def test_runs_that_play_and_runs_from_data_are_not_compared(tmp_path, undrawn):
    make_run(tmp_path / "online", [10, 10], "target_network")
    make_offline(tmp_path / "offline", [20, 20])
    page = Page(write(tmp_path))
    assert [task.plays for task in summarise(load(tmp_path)).tasks] == [False, True]
    assert "carried on" in page.text and "their steps are gradient steps" in page.text
    assert "% of" not in page.text.split("How the numbers are made")[0]


def test_many_evaluations_from_data_are_averaged_in_windows(tmp_path):
    run = make_offline(tmp_path / "a", [1])
    rows = [f"{step},0,{step % 4},1" for step in range(1, 1001)]
    spoil("evaluations.csv", "\n".join(["step,seed,return,length", *rows]) + "\n")(run)
    (task,) = summarise(load(tmp_path)).tasks
    assert len(task.grid) == 50 and set(task.results[0].curve.value) == {1.5}


def test_an_unfinished_run_from_data_is_compared_up_to_its_last_row(tmp_path, undrawn):
    make_offline(tmp_path / "net", [10, 10], "target_network")
    run = make_offline(tmp_path / "heads", [30, 30])
    (run / "finished.json").unlink()
    for name in ("metrics.csv", "evaluations.csv"):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text(
            "".join(line for line in lines if not line[0].isdigit() or int(line.split(",")[0]) <= 600)
        )
    write(tmp_path)
    row = summary_of(tmp_path)["runs"][0]
    assert (row["label"], row["compared_steps"], row["area_ratio"], row["final_return"]) == ("heads", 600, 3, 30)


def test_behaviour_cloning_has_no_source_and_a_look_of_its_own(tmp_path, undrawn):
    make_offline(tmp_path / "net", [10, 10], "target_network")
    make_offline(tmp_path / "clone", [5, 5], "none", algorithm="bc")
    write(tmp_path)
    clone, net = summary_of(tmp_path)["runs"]
    assert (clone["target"], clone["reference"], clone["area_ratio"]) == ("none", "net", pytest.approx(6 / 11))
    look = summarise(load(tmp_path)).looks
    assert look["clone"].colour // SHADES == KINDS.index("none") != look["net"].colour // SHADES
    assert net["area_ratio"] is None


def test_scores_of_atari_data_are_those_of_humans_and_shown_once(tmp_path, undrawn):
    run = make_offline(tmp_path / "a", [12.1] * 2, environment="atari", game="Breakout", scores=[1.7, 30.5])
    page, (row,) = Page(write(run)), summary_of(run)["runs"]
    assert (row["final_human"], row["final_normalised"]) == (pytest.approx(0.5), None)
    assert "% of a human" in page.text and "Normalised score" not in page.text.split("How the numbers")[0]


def test_a_data_json_that_was_edited_is_refused(tmp_path):
    run = make_offline(tmp_path / "a", [1, 2])
    spoil("data.json", (run / "data.json").read_text().replace("5000", "9000"))(run)
    with pytest.raises(SharedqError, match=r"data\.json was edited or damaged \(its checksum differs\)"):
        load(tmp_path)
    spoil("data.json", '{"reference_scores": ["low", 3]}')(run)
    with pytest.raises(
        SharedqError, match=r"data\.json was edited or damaged \(reference_scores are not two numbers\)"
    ):
        load(tmp_path)


def test_runs_with_other_evaluation_periods_are_compared_from_the_first_step_that_all_have(tmp_path):
    """What a run has learned before another was ever evaluated does not count."""
    make_offline(tmp_path / "net", [10] * 3, "target_network")
    run = make_offline(tmp_path / "heads", [10] * 3)
    rows = [f"{step},{s},{value},9" for step, value in ((500, 10), (1000, 14)) for s in range(3)]
    spoil("evaluations.csv", "\n".join(["step,seed,return,length", *rows]) + "\n")(run)
    (task,) = summarise(load(tmp_path)).tasks
    heads, net = task.result("heads"), task.result("net")
    assert task.start == 250
    assert net.area.value == pytest.approx(np.mean([10, 10, 14]))  # at 500, 750 and 1000
    assert heads.area.value == pytest.approx(np.mean([10, 10, 14]))  # the same, with 10 carried forward
    assert heads.relative.value == pytest.approx(1)


def test_a_run_says_itself_that_it_learned_from_data(tmp_path):
    run = make_offline(tmp_path / "a", [1])
    change(run, "training", kind="mine:Slowly")
    assert load_run(run, "a").plays
    data = {name: value for name, value in json.loads((run / "data.json").read_text()).items() if name != "sha256"}
    (run / "data.json").write_bytes(sealed(data | {"learns_from": "data"}))
    assert not load_run(run, "a").plays


def test_a_run_that_cannot_be_read_is_left_out_of_the_report_and_named(tmp_path, undrawn):
    for name in ("first", "second", "third"):
        make_run(tmp_path / name, [1.0, 2.0])
    (tmp_path / "second" / "experiment.json").write_text("{")
    said = []
    page = write(tmp_path, say=said.append).read_text()
    assert [run.label for run in load(tmp_path).runs] == ["first", "third"]
    (line,) = [line for line in said if "left out" in line]
    assert line.startswith("second is left out: experiment.json was edited or damaged") and str(tmp_path) not in line
    assert "second is left out" in page
    for name in ("first", "third"):
        (tmp_path / name / "experiment.json").write_text("{")
    with pytest.raises(SharedqError, match=r"first/experiment.json was edited or damaged"):
        load(tmp_path)


# Runs with other seeds


def test_runs_that_differ_only_in_their_seeds_are_one_run(tmp_path):
    make_run(tmp_path / "one" / "heads", [1, 2, 3])
    make_run(tmp_path / "two" / "heads", [4, 5], seed=3)
    (run,) = load(tmp_path).runs
    assert (run.label, run.seeds, run.finished) == ("heads", (0, 1, 2, 3, 4), True)
    make_run(tmp_path / "whole" / "heads", [1, 2, 3, 4, 5])
    assert summary_of(write(tmp_path / "whole").parent)["runs"][0]["area"] == 3
    shutil.rmtree(tmp_path / "whole")
    (found,) = summary_of(write(tmp_path).parent)["runs"]
    assert (found["seeds"], found["area"]) == (5, 3)


def test_a_joined_run_tells_of_its_parts(tmp_path):
    for seed, folder in ((0, "one"), (3, "two")):
        make_run(tmp_path / folder / "heads", [1, 2, 3], seed=seed)
        (tmp_path / folder / "heads" / "versions.json").write_text(json.dumps({"sharedq": f"0.{seed}"}))
    finished = tmp_path / "two" / "heads" / "finished.json"
    finished.write_text(json.dumps({"steps": STEPS, "seconds": 1.0, "compile_seconds": 1.0}))
    page = Page(write(tmp_path))
    assert "0.0, 0.3" in page.text and page.text.count("experiment.json of heads on") == 2
    assert summary_of(tmp_path)["runs"][0]["seeds"] == 6


def test_numbers_that_no_run_wrote_do_not_stop_the_estimate_of_the_time_left(pair):
    plan = json.loads((pair / "compare.json").read_text())
    for described in ({"training": [1]}, {"training": {"steps": 10**400}, "seeds": 1}, {"seeds": "many"}):
        waiting = {"label": "last", "folder": "runs/d", "experiment": described}
        (pair / "compare.json").write_text(json.dumps(plan | {"runs": [*plan["runs"], waiting]}))
        assert load(pair).left is None
    make_run(pair / "runs" / "d", [1, 2], until=STEPS // 2, finished=False)
    metrics = pair / "runs" / "d" / "metrics.csv"
    metrics.write_text(re.sub(r",\d+,1$", ",0,1", metrics.read_text(), flags=re.M))
    assert load(pair).left is None


def test_there_is_no_verdict_before_all_runs_are_finished(tmp_path):
    make_run(tmp_path / "a", [10, 11, 12, 10, 11], "target_network")
    make_run(tmp_path / "b", [20, 21, 22, 20, 21], until=STEPS // 2, finished=False)
    assert "no verdict before all runs are finished" in Page(write(tmp_path)).text
    (tmp_path / "b" / "diverged.json").write_text(json.dumps({"step": STEPS // 2, "seed": 0}))
    assert "it is above a" in Page(write(tmp_path)).text


def test_runs_with_a_seed_in_common_or_other_settings_are_not_joined(tmp_path):
    make_run(tmp_path / "one" / "heads", [1, 2, 3])
    make_run(tmp_path / "two" / "heads", [4, 5], seed=2)
    assert {run.label for run in load(tmp_path).runs} == {"one/heads", "two/heads"}
    make_run(tmp_path / "three" / "heads", [4, 5], seed=4, game="asterix")
    assert len(load(tmp_path).runs) == 3


def test_seeds_of_a_run_that_is_not_finished_keep_what_they_have(tmp_path):
    make_run(tmp_path / "one" / "heads", [1, 2])
    make_run(tmp_path / "two" / "heads", [4, 5], seed=2, until=STEPS // 2, finished=False)
    (run,) = load(tmp_path).runs
    assert not run.finished and run.reached.tolist() == [STEPS, STEPS, STEPS // 2, STEPS // 2]
    assert load(tmp_path).left is None  # no plan says that the rest will be trained


def test_the_time_left_is_that_of_the_runs_that_are_not_finished(pair):
    assert load(pair).left is None
    make_run(pair / "runs" / "c", [1, 2], until=STEPS // 2, finished=False)
    make_comparison(pair, {"target network": "runs/a", "heads": "runs/b", "other": "runs/c"}, "target network")
    half = STEPS // 2
    speeds = [100 + step for step in range(20, half + 1, 20)]
    assert load(pair).left == pytest.approx(2 * half / np.median(speeds))
    plan = json.loads((pair / "compare.json").read_text())
    waiting = {"label": "last", "folder": "runs/d", "experiment": {"training": {"steps": 700}, "seeds": 3}}
    (pair / "compare.json").write_text(json.dumps(plan | {"runs": [*plan["runs"], waiting]}))
    others = np.median([512, 512, np.median(speeds)])
    assert load(pair).left == pytest.approx(2 * half / np.median(speeds) + 2100 / others)


def test_the_page_of_runs_in_training_says_what_is_left_and_loads_itself_again(pair):
    make_run(pair / "runs" / "c", [1, 2], until=STEPS // 2, finished=False)
    make_comparison(pair, {"target network": "runs/a", "other": "runs/c"}, "target network")
    page = Page(write(pair, training=True))
    assert (
        "One process will train for about 1 minute more" in page.text and ("http-equiv", "refresh") in page.attributes
    )
    page = Page(write(pair))
    assert (
        "One process will train for about 1 minute more" in page.text
        and ("http-equiv", "refresh") not in page.attributes
    )


def test_differences_without_a_spread_and_of_both_signs_have_no_mean_effect(tmp_path):
    for game, level in (("breakout", 10), ("asterix", 100), ("freeway", -5)):
        make_run(tmp_path / game / "a", 3 * [level], "target_network", game=game)
        make_run(tmp_path / game / "b", 3 * [1.3 * level], game=game)
    (row,) = [one for one in summary_of(write(tmp_path).parent)["overall"] if one["label"] == "b"]
    assert row["hedges_g"] is None
