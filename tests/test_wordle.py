"""Wordle: the game beside a slow one, its text beside a worked example, its words, its players and their data sets."""

import argparse
import itertools
import json
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedq import data_command, wordle_players
from sharedq.algorithms import ALGORITHMS
from sharedq.collecting import _disturbed, collect
from sharedq.command_line import main
from sharedq.data_evaluation import OnData
from sharedq.datasets.data_set import check_made_for
from sharedq.datasets.minari_export import _action_space
from sharedq.datasets.rules import check_episode, first_wrong
from sharedq.datasets.store import Store
from sharedq.environments import Wordle, check, wordle
from sharedq.environments.spec import from_json, to_json
from sharedq.environments.wordle import ACTIONS, TEXT, TRIES, colours_in, colours_of, game_of, letters_of, patterns_of
from sharedq.errors import SharedqError
from sharedq.experiment import Experiment
from sharedq.wordle_players import RECIPES, Knowledge, games, one_of, play, write_games

WORDS = ("abbey", "babel", "bagel", "cabal", "cable", "gavel", "label", "llama")  # many letters occur twice
RULES = ("paper", "real")
GAMES = {rule: game_of(WORDS, rule) for rule in RULES}

# The slow game


def slow_colours(guess: list[int], target: list[int], rule: str) -> list[int]:
    """By the rules as a person reads them: first the greens, then yellows as long as such letters are left."""
    left = Counter(letter for letter, own in zip(target, guess, strict=True) if letter != own)
    colours = []
    for letter, own in zip(guess, target, strict=True):
        if letter == own:
            colours.append(26)
        elif letter in target if rule == "paper" else left[letter] > 0:
            colours.append(28)
            left[letter] -= 1
        else:
            colours.append(27)
    return colours


def slow_game(target: str, actions: list[list[int]], rule: str) -> list[tuple[list[int], float, bool]]:
    """The text, the reward and whether the game is over, after each action until it is."""
    wanted, text, steps = [ord(letter) - 97 for letter in target], [33], []
    for turn, action in enumerate(actions, 1):
        written = list(itertools.takewhile(lambda token: token != 30, action))
        letters = [token for token in written if 0 <= token < 26]
        if len(letters) == len(written) == 5:
            text += [*letters, 30, *slow_colours(letters, wanted, rule), 31]
        else:
            text += [*letters[:4], 30, 31]
        won = letters == written == wanted
        over = won or turn == 6
        text += [34] * over
        steps.append((text + [29] * (74 - len(text)), 0.0 if won else -1.0, over))
        if over:
            break
    return steps


@jax.jit
def played(target: jax.Array, actions: jax.Array) -> dict:
    """What the environment says to the actions [6, 6] of a game with this target, by both rules."""

    def one(environment):
        state, obs = environment.reset(jax.random.key(0))

        def step(state, action):
            return environment.step(jax.random.key(0), state, action)

        return obs, jax.lax.scan(step, state._replace(target=target), actions)[1]

    return {rule: one(environment) for rule, environment in GAMES.items()}


def assert_played(target: str, actions: list[list[int]], rule: str) -> list[tuple[list[int], float, bool]]:
    first, outcome = jax.device_get(played(jnp.int32(WORDS.index(target)), jnp.array(actions)))[rule]
    assert first.tolist() == [33] + [29] * 73
    steps = slow_game(target, actions, rule)
    for turn, (text, reward, over) in enumerate(steps):
        assert outcome.obs[turn].tolist() == outcome.final_obs[turn].tolist() == text
        assert (outcome.reward[turn], outcome.terminated[turn]) == (reward, over)
    assert not outcome.truncated.any()
    return steps


def written(word: str) -> list[int]:
    return [ord(letter) - 97 for letter in word] + [30]


FEW_LETTERS = st.lists(st.integers(0, 2), min_size=5, max_size=5)
ACTION = (
    st.sampled_from(WORDS).map(written)
    | st.lists(st.sampled_from([0, 1, 4, 11]), min_size=5, max_size=5).map(lambda letters: [*letters, 30])
    | st.lists(st.sampled_from([0, 1, 2, 25, 26, 29, 30, 31, 34]), min_size=6, max_size=6)
    | st.lists(st.integers(-2, 36), min_size=6, max_size=6)
)


@given(FEW_LETTERS, FEW_LETTERS, st.sampled_from(RULES))
def test_colours_are_those_that_a_person_gives(guess, target, rule):
    assert colours_of(np.array(guess), np.array(target), rule).tolist() == slow_colours(guess, target, rule)


def test_the_two_rules_differ_where_a_letter_is_guessed_twice():
    guess, target = letters_of(["label", "llama"])
    assert colours_of(guess, target, "paper").tolist() == [26, 28, 27, 27, 28]
    assert colours_of(target, guess, "paper").tolist() == [26, 28, 28, 27, 28]  # the second l and both a's
    assert colours_of(target, guess, "real").tolist() == [26, 28, 28, 27, 27]  # label has one a


@pytest.mark.parametrize("rule", RULES)
def test_patterns_hold_the_colours_and_only_the_target_wins(rule):
    patterns = patterns_of(WORDS, rule)
    assert patterns.dtype == np.uint8 and patterns.max() < 243
    assert np.array_equal(patterns == 0, np.eye(len(WORDS), dtype=bool))
    for (i, guess), (j, target) in itertools.product(enumerate(letters_of(WORDS).tolist()), repeat=2):
        assert colours_in(patterns)[i, j].tolist() == slow_colours(guess, target, rule)


@given(st.sampled_from(WORDS), st.lists(ACTION, min_size=TRIES, max_size=TRIES), st.sampled_from(RULES))
def test_the_game_is_the_slow_game(target, actions, rule):
    assert_played(target, actions, rule)


def test_the_text_of_a_game_is_the_worked_one():
    """cabal, guessed as bagel, as a word that is no word, as four letters, and then right."""
    four = [2, 0, 30, 1, 0, 30]  # what is behind the first 30 does not count
    actions = [written("bagel"), [2, 0, 1, 0, 11, 11], four, written("cabal"), *[written("label")] * 2]
    steps = assert_played("cabal", actions, "paper")
    first = [33, 1, 0, 6, 4, 11, 30, 28, 26, 27, 27, 26, 31]
    second = [2, 0, 1, 0, 30, 31]  # six letters, of which four are kept; no colours
    third = [2, 0, 30, 31]
    last = [2, 0, 1, 0, 11, 30, 26, 26, 26, 26, 26, 31, 34]
    whole = [*first, *second, *third, *last]
    assert steps[-1] == (whole + [29] * (74 - len(whole)), 0.0, True)
    assert [reward for _, reward, _ in steps] == [-1, -1, -1, 0]
    assert steps[0][0][:14] == [*first, 29]


@pytest.mark.parametrize(("last", "reward"), [("cabal", 0.0), ("cable", -1.0)])
def test_the_sixth_guess_ends_the_game_and_may_win_it(last, reward):
    steps = assert_played("cabal", [*[written("label")] * 5, written(last)], "real")
    text, *end = steps[-1]
    assert end == [reward, True] and len(steps) == TRIES and text[-2:] == [31, 34] and len(text) == TEXT == 74
    assert sum(reward for _, reward, _ in steps) == (-5 if last == "cabal" else -6)


def test_the_game_keeps_the_contract():
    environment = Wordle(count=12, colours="real").build()
    check(environment, steps=30)
    assert from_json(json.loads(json.dumps(to_json(environment.spec)))) == environment.spec
    targets = jax.vmap(lambda key: environment.reset(key)[0].target)(jax.random.split(jax.random.key(1), 1200))
    assert np.bincount(targets, minlength=12).min() > 60 and np.bincount(targets).shape == (12,)


@pytest.mark.parametrize("rule", RULES)
def test_one_target_is_equal_in_law_to_a_new_one_at_every_guess(rule):
    """The paper's code draws a new target among the words that fit, at every guess. Every text is as likely."""
    patterns = patterns_of(WORDS, rule)
    for guesses in itertools.islice(itertools.permutations(range(len(WORDS)), 3), 0, None, 7):
        fixed = Counter(tuple(patterns[guess, target] for guess in guesses) for target in range(len(WORDS)))
        redrawn = {(): (Fraction(1), list(range(len(WORDS))))}  # the colours so far: how likely, and which words fit
        for guess in guesses:
            longer = {}
            for colours, (chance, fits) in redrawn.items():
                for pattern, count in Counter(patterns[guess, word] for word in fits).items():
                    those = [word for word in fits if patterns[guess, word] == pattern]
                    longer[*colours, pattern] = chance * Fraction(count, len(fits)), those
            redrawn = longer
        assert {colours: chance for colours, (chance, _) in redrawn.items()} == {
            colours: Fraction(count, len(WORDS)) for colours, count in fixed.items()
        }


# Words


def test_the_packaged_words_are_words_and_a_sample_of_them_is_repeated():
    everything = Wordle(count=None).vocabulary()
    assert list(everything) == sorted(set(everything)) and len(everything) > 1000
    assert all(len(word) == 5 and set(word) <= set("abcdefghijklmnopqrstuvwxyz") for word in everything)
    sample = Wordle().vocabulary()
    assert len(sample) == 236 and set(sample) < set(everything) and sample == Wordle().vocabulary()
    assert sample != Wordle(words_seed=1).vocabulary()
    assert set(Wordle(count=100).vocabulary()) < set(sample)


def test_names_tell_games_apart(tmp_path):
    changes = ({}, {"count": 235}, {"words_seed": 1}, {"colours": "real"})
    names = [Wordle(**change).build().spec.name for change in changes]
    assert len(set(names)) == 4 and names[0].startswith("wordle-236-") and names[3] == names[0].replace("paper", "real")
    (tmp_path / "mine.txt").write_text("\n".join(reversed(WORDS)) + "\n")
    mine = Wordle(words=str(tmp_path / "mine.txt"), count=None)
    assert mine.vocabulary() == WORDS and mine.build().spec == GAMES["paper"].spec
    (tmp_path / "mine.txt").write_text("\r\n".join(WORDS[1:]))
    assert mine.build().spec.name != GAMES["paper"].spec.name


BAD_LISTS = {
    "": "has fewer than 2 words, and a game needs 2 at least",
    "crane\n": "has fewer than 2 words, and a game needs 2 at least",
    "crane\nslates\n": "line 2: 'slates' has 6 letters, and a word needs 5",
    "crane\n\nslate\n": "line 2: '' has 0 letters",
    "crane\nSlate\n": "line 2: 'Slate' is not written in the letters a to z alone",
    "crane\nplät!\n": "line 2: 'plät!' is not written in the letters a to z alone",
    "crane\nslate\ncrane\n": "line 3: 'crane' stands in line 1 too: remove one of them",
    "crane\nslate\ntrace\n": "count is 4, and {path} has 3 words: lower it",
    "c" * 10_000: "line 1: 'cccc",
}


@pytest.mark.parametrize("text", BAD_LISTS, ids=range(len(BAD_LISTS)))
def test_a_bad_list_is_refused_in_one_line(tmp_path, capsys, text):
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    words = ["data", "wordle", str(tmp_path / "out"), "--recipe", "human", "--games", "3"]
    assert main([*words, "--words", str(path), "--count", "4"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and BAD_LISTS[text].format(path=path) in said
    assert list(tmp_path.iterdir()) == [path]


def test_a_list_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary", tmp_path / "missing", tmp_path):
        with pytest.raises(SharedqError, match=r"cannot read the list of words .*: name wonderwords, or a text file"):
            Wordle(words=str(path)).build()
    monkeypatch.setattr(wordle, "MOST_WORDS", 3)
    (tmp_path / "long").write_text("\n".join(WORDS))
    with pytest.raises(SharedqError, match="has more than 3 words: shorten it"):
        Wordle(words=str(tmp_path / "long"), count=2).build()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(wordle, "PACKAGE", "no_such_package")
    with pytest.raises(
        SharedqError, match=r"needs the package 'no_such_package': run  pip install 'sharedq\[language\]'"
    ):
        Wordle(words="no_such_package").build()


@pytest.mark.parametrize(
    ("change", "line"), [({"count": 1}, "count must be at least 2"), ({"words": ""}, "words must")]
)
def test_settings_that_make_no_game_are_refused(change, line):
    with pytest.raises(SharedqError, match=line):
        Wordle(**change)


# Players


@pytest.fixture(scope="module")
def known():
    return Knowledge(Wordle(count=50).vocabulary(), "paper")


@given(st.lists(st.booleans(), min_size=1, max_size=9).filter(any), st.floats(0, 1, exclude_max=True))
def test_one_of_takes_true_entries_in_order(mask, draw):
    true = np.flatnonzero(mask)
    assert one_of(np.array([mask]), np.array([draw]))[0] == true[int(draw * len(true))]


@given(st.sets(st.integers(0, len(WORDS) - 1), min_size=1), st.sampled_from(RULES))
def test_the_information_of_a_guess_is_the_entropy_of_its_colours(those, rule):
    own, those = Knowledge(WORDS, rule), sorted(those)
    letters = letters_of(WORDS).tolist()
    slow = []
    for guess in those:
        counts = Counter(tuple(slow_colours(letters[guess], letters[target], rule)) for target in those)
        slow.append(-sum(n / len(those) * np.log2(n / len(those)) for n in counts.values()))
    mask = np.isin(np.arange(len(WORDS)), those)
    assert own.information(mask) == pytest.approx(slow)
    best = [word for word, bits in zip(those, slow, strict=True) if bits > max(slow) - 1e-9]
    assert np.flatnonzero(own.most_telling(mask[None])[0]).tolist() == best


MEANS = {  # of 600 games on 50 other words, from the facts of the paper's setting
    "random": (wordle_players.RANDOM, -5.65),
    "quarter": (wordle_players.QUARTER, -3.56),
    "half": (wordle_players.HALF, -2.46),
    "mostly": (wordle_players.MOSTLY, -1.90),
    "fitting": (wordle_players.FITTING, -1.53),
    "expert": (wordle_players.expert, -1.28),
    "repeating": (wordle_players.REPEATING, -5.90),
    "wrong": (wordle_players.wrong, -5.86),
}


def test_players_are_as_good_as_those_of_the_paper(known):
    rng, means = np.random.default_rng(0), {}
    for name, (player, mean) in MEANS.items():
        found = play(known, player, rng.integers(50, size=2000), rng.random((2000, TRIES, 3)))
        means[name] = np.where(found.won, 1 - found.length, -6).mean()
        assert means[name] == pytest.approx(mean, abs=0.3)
    order = ["random", "quarter", "half", "mostly", "fitting", "expert"]
    assert sorted(order, key=means.get) == order


def test_games_are_what_the_environment_makes_of_their_actions():
    own = Knowledge(WORDS, "real")
    rng = np.random.default_rng(1)
    found = play(own, wordle_players.HALF, rng.integers(len(WORDS), size=20), rng.random((20, TRIES, 3)))
    episodes = wordle_players.episodes_of(own, found, 3)
    assert {len(episode.reward) for episode in episodes} >= {2, 3, 4}
    for target, episode in zip(found.target.tolist(), episodes, strict=True):
        actions = episode.action.tolist() + [written("label")] * (TRIES - len(episode.action))
        steps = assert_played(WORDS[target], actions, "real")
        assert [reward for _, reward, _ in steps] == episode.reward.tolist()
        assert [[33] + [29] * 73, *(text for text, _, _ in steps)] == episode.obs.tolist()
        assert (episode.obs.dtype, episode.action.dtype, episode.end, episode.group) == (np.uint8, np.int32, 1, 3)


def first_games(known, recipe, count, seed=0, skipped=0):
    return list(itertools.islice(games(known, RECIPES[recipe], seed, skipped), count))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_game_depends_on_the_seed_and_its_number_only(known, recipe):
    whole = first_games(known, recipe, 600)
    for skipped in (0, 7, 255, 300, 590):
        for one, other in zip(whole[skipped:], first_games(known, recipe, 600 - skipped, skipped=skipped), strict=True):
            assert one.group == other.group and np.array_equal(one.obs, other.obs)
    other = first_games(known, recipe, 600, seed=1)
    assert any(not np.array_equal(a.obs[-1], b.obs[-1]) for a, b in zip(whole, other, strict=True))
    assert {episode.group for episode in whole} == set(range(len(RECIPES[recipe].groups)))


def guesses_of(episode) -> list[tuple[int, ...]]:
    return [tuple(action[:5].tolist()) for action in episode.action]


def families(known, recipe):
    """The games of each family, which begins with the game of an expert."""
    found = []
    for episode in first_games(known, recipe, 400):
        if episode.group == 0:
            found.append([])
        found[-1].append(episode)
    return found[:-1]


def test_branches_leave_the_expert_at_every_guess_with_words_that_do_not_fit(known):
    tokens = [tuple(word) for word in known.letters.tolist()]
    for first, *branches in families(known, "branch"):
        assert len(branches) == len(first.reward)
        for begun, branch in enumerate(branches):
            guesses, fits = guesses_of(branch), np.ones(50, bool)
            assert guesses[:begun] == guesses_of(first)[:begun]
            for turn, guess in enumerate(map(tokens.index, guesses)):
                assert fits.all() or turn < begun or not fits[guess]
                colours = branch.obs[-1][12 * turn + 7 : 12 * turn + 12]
                fits &= (colours_in(known.patterns[guess]) == colours).all(axis=1)


def test_the_paper_s_families_repeat_the_first_two_guesses_of_the_expert(known):
    for first, *others in families(known, "paper"):
        weaker, repeats = ([one for one in others if one.group == group] for group in (1, 2))
        assert len(weaker) == 5 and len(repeats) == 5 * (len(first.reward) >= 3)
        for repeat in repeats:
            guesses = guesses_of(repeat)
            assert guesses[:2] == guesses_of(first)[:2] and set(guesses[2:]) <= set(guesses[:2])
            assert repeat.reward.tolist() == [-1] * TRIES


# Data sets


def made(path, games=300, recipe="mixed", **settings) -> Store:
    return write_games(path, recipe, games, 4, Wordle(**{"count": 30, **settings}))


def test_the_command_writes_a_data_set_that_can_be_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("\n".join(WORDS))
    words = "data wordle games --recipe paper --games 1e3 --seed 2 --words mine.txt --count none --colours real"
    assert main(words.split()) == 0
    assert "in 1,000 episodes, mean return -" in capsys.readouterr().out
    store = Store("games")
    assert store.description.spec == GAMES["real"].spec and store.description.rewards == "raw"
    settings = {"words": "mine.txt", "count": None, "words_seed": 0, "colours": "real"}
    assert store.description.environment == {"kind": "wordle", **settings}
    assert store.manifest.ends == {"unknown": 0, "terminated": 1000, "truncated": 0} and store.manifest.groups == 3
    again = store.description.source.replace("data wordle", "data wordle again").removeprefix("sharedq ")
    assert main(again.split()) == 0
    assert Store("again").manifest.content == store.manifest.content
    capsys.readouterr()
    shown = {
        "inspect": "texts of 6 tokens out of 35",
        "stats": "token  written  share",
        "validate": "in 1,000 episodes",
    }
    for verb, text in shown.items():
        assert main(["data", verb, "games"]) == 0
        assert text in capsys.readouterr().out
    assert main(["data", "stats", "games", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["actions"]["tokens"]
    assert counts["30"] == store.manifest.steps and sum(counts.values()) == 6 * store.manifest.steps
    assert main(words.split()) == 2
    assert "games exists already" in capsys.readouterr().err


def test_the_command_offers_the_recipes_that_there_are():
    parser = argparse.ArgumentParser()
    data_command.VERBS["wordle"][0](parser)
    assert parser._option_string_actions["--recipe"].choices == tuple(RECIPES)
    defaults = {name: parser.get_default(name) for name in ("words", "count", "words_seed", "colours")}
    assert Wordle(**defaults) == Wordle()


def test_writing_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    whole = made(tmp_path / "whole").manifest.content

    def broken(known, recipe, seed, skipped):
        yield from itertools.islice(games(known, recipe, seed, skipped), 100)
        raise KeyboardInterrupt

    monkeypatch.setattr(wordle_players, "games", broken)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    monkeypatch.undo()
    assert made(tmp_path / "broken").manifest.content == whole


def test_data_of_other_words_are_refused(tmp_path):
    store = made(tmp_path / "games", games=5)
    check_made_for(store, Wordle(count=30).build().spec)
    for change in ({"words_seed": 1}, {"count": 31}, {"colours": "real"}):
        with pytest.raises(SharedqError, match=r"was recorded in 'wordle-30-.*-paper', and the exp") as caught:
            check_made_for(store, Wordle(**{"count": 30, **change}).build().spec)
        typed = "--environment wordle --environment.words wonderwords --environment.count 30 --environment.words_seed 0"
        assert f"({typed} --environment.colours paper)" in str(caught.value)


def test_actions_with_tokens_that_do_not_exist_are_refused(tmp_path):
    description, episode = made(tmp_path / "games", games=5).description, Store(tmp_path / "games").episode(0)
    for token in (-1, 35):
        action = episode.action.copy()
        action[0, 2] = token
        with pytest.raises(SharedqError, match=r"here, step 0: the action .* lies outside the tokens 0 \.\. 34"):
            check_episode(episode._replace(action=action), description, "here")
        assert first_wrong("actions", action.ravel(), description)[0] == 2


def test_random_agents_write_texts_that_end(tmp_path):
    store = collect(tmp_path / "random", ["random"], 300, environment=Wordle(count=30))
    assert (store.actions[:, -1] == 30).all() and store.actions.min() >= 0 and store.actions.max() < 35
    assert store.returns[:-1].tolist() == [-6] * (len(store) - 1)


def test_with_epsilon_a_whole_text_is_random():
    act = _disturbed(lambda state, key, obs: jnp.zeros((len(obs), 6), jnp.int32), ACTIONS, 0.25)
    actions = np.asarray(act(None, jax.random.key(0), np.zeros((1000, TEXT))))
    random = (actions != 0).any(axis=1)
    assert 0.2 < random.mean() < 0.3 and (actions[random, -1] == 30).all()


# What takes no texts says so


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("ilql", "bc")])
def test_algorithms_for_numbers_refuse_texts(name):
    experiment = Experiment(environment=Wordle(count=30)).replace(algorithm=name)
    with pytest.raises(SharedqError, match=r"needs actions that are numbers, .* are texts: add --algorithm ilql"):
        experiment.build()


def test_minari_and_an_evaluation_on_data_refuse_texts():
    with pytest.raises(SharedqError, match="texts, which Minari cannot describe"):
        _action_space(ACTIONS)
    like = SimpleNamespace(built=SimpleNamespace(spec=GAMES["real"].spec, experiment=None))
    with pytest.raises(SharedqError, match="cannot be evaluated on data: leave out --data to let it play"):
        OnData(like, "anywhere")
