"""The report page in a browser: it answers to a pointer and to keys, switches runs off, sorts and copies.

Run with `pytest -m browser`. It needs the package playwright and an installed Chromium.
"""

import csv
import io
import re

import numpy as np
import pytest
from browsers import SCREENS, started
from test_reports import make_comparison, make_run

from sharedq.reports import load, write
from sharedq.reports.finding import interval, number
from sharedq.reports.statistics import Interval
from sharedq.reports.summary import summarise

pytestmark = pytest.mark.browser
HOSTILE = '</script><img src=x onerror=alert(1)> "50 %"'


@pytest.fixture(scope="module")
def browser():
    yield from started()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Three runs on one environment, one of them with a hostile label."""
    folder = tmp_path_factory.mktemp("single")
    rng, labels = np.random.default_rng(0), {"target network": "a", "heads": "b", HOSTILE: "c"}
    kinds = ("target_network", "shared_heads", "online_network")
    for (name, kind), level in zip(zip(labels.values(), kinds), (10, 20, 15)):
        make_run(folder / name, rng.normal(level, 1, 5).round(2).tolist(), kind)
    return write(make_comparison(folder, labels, "target network"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two runs on each of four environments, one of which is unfinished."""
    folder = tmp_path_factory.mktemp("many")
    for at, game in enumerate(("breakout", "asterix", "freeway", "seaquest")):
        make_run(folder / game / "net", [10, 11, 12], "target_network", game=game)
        whole = {} if at else {"until": 400, "finished": False}
        make_run(folder / game / "heads", [12, 13, 15 + at], game=game, **whole)
    return write(folder)


@pytest.fixture
def visit(browser):
    """Opens a page, and sees in the end that it asked for nothing but itself and that nothing went wrong."""
    contexts, wrong = [], []

    def call(page, width=1300, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        seen, own = context.new_page(), page.as_uri()
        seen.on("console", lambda message: wrong.append(message.text))
        seen.on("pageerror", lambda error: wrong.append(str(error)))
        seen.on("dialog", lambda dialog: wrong.append(dialog.message))
        asks = lambda request: None if request.url.startswith(("data:", own)) else wrong.append(request.url)  # noqa: E731
        seen.on("request", asks)
        seen.goto(own)
        return seen

    yield call
    for context in contexts:
        context.close()
    assert wrong == []


def cut(label):
    """A label as a tooltip shows it."""
    return label if len(label) <= 36 else f"{label[:35]}…"


def hover(page, chart, across, down):
    chart.evaluate("one => one.scrollIntoView({block: 'center'})")
    box = chart.bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("folder", ["single", "many"])
def test_a_page_fits_the_screen_and_draws_every_chart_in_view(visit, request, folder, width, scheme):
    page = visit(request.getfixturevalue(folder), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(253, 253, 252)" if scheme == "light" else "rgb(21, 24, 28)"
    )
    for chart in page.locator(".chart:visible").all():
        assert chart.locator("svg .series").count() > 0
    assert page.locator("figure img:visible").count() == 0
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(one => one.querySelector('svg .series'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_pointer_reads_the_values_of_a_step_and_of_seeds(visit, single, width, scheme):
    page, task = visit(single, width, scheme), summarise(load(single.parent)).tasks[0]
    curves, areas = page.locator(".chart").nth(0), page.locator(".chart").nth(1)
    hover(page, curves, 0.5, 0.5)
    told = curves.locator(".tip").inner_text()
    step = int(re.search("at step ([0-9,]+)", told)[1].replace(",", ""))
    at = task.grid.tolist().index(step)
    for result in task.results:
        shown = interval(Interval(*(bound[at] for bound in result.curve)), number)
        assert f"{cut(result.label)} {shown}" in " ".join(told.split())
    hover(page, areas, 0.5, 0.1)
    told = areas.locator(".tip").inner_text()
    assert "target network" in told and "100 %" in told and "seed 4:" in told
    assert curves.locator(".tip").is_hidden()
    assert areas.locator(".dot-seed").count() == 15


def test_a_chart_answers_to_keys(visit, single):
    page = visit(single)
    chart = page.locator(".chart").nth(0)
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "at step 20\n" in chart.locator(".tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert "at step 40\n" in chart.locator(".tip").inner_text()
    page.keyboard.press("End")
    assert "at step 1,000\n" in chart.locator(".tip").inner_text()
    page.keyboard.press("Escape")
    assert chart.locator(".tip").is_hidden()


def test_a_finger_reads_values_until_it_taps_elsewhere(visit, single):
    page = visit(single, 420, has_touch=True)
    chart = page.locator(".chart").nth(0)
    chart.tap()
    assert "at step" in chart.locator(".tip").inner_text()
    page.locator("figcaption").nth(0).tap()
    assert chart.locator(".tip").is_hidden()


def test_one_switch_acts_on_all_charts(visit, single):
    page = visit(single)
    charts = page.locator(".chart").count()
    heads = page.locator(".sources .source", has_text="heads")
    with_heads = page.locator('.chart:has(.series[data-source="1"])')
    assert with_heads.count() == charts and heads.get_attribute("aria-pressed") == "true"
    heads.focus()
    page.keyboard.press("Space")
    assert with_heads.count() == 0 and heads.get_attribute("aria-pressed") == "false"
    assert page.locator('.chart:has(.series[data-source="0"])').count() == charts
    page.get_by_text("Show all").click()
    assert with_heads.count() == charts
    heads.dblclick()
    assert with_heads.count() == charts and page.locator('.chart:has(.series[data-source="0"])').count() == 0


def test_single_seeds_are_shown_on_demand(visit, single):
    page = visit(single)
    assert page.locator("path.seed").count() == 0
    page.get_by_text("Single seeds").click()
    assert page.locator("path.seed").count() == 15


def test_a_table_is_sorted_by_a_click(visit, single):
    page = visit(single)
    table = page.locator("table").first

    def column(place):
        return [words.split()[0] for words in table.locator(f"tbody tr > *:nth-child({place})").all_inner_texts()]

    before, head = column(1), table.locator("thead th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(one) for one in column(2)] == sorted(map(float, column(2)), reverse=True) and column(1)[0] == "heads"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(one) for one in column(2)] == sorted(map(float, column(2)))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None and column(1) == before


def test_tables_commands_and_citations_are_copied(visit, single):
    page = visit(single, permissions=["clipboard-read", "clipboard-write"])
    result = summarise(load(single.parent)).tasks[0].result("heads")

    def copied(button):
        button.click()
        page.wait_for_function("one => one.textContent === 'Copied'", arg=button.element_handle(), timeout=5000)
        return page.evaluate("navigator.clipboard.readText()")

    rows = list(csv.DictReader(io.StringIO(copied(page.locator(".copy").nth(0)))))
    assert [row["Run"] for row in rows] == ["target network", "heads", HOSTILE]
    for end, bound in zip(("", ", low", ", high"), result.relative):
        assert float(rows[1][f"Area, % of reference{end}"]) == pytest.approx(100 * bound)
    assert (rows[1]["Parameters held"], rows[1]["Status"]) == ("200", "finished")
    latex = copied(page.locator(".copy").nth(1))
    assert latex.count("\\\\\n") == 4 and "\\textless{}/script\\textgreater{}" in latex and "50 \\%" in latex
    assert copied(page.locator(".above .copy").first) == "sharedq compare"
    assert copied(page.locator(".above .copy").last).startswith("@software{sharedq")


def test_a_panel_leads_to_the_section_of_its_task(visit, many):
    page = visit(many)
    assert page.locator("details.task[open]").count() == 0
    page.locator(".panel a", has_text="MinAtar Freeway").click()
    page.locator("details.task[open]", has_text="MinAtar Freeway").wait_for()
    assert page.locator("details.task[open] .chart svg .series").count() > 0


def test_without_a_script_the_pictures_are_there(visit, many):
    page = visit(many, 420, "dark", java_script_enabled=False)
    assert page.locator(".chart").count() == 0 and page.locator(".sources:visible").count() == 0
    pictures = page.locator("figure img:visible")
    assert pictures.count() == 3  # areas, profile and curves of all tasks; the sections are folded
    assert page.locator("details.task").count() == 4
