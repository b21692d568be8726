"""The report page without a browser: the numbers for its script, its policy, tables and films, and what it folds."""

import base64
import hashlib
import json
import re
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from test_reports import contrast, make_comparison, make_run, summary_of

import sharedq
from sharedq.reports import films, interactive, load, write
from sharedq.reports.figures import seed_areas
from sharedq.reports.looks import DARK, HEAT_STEPS, LIGHT, Paper, heat, heat_colour, heat_colours, looks
from sharedq.reports.statistics import Interval
from sharedq.reports.stylesheet import PAPER
from sharedq.reports.summary import summarise
from sharedq.runs import run_files


class Parts(HTMLParser):
    """The scripts of a page by their id, its policy, its figures with their pictures, and its cells with numbers."""

    def __init__(self, page: Path):
        super().__init__()
        self.source, self.scripts, self.policy, self.figures, self.cells = page.read_text(), {}, "", [], []
        self.details, self.inside = 0, None
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "script":
            self.inside = found["id"]
        elif tag == "meta" and found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        elif tag == "figure":
            self.figures.append(found)
        elif tag == "img":
            self.figures[-1]["img"] = found["src"]
        elif tag == "td" and "data-n" in found:
            self.cells.append(found["data-n"])
        elif tag == "details" and found.get("class") == "task":
            self.details += 1

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.scripts[self.inside] = data

    @property
    def charts(self) -> dict:
        return json.loads(self.scripts["charts"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A reference with mean return 10 and a run with twice that, reported."""
    folder = tmp_path_factory.mktemp("pair")
    make_run(folder / "runs" / "a", [9, 10, 10, 11], "target_network")
    make_run(folder / "runs" / "b", [20, 20, 20, 20], held=100)
    make_comparison(folder, {"target network": "runs/a", "heads": "runs/b"}, "target network")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two environments with percentages, one without; the reference, and two runs of which one is not everywhere."""
    folder = tmp_path_factory.mktemp("several")
    for game, level in (("breakout", 10), ("asterix", 100), ("freeway", -5)):
        seeds = level * np.array([0.875, 1, 1.125])
        make_run(folder / game / "net", seeds.tolist(), "target_network", game=game)
        make_run(folder / game / "heads", (1.25 * seeds).tolist(), game=game)
    make_run(folder / "asterix" / "free", [20] * 3, "online_network", game="asterix")
    write(folder)
    return folder


def test_a_chart_has_the_numbers_of_the_summary(pair):
    charts, task = Parts(pair / "report.html").charts, summarise(load(pair)).tasks[0]
    assert [source["label"] for source in charts["sources"]] == ["target network", "heads"]
    for one, result in zip(charts["charts"][0]["series"], task.results):
        assert charts["sources"][one["label"]]["label"] == result.label
        np.testing.assert_allclose(one["x"], task.grid, rtol=1e-5)
        for name in ("value", "low", "high"):
            np.testing.assert_allclose(one[name], getattr(result.curve, name), rtol=1e-5)
        assert one["names"] == [0, 1, 2, 3]
        np.testing.assert_allclose(one["seeds"], result.seed_curves, rtol=1e-5)


def test_each_seed_has_a_dot_in_the_unit_of_its_interval(pair):
    areas = Parts(pair / "report.html").charts["charts"][1]
    assert areas["kind"] == "rows" and areas["line"] == 100
    assert [one["dots"] for one in areas["series"]] == [[90, 100, 100, 110], [200] * 4]


def test_dots_of_an_unfinished_run_are_of_the_steps_that_both_have_done(tmp_path):
    reference = make_run(tmp_path / "a", [10, 10], "target_network")
    rows = (reference / "episodes.csv").read_text().splitlines()
    late = [line.replace(",10,", ",50,") if int(line.split(",")[0]) > 400 else line for line in rows[1:]]
    (reference / "episodes.csv").write_text("\n".join([rows[0], *late]) + "\n")
    make_run(tmp_path / "b", [30, 40], until=400, finished=False)
    task = summarise(load(tmp_path)).tasks[0]
    assert seed_areas(task, task.result("b")).tolist() == [300, 400]
    assert seed_areas(task, task.result("a")).tolist() == [100, 100]


def test_dots_without_a_percentage(tmp_path):
    make_run(tmp_path / "a", [-20, -10], "target_network")
    make_run(tmp_path / "b", [-5, -4])
    task = summarise(load(tmp_path)).tasks[0]
    assert task.unit == "difference" and seed_areas(task, task.result("b")).tolist() == [10, 11]
    alone = summarise(load(tmp_path / "b")).tasks[0]
    assert seed_areas(alone, alone.results[0]).tolist() == [-5, -4]


HOSTILE = st.sampled_from(["</script><script>", "<!--", "]]>", "&lt;", "\u2028"])


@given(st.lists(st.text(max_size=30) | HOSTILE, min_size=1, unique=True))
def test_no_label_ends_the_data_of_the_script(labels):
    found = looks(dict.fromkeys(labels, "shared_heads"))
    rows = [interactive.row(label, Interval(0.5, np.nan, np.nan)) for label in labels]
    charts = [interactive.rows("x", rows, form="number")]
    text = interactive.as_json(found, charts)
    assert not re.search("[<>&\u2028\u2029]", text) and text.isascii()
    told = json.loads(text)
    assert [source["label"] for source in told["sources"]] == labels
    assert [one["label"] for chart in told["charts"] for one in chart["series"]] == list(range(len(labels)))


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_go_into_json_with_six_digits_and_as_null_where_there_is_none(value):
    found = interactive.plain(np.array([value, 1.0]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found and found[1] == 1
    if np.isfinite(value):
        assert found[0] == pytest.approx(value, rel=1e-5, abs=0)
    else:
        assert found[0] is None


def test_the_policy_allows_the_script_of_the_page_and_nothing_else(pair):
    parts = Parts(pair / "report.html")
    rules = {words[0]: words[1:] for rule in parts.policy.split(";") if (words := rule.split())}
    checksum = base64.b64encode(hashlib.sha256(parts.scripts["behaviour"].encode()).digest()).decode()
    assert rules["default-src"] == ["'none'"] and rules["script-src"] == [f"'sha256-{checksum}'"]
    assert rules["img-src"] == rules["media-src"] == ["data:"]
    assert parts.source.index("Content-Security-Policy") < parts.source.index("<style")


def test_the_script_asks_for_no_address():
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|eval\(|Function\(", interactive.script())
    assert interactive.script().count("innerHTML") == 1 and 'innerHTML = "<svg></svg>"' in interactive.script()


@pytest.mark.parametrize("folder", ["pair", "several"])
def test_every_chart_has_a_picture_for_readers_without_a_script(folder, request):
    parts = Parts(request.getfixturevalue(folder) / "report.html")
    assert all(base64.b64decode(one["img"].split(",")[1]).startswith(b"<?xml") for one in parts.figures)
    drawn = [int(one["data-chart"]) for one in parts.figures if "data-chart" in one]
    assert sorted(drawn) == list(range(len(parts.charts["charts"])))


def test_five_runs_of_five_seeds_are_a_small_page(tmp_path):
    rng = np.random.default_rng(0)
    for number, kind in enumerate(["target_network", "online_network", *["shared_heads"] * 3]):
        make_run(tmp_path / f"run {number}", rng.normal(10, 2, 5).round(3).tolist(), kind)
    assert write(tmp_path).stat().st_size < 1_000_000


def test_small_panels_show_the_learning_curves_of_each_task(several):
    parts = Parts(several / "report.html")
    (panels,) = [one["data-panels"].split() for one in parts.figures if "data-panels" in one]
    assert [panel.split(":")[0] for panel in panels] == ["1", "2", "3"]
    charts = parts.charts["charts"]
    shown = [charts[int(panel.split(":")[1])]["series"] for panel in panels]
    levels = [sorted(one["value"][-1] for one in series) for series in shown]
    assert levels == [pytest.approx(row) for row in ([20, 100, 125], [10, 12.5], [-6.25, -5])]  # by section
    names = {f"figures/{path.name}" for path in (several / "figures").iterdir()}
    assert "figures/overall_curves.png" in names and all(map(run_files.ours, names))


def test_the_heat_map_has_percentages_where_there_are_any(several):
    page = (several / "report.html").read_text()
    table = page.split('class="heat">')[1].split("</table>")[0]
    assert "MinAtar Asterix" in table and "MinAtar Breakout" in table and "Freeway" not in table
    cells = {row.split("</th>")[0].split("</span>")[-1]: row for row in table.split('<th scope="row">')[1:]}
    assert cells["heads"].count(f'class="h{heat(125)}">125 %') == 2
    assert cells["net"].count(f'class="h{HEAT_STEPS}">100 %') == 2
    assert cells["free"].count('class="h0">20 %') == 1 and cells["free"].count("<td>–</td>") == 1
    figure = (several / "figures" / "overall_heat_map.svg").read_bytes()
    fields = re.findall(rb"fill: (#\w+); opacity: ([\d.]+)", figure)
    blue, orange = (heat_colour(LIGHT, place) for place in (heat(125), 0))
    assert fields.count((blue[0].encode(), f"{blue[1]:g}".encode())) == 2
    assert fields.count((orange[0].encode(), f"{orange[1]:g}".encode())) == 1
    assert base64.b64encode(figure).decode() not in page  # which has the table


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_heat_rises_with_the_area_and_has_its_middle_at_the_reference(one, other):
    assert heat(100) == HEAT_STEPS and heat(50) == 0 and heat(150) == 2 * HEAT_STEPS
    low, high = sorted((one, other))
    assert 0 <= heat(low) <= heat(high) <= 2 * HEAT_STEPS


@pytest.mark.parametrize("paper", [LIGHT, DARK])
def test_numbers_are_readable_on_every_colour_of_the_heat_map(paper: Paper):
    colours = heat_colours(paper, PAPER[paper.name])
    assert len(set(colours)) == 2 * HEAT_STEPS + 1 and colours[HEAT_STEPS] == PAPER[paper.name]
    assert min(contrast(paper.ink, colour) for colour in colours) > 4.5


def test_a_profile_falls_from_one_to_zero_and_is_exact(tmp_path):
    for game in ("breakout", "asterix"):
        make_run(tmp_path / game / "net", [10] * 3, "target_network", game=game)
        make_run(tmp_path / game / "heads", [5, 10, 20], game=game)
    (profile,) = [
        chart for chart in Parts(write(tmp_path)).charts["charts"] if chart["x"] == "area, % of the reference"
    ]
    heads = profile["series"][0]
    assert heads["value"] == pytest.approx(
        [sum(score > level for score in (50, 100, 200)) / 3 for level in np.linspace(0, 200, 101)], rel=1e-5
    )


@pytest.mark.parametrize(("count", "folded"), [(2, 0), (3, 0), (4, 4)])
def test_more_than_three_tasks_are_folded(tmp_path, undrawn, count, folded):
    for number in range(count):
        make_run(tmp_path / f"run{number}", [1], game=f"game{number}")
    assert Parts(write(tmp_path)).details == folded


def test_cells_keep_the_numbers_that_they_show(pair):
    row, cells = summary_of(pair)["runs"][1], Parts(pair / "report.html").cells
    known = [[float(one) for one in cell.split(",") if one] for cell in cells]
    assert [pytest.approx(100 * row[f"area_ratio{end}"]) for end in ("", "_low", "_high")] in known
    assert [100.0, 100.0] in known  # parameters trained and held
    assert [512.0, 610.0, 120.0, 1100.0] in known  # steps a second


GIF = b"GIF89a" + b"\0" * 50


def test_a_film_in_the_folder_of_a_run_is_shown(tmp_path, undrawn):
    run = make_run(tmp_path / "run", [1, 2])
    assert "Films" not in write(tmp_path).read_text()
    (run / "episode.gif").write_bytes(GIF)
    page = write(tmp_path).read_text()
    assert f"data:image/gif;base64,{base64.b64encode(GIF).decode()}" in page and "An episode of run on" in page
    (run / "episode.gif").write_bytes(b"<svg>no film</svg>")
    assert "data:image/gif" not in write(tmp_path).read_text()
    (run / "episode.gif").unlink()
    (tmp_path / "secret").write_bytes(GIF)
    (run / "episode.gif").symlink_to(tmp_path / "secret")
    assert "Films" not in write(tmp_path).read_text()


def test_a_large_film_is_linked_to_if_it_lies_beside_the_page(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(films, "LARGEST", 40)
    run = make_run(tmp_path / "in" / "a & b", [1, 2])
    (run / "episode.gif").write_bytes(GIF)
    assert '<a href="a%20%26%20b/episode.gif">' in write(tmp_path / "in").read_text()
    elsewhere = write(tmp_path / "in", tmp_path / "out").read_text()
    assert "episode.gif in the folder of the run" in elsewhere and str(tmp_path) not in elsewhere


def test_a_version_from_a_run_is_no_command_of_latex(tmp_path, undrawn):
    for name, version in (("a", "0.1.0"), ("b", r"}\input{/etc/passwd}")):
        (make_run(tmp_path / name, [1]) / "versions.json").write_text(json.dumps({"sharedq": version}))
    cited = write(tmp_path).read_text().split("<h2>Cite</h2>")[1]
    assert "version = {0.1.0}" in cited and "passwd" not in cited and "2506.04398" in cited


def test_the_wheel_has_every_file_that_the_package_reads():
    package = Path(sharedq.__file__).parent
    settings = package.parent / "pyproject.toml"
    if not settings.is_file():
        pytest.skip("sharedq is installed without its sources")
    patterns = tomllib.loads(settings.read_text())["tool"]["setuptools"]["package-data"]["sharedq"]
    names = [path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()]
    others = [name for name in names if not re.search(r"\.py$|\.pyc$|\.so$", name)]
    assert "reports/script.js" in others
    assert [name for name in others if not any(fnmatch(name, pattern) for pattern in patterns)] == []
