"""`sharedq play`: games that are watched, the next guess of a game of one's own, and what is told of words."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import sharedq as library
from sharedq.agent import Agent, Compiled
from sharedq.environments.wordle import ACTIONS, BEGIN_OF_ACTION, PAD, TEXT
from sharedq.errors import SharedqError
from sharedq.transitions import Batch, Transition
from sharedq.watching import Spectator, _spelt, _typed

pytestmark = pytest.mark.usefixtures("hasty")  # the programs are small, and compiling them is what takes time

WORDS = ("abbey", "crane", "label", "llama", "slate")
SMALL = {"layers": 1, "width": 8, "attention_heads": 2, "batch_size": 8, "steps": 2, "log_period": 1}
SETTINGS = {**SMALL, "checkpoint_period": 2, "evaluation_period": "none"}


@pytest.fixture(scope="module")
def here(tmp_path_factory, hasty):
    """A folder with a list of words, games, and a run of shared heads on them."""
    from sharedq.command_line import main

    folder = tmp_path_factory.mktemp("play")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "words.txt").write_text("\n".join(WORDS))
        named = ["--words", "words.txt"]
        games = ["data", "wordle", "games", "--recipe", "mixed", "--games", "50", *named, "--count", "none"]
        assert main(games) == 0
        options = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
        options += ["--data", "games", *named, "--environment.count", "none"]
        heads = ["--target", "shared_heads", "--heads", "2"]
        assert main(["train", "ilql-wordle-small", *options, *heads, "--out", "run"]) == 0
        yield folder


@pytest.fixture(scope="module")
def agent(here):
    return library.load(here / "run")


@pytest.fixture(scope="module")
def spectator(agent):
    return Spectator(agent, words=3)


def rows_of(lines: list[str]) -> dict[str, list[float]]:
    """The numbers that are told of each word of a table."""
    found = (re.fullmatch(r" [> ] (?!\(before\))(\S+) +((?: *-?\d+\.\d{3})+)", line) for line in lines)
    return {row[1]: [float(x) for x in row[2].split()] for row in found if row}


def test_a_game_is_told_turn_by_turn(sharedq):
    answer = sharedq("play", "run", "--target", "label", "--words", 2)
    assert answer.code == 0 and answer.err == "" and "\x1b" not in answer.out
    lines = answer.out.splitlines()
    begin = lines.index("game 1 of 1: the word is label")
    assert [line.split(":")[0] for line in lines[: begin - 1]] == [
        "log pi",
        "score",
        "advantage",
        "Q1 to Q2",
        "(before)",
    ]
    turns = [place for place, line in enumerate(lines) if line.startswith("guess ")]
    assert lines[turns[0] + 1].split() == ["5", "words", "fit", "log", "pi", "score", "Q1", "Q2"]
    for number, (place, after) in enumerate(zip(turns, [*turns[1:], -1]), 1):
        assert lines[place].startswith(f"guess {number}   ")
        assert len(lines[place + 2].split()) == 3 and lines[place + 2].startswith("   (before)")
        rows = lines[place + 3 : after]
        assert len(rows) == len(rows_of(rows)) <= 3 and sum(row.startswith(" > ") for row in rows) == 1
        scores = [numbers[1] for numbers in rows_of(rows).values()]
        assert scores == sorted(scores, reverse=True)
    assert lines[-1] in ("not found, return -6", f"found, return {1 - len(turns)}")


def test_watched_games_are_those_of_an_evaluation(agent, spectator):
    lines = list(spectator.watch(games=3, seed=3))
    returns = [int(line.rpartition(" ")[2]) for line in lines if "found, return" in line]
    evaluated = agent.evaluate(episodes=3, seed=3)
    assert returns == evaluated.returns.tolist()
    assert sum(line.startswith("guess ") for line in lines) == evaluated.lengths.sum()
    assert lines[-1] == f"mean return {np.mean(returns):.2f} over 3 games"


def written(word: str) -> np.ndarray:
    """The action [1, 6] that writes a word, or as much of it as an action can."""
    return np.array([[*(ord(letter) - 97 for letter in word), ACTIONS.closes][: ACTIONS.length]], np.int32)


def written_by_turns(spectator, monkeypatch, *words: str) -> list[str]:
    """What is told of a game of label in which these words are written, one after another."""
    actions = map(written, words)
    monkeypatch.setattr(spectator, "_act", lambda state, key, text: next(actions))
    return list(spectator.watch(target="label"))


def test_words_that_fit_are_told_until_the_word_is_found(agent, monkeypatch):
    lines = written_by_turns(Spectator(agent), monkeypatch, "slate", "zzzzzz", "llama", "label")
    told = [line for line in lines if line.startswith("guess ")]
    assert told == [
        "guess 1   slate:byyby",
        "guess 2   zzzzzz is not five letters: it costs a guess and has no answer",
        "guess 3   llama:gyyby",
        "guess 4   label:ggggg",
    ]
    fits = [line.split("  ")[1].strip() for line in lines if " fit" in line]
    assert fits == ["5 words fit", "1 word fits", "1 word fits", "1 word fits"]
    assert lines[-1] == "found, return -3"


def test_in_a_terminal_guesses_are_coloured_tiles(sharedq, agent, monkeypatch):
    monkeypatch.setattr("sharedq.agent.load", lambda *_, **__: agent)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    tiles = "\x1b[1;97;100m C \x1b[0m\x1b[1;30;43m R \x1b[0m\x1b[1;30;42m A \x1b[0m"
    asked = "play", "run", "--history", "crabs:bygbb"
    assert tiles in sharedq(*asked).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "guess 1   crabs:bygbb" in (plain := sharedq(*asked).out) and "\x1b" not in plain


def test_the_next_guess_follows_what_was_typed(spectator, monkeypatch):
    """The agent reads the text that the game would have written, and words that do not fit are no candidates."""
    read = []
    monkeypatch.setattr(spectator, "_act", lambda state, key, text: read.append(text) or written("slate"))
    lines = list(spectator.advise(["CRANE:bbyby"]))
    text = [BEGIN_OF_ACTION, 2, 17, 0, 13, 4, 30, 27, 27, 28, 27, 28, 31]
    assert read[0].tolist() == [text + [PAD] * (TEXT - len(text))]
    assert lines[-7:-5] == ["guess 1   crane:bbyby", "guess 2   slate"]
    assert lines[-5].startswith("   2 words fit ")
    assert set(rows_of(lines)) == {"abbey", "label", "slate"}


def test_numbers_of_words_are_sums_over_their_letters(spectator, monkeypatch):
    """They are those of the pass that judges, whose own test is that of the algorithm."""
    monkeypatch.setattr(spectator, "_act", lambda state, key, text: written("slate"))
    text = np.array([BEGIN_OF_ACTION] + [PAD] * (TEXT - 1), np.uint8)
    judged = spectator._judged(text, written("slate"))
    told = rows_of(lines := list(spectator.advise([])))["slate"]
    summed = [judged.log_probability.sum(), judged.score.sum(), *judged.q[:, 0, -1]]
    np.testing.assert_allclose(told, summed, atol=6e-4)
    before = next(line for line in lines if line.startswith("   (before)")).split()[1:]
    np.testing.assert_allclose([float(x) for x in before], judged.v[:, 0, 0], atol=6e-4)


def test_colours_that_fit_no_word_are_remarked(spectator):
    lines = list(spectator.advise(["crane:yyyyy"]))
    assert any(line.startswith("none of the 5 words of this game fits these colours") for line in lines)
    assert any(line.startswith("   0 words fit ") for line in lines)


def test_what_is_no_letter_is_shown_as_such():
    assert [_spelt(np.array(action)) for action in ([0, 26, 30, 29, 29, 29], [30] + [29] * 5, [25] * 6)] == [
        "a?",
        "(nothing)",
        "zzzzzz",
    ]
    guess, colours = _typed("Abbey:gbbby")
    assert guess.tolist() == [0, 1, 1, 4, 24] and colours.tolist() == [26, 27, 27, 27, 28]


def test_many_words_are_judged_in_parts(spectator, monkeypatch):
    """Words are judged so many at once, and padded to as many; what is said of each does not depend on it."""
    text = np.array([BEGIN_OF_ACTION] + [PAD] * (TEXT - 1), np.uint8)
    actions = np.random.default_rng(0).integers(0, 26, (70, ACTIONS.length)).astype(np.int32)
    actions[:, -1] = ACTIONS.closes
    whole = spectator._judged(text, actions)
    assert whole.q.shape == (2, 70, 6) and whole.score.shape == (70, 6)
    for place in (0, 63, 64, 69):
        one = spectator._judged(text, actions[place : place + 1])
        for x, y in zip(whole, one, strict=True):
            np.testing.assert_allclose(x[..., place, :], y[..., 0, :], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--target", "zebra"], "'zebra' is none of the 5 words of this game"),
        (["--games", "0"], "games must be at least 1"),
        (["--words", "0"], "words must be at least 1"),
        (["--seed", "-1"], "seed"),
        (["--games", "2", "--target", "label"], "not allowed with argument"),
        (["--history", "crane"], "'crane' has no five colours: write a guess and its colours as crane:bbygb"),
        (["--history", "crane:bbyg"], "'crane:bbyg' has no five colours"),
        (["--history", "crane:bbygx"], "'crane:bbygx' has no five colours"),
        (["--history", "cran:bbygb"], "'cran:bbygb' has no word of five letters"),
        (["--history", "cr4ne:bbygb"], "'cr4ne:bbygb' has no word of five letters"),
        (["--history", "crane:ggggg"], "'crane:ggggg' is the word: the game is over"),
        (["--history", *["crane:bbygb"] * 6], "a game has 6 guesses, and 6 are typed: none is left"),
        (["--agent", "9"], "has no seed 9"),
        (["--checkpoint", "best"], "best"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_played_is_refused_in_one_line(sharedq, agent, monkeypatch, words, says):
    if not {"--agent", "--checkpoint"} & {*words}:  # loading takes longer than all the rest
        monkeypatch.setattr("sharedq.agent.load", lambda *_, **__: agent)
    answer = sharedq("play", "run", *words)
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1
    assert answer.out == ""


def test_agents_of_other_environments_are_led_to_the_commands_for_them(agent):
    wordle, built = agent.experiment, agent.built
    silent = SimpleNamespace(spec=built.spec, algorithm=built.algorithm._replace(judge=None))
    elsewhere = SimpleNamespace(environment="cartpole")
    for experiment, parts in ((elsewhere, built), (wordle, silent)):
        one = SimpleNamespace(experiment=experiment, built=parts)
        with pytest.raises(SharedqError, match="film it with sharedq record, or see its returns with sharedq evaluate"):
            Spectator(one)


def test_a_clone_plays_without_values(agent):
    experiment = agent.experiment.replace(algorithm="bc")
    built = experiment.build(agent.built.spec)
    text = np.full((1, TEXT), PAD, np.uint8)
    state = jax.jit(built.algorithm.init)(jax.random.key(0), Batch(Transition(text, (), (), (), ()), (), ()))
    lines = list(Spectator(Agent(Compiled(built), state, 0, 0)).advise(["crane:bbyby"]))
    assert next(line for line in lines if " fit" in line).split() == ["2", "words", "fit", "log", "pi"]
    assert len(rows_of(lines)) >= 2 and all(len(numbers) == 1 for numbers in rows_of(lines).values())
    assert not [line for line in lines if "score" in line or "(before)" in line]


def test_only_a_head_that_is_drawn_is_told_of(agent):
    def legend(**target) -> str:
        built = agent.experiment.replace(**target).build(agent.built.spec)
        return "\n".join(Spectator(Agent(Compiled(built), built.agent_shapes(), 0, 0))._legend())

    assert "the agent draws one" in (drawn := legend()) and "Q1 to Q2" in drawn
    assert "the agent draws one" not in (fixed := legend(behaviour_head="2")) and "Q1 to Q2" in fixed
    assert "the agent draws one" not in (alone := legend(heads=1)) and "Q: the value" in alone


def test_changed_words_are_refused(sharedq, here):
    (here / "words.txt").write_text("\n".join(["zebra", *WORDS[1:]]))
    try:
        answer = sharedq("play", "run")
    finally:
        (here / "words.txt").write_text("\n".join(WORDS))
    assert answer.code == 2 and "is another than when the run began" in answer.err
