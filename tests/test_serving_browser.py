"""The page of a server in a browser: the agent plays, its heads are drawn, and nothing is loaded from elsewhere.

Run with `pytest -m browser`. It needs the package playwright and an installed Chromium.
"""

import contextlib
import re

import numpy as np
import pytest
from browsers import SCREENS, started
from served import CONTINUOUS, DISCRETE, Running, spec_of, written

from sharedq import runtime
from sharedq.environments.spec import to_json
from sharedq.recipes import recipe
from sharedq.serving.player import Player

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-the-tests"
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    yield from started()


@pytest.fixture
def visit(browser):
    """Opens the page of a server, and sees in the end that it asked for nothing else and that nothing went wrong."""
    wrong = []
    with contextlib.ExitStack() as stack:

        def call(agent, width=1300, scheme="light", fine=(), **options):
            running = stack.enter_context(contextlib.closing(Running(agent, **options)))
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            stack.callback(context.close)
            page, own = context.new_page(), f"http://127.0.0.1:{running.port}/"
            page.on("console", lambda m: None if any(one in m.text for one in fine) else wrong.append(m.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("dialog", lambda dialog: wrong.append(dialog.message))
            page.on("request", lambda r: None if r.url.startswith((own, "data:")) else wrong.append(r.url))
            page.goto(own)
            return page

        yield call
    assert wrong == []


@pytest.fixture(scope="module")
def breakout(tmp_path_factory):
    one, path = recipe("minatar-breakout"), tmp_path_factory.mktemp("breakout") / "agent.onnx"
    return runtime.load(written(path, to_json(one.build().spec), heads=9, experiment=one.to_dict(), label=HOSTILE))


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    return runtime.load(written(tmp_path_factory.mktemp("choices") / "agent.onnx", spec_of((5,), "float32", DISCRETE)))


def step_of(page):
    return int(re.search(r"step (\d+)", page.locator("#score").inner_text())[1])


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_agent_plays_and_every_head_has_a_dot(visit, breakout, width, scheme):
    page = visit(breakout, width, scheme, game=Player(breakout, 0))
    page.locator("#past path").nth(8).wait_for(state="attached")
    page.get_by_text("Pause").click()
    page.locator("#toggle", has_text="Play").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(253, 253, 252)" if scheme == "light" else "rgb(21, 24, 28)"
    )
    assert page.evaluate("document.getElementById('picture').naturalWidth") == 10
    rows = page.locator("#rows .row")
    assert rows.count() == 3 and page.locator("#rows .row.chosen").count() == 1
    assert [row.locator(".head").count() for row in rows.all()] == [9, 9, 9]
    assert page.locator(".head.wish").count() == 9  # each head would choose one action
    others = 9 - page.locator(".row.chosen .wish").count()
    told = page.locator("#agreement").inner_text()
    assert told.startswith(f"{others} of 9 heads would choose another" if others else "All 9 heads choose")
    assert page.locator("#title").inner_text() == HOSTILE


def test_a_game_goes_on_step_by_step(visit, breakout):
    page = visit(breakout, game=Player(breakout, 0))
    page.locator("#score", has_text="step").wait_for()
    page.get_by_text("One step").click()
    page.locator("#toggle", has_text="Play").wait_for()
    page.wait_for_timeout(400)
    before = page.locator("#score").inner_text()
    page.wait_for_timeout(300)
    assert page.locator("#score").inner_text() == before
    page.get_by_text("One step").click()
    page.locator("#score").filter(has_not_text=before).wait_for()
    assert step_of(page) in (0, 1 + int(re.search(r"step (\d+)", before)[1]))


def test_pauses_leave_one_loop_of_steps(visit, breakout):
    page = visit(breakout, game=Player(breakout, 0))
    page.locator("#score", has_text="step").wait_for()
    page.locator("#speed").select_option("1")
    page.evaluate(
        """() => {
            const fetched = window.fetch;
            window.counts = {asked: 0, open: 0, most: 0};
            window.fetch = async (path, options) => {
                if (path !== "play") return fetched(path, options);
                counts.asked += 1;
                counts.open += 1;
                counts.most = Math.max(counts.most, counts.open);
                await new Promise((done) => setTimeout(done, 100));
                try { return await fetched(path, options); } finally { counts.open -= 1; }
            };
            for (let i = 0; i < 8; i++) document.getElementById("toggle").click();
        }"""
    )
    page.wait_for_timeout(3_000)
    asked = page.evaluate("counts.asked")
    page.wait_for_timeout(3_000)
    assert 1 <= page.evaluate("counts.asked") - asked <= 4  # one loop makes 3 steps, and five loops make 15
    page.evaluate("for (let i = 0; i < 3; i++) document.getElementById('once').click()")
    page.wait_for_timeout(1_000)
    assert page.evaluate("counts.most") == 1 and page.evaluate("counts.open") == 0
    assert page.locator("#toggle").inner_text() == "Play"


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "bool", "float64"])
def test_random_numbers_are_those_of_the_dtype(visit, tmp_path, dtype):
    page = visit(runtime.load(written(tmp_path / "agent.onnx", spec_of((5,), dtype, DISCRETE))))
    page.wait_for_selector("#values:not([hidden])")
    page.get_by_role("button", name="Random").click()
    with page.expect_response("**/values") as answer:
        page.get_by_role("button", name="Decide").click()
    assert answer.value.status == 200 and page.locator("#wrong").is_hidden()


def test_dots_are_explained_where_there_are_dots(visit, choices, tmp_path):
    one_head = runtime.load(written(tmp_path / "agent.onnx", spec_of((5,), "float32", DISCRETE), heads=1))
    for agent, has_dots in ((choices, True), (one_head, False)):
        page = visit(agent)
        page.wait_for_selector("#values:not([hidden])")
        assert page.locator("#key").is_visible() and page.locator("#key-of-heads").is_visible() == has_dots
        assert page.locator(".head").count() == (9 if has_dots else 0)


def test_without_a_game_an_observation_is_sent_by_hand(visit, choices):
    page = visit(choices, fine=("422",))
    page.wait_for_selector("#values:not([hidden])")
    assert page.get_by_text("sharedq serve agent.onnx --play").is_visible()
    obs = [0.5, -1, 0.25, 2, 0]
    page.locator("#observation").fill(str(obs))
    page.get_by_role("button", name="Decide").click()
    chosen = f"action {choices.act(np.float32(obs))}"
    page.locator(".chosen .name", has_text=chosen).wait_for()
    numbers = [float(one) for one in page.locator("#rows .number").all_inner_texts()]
    np.testing.assert_allclose(numbers, choices.values(np.float32(obs)), rtol=0.01)
    page.locator("#observation").fill("[1, 2]")
    page.get_by_role("button", name="Decide").click()
    page.get_by_text("the observation must be float32 [5]").wait_for()
    page.get_by_role("button", name="Random").click()
    page.get_by_role("button", name="Decide").click()
    page.wait_for_selector("#wrong", state="hidden")


def test_continuous_actions_are_shown_between_their_bounds(visit, tmp_path):
    agent = runtime.load(written(tmp_path / "agent.onnx", spec_of((5,), "float32", CONTINUOUS)))
    page = visit(agent)
    page.wait_for_selector("#values:not([hidden])")
    assert page.locator("#rows .row").count() == 2 and page.locator("#key").is_hidden()
    assert page.evaluate("[...document.querySelectorAll('.bar')].map(one => one.style.width)") == ["50%", "0%"]


def test_a_token_is_asked_for_on_the_page(visit, choices):
    page = visit(choices, token=TOKEN, fine=("401",))
    page.locator("#token").fill("another token")
    page.get_by_role("button", name="Use it").click()
    page.get_by_text("Authorization: Bearer TOKEN").wait_for()
    assert page.locator("#content").is_hidden()
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector("#values:not([hidden])")
    assert page.locator("#token-form").is_hidden()


def test_a_server_that_stops_is_told(visit, breakout):
    page = visit(breakout, game=Player(breakout, 0), fine=("ERR_",))
    page.wait_for_selector("#picture:not([hidden])")
    page.route("**/play", lambda route: route.abort())
    page.get_by_text("The server does not answer").wait_for()
    assert page.locator("#toggle").inner_text() == "Play"
