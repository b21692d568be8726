"""Watching an agent play Wordle: its guesses as coloured tiles, and what it thinks of the words that fit.

Shape letters: N words of the game, W words that are judged, L tokens of an action.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.agent import Agent
from sharedq.algorithms.algorithm import Judgement
from sharedq.environments import Environment
from sharedq.environments.wordle import (
    ALPHABET,
    BEGIN_OF_ACTION,
    BLACK,
    END_OF_ACTION,
    END_OF_STATE,
    GREEN,
    LETTERS,
    PAD,
    TEXT,
    TRIES,
    YELLOW,
    Wordle,
    colours_of,
    letters_of,
)
from sharedq.errors import SharedqError
from sharedq.playing.episodes import evaluation_seed, first_episodes
from sharedq.settings import check_count, require

GAMES = 1_000  # ours: the most games that are watched at once
JUDGED = 64  # words that are judged at once
NAMES = {GREEN: "g", BLACK: "b", YELLOW: "y"}  # of the colours, as they are typed and shown without colours
TILES = {GREEN: "30;42", BLACK: "97;100", YELLOW: "30;43"}  # the terminal's codes: the letter's colour, and the tile's
HOW = "write a guess and its colours as crane:bbygb, with g for green, y for yellow and b for neither"


class Turn(NamedTuple):
    text: np.ndarray  # [T] the text of the game before the guess
    action: np.ndarray  # [L] what the agent wrote
    colours: np.ndarray | None  # [5] the game's answer, as tokens; None: there is none to a guess that is no word


class Spectator:
    """Plays games with an agent, and tells in lines what it writes and what it thinks of words."""

    def __init__(self, agent: Agent, words: int = 5, coloured: bool = False):
        """With each guess so many words are told. In a terminal lines may be `coloured`."""
        check_count("words", words)
        settings, algorithm = agent.experiment.environment, agent.built.algorithm
        if not isinstance(settings, Wordle) or algorithm.judge is None:
            raise SharedqError(
                f"only agents that write words in Wordle can be watched so, and this one acts in "
                f"'{agent.built.spec.name}': film it with sharedq record, or see its returns with sharedq evaluate"
            )
        self._agent, self._words, self._coloured = agent, words, coloured
        self._environment = cast(Environment, agent.environment)  # raises if its words have changed
        self._rule = settings.colours
        self._vocabulary = settings.vocabulary()
        self._letters = letters_of(self._vocabulary)
        self._drawn = getattr(agent.experiment.target, "behaviour_head", None) == "uniform"
        act, self._state = agent.policy
        self._act, self._judge = jax.jit(act), jax.jit(algorithm.judge)
        text, word = np.zeros((1, TEXT), np.uint8), np.zeros((1, LETTERS + 1), np.int32)
        self._heads = len(jax.eval_shape(algorithm.judge, self._state, text, word).q)

    def watch(self, games: int = 1, seed: int = 0, target: str | None = None) -> Iterator[str]:
        """Games, which are those that `Agent.evaluate` plays with this seed, or one whose word is `target`."""
        check_count("games", games, most=GAMES)
        check_count("seed", seed, 0)
        known = self._vocabulary
        require(
            target is None or target in known,
            f"'{target}' is none of the {len(known):,} words of this game: choose one, such as {known[0]}",
        )
        yield from self._legend()
        targets, turns = self._play(games, evaluation_seed(seed), target)
        returns = []
        for game, place in enumerate(targets.tolist()):
            yield ""
            yield f"game {game + 1} of {games}: the word is {known[place]}"
            fits, won = np.ones(len(known), bool), False
            for number, turn in enumerate(turns[game], 1):
                yield from self._turn(number, turn, fits)
                if turn.colours is not None:
                    fits &= self._fit(turn.action[:LETTERS], turn.colours)
                    won = bool((turn.colours == GREEN).all())
            returns.append((1 if won else 0) - len(turns[game]))
            yield f"{'found' if won else 'not found'}, return {returns[-1]}"
        if games > 1:
            yield ""
            yield f"mean return {np.mean(returns):.2f} over {games} games"

    def advise(self, history: Sequence[str], seed: int = 0) -> Iterator[str]:
        """The next guess of a game, whose guesses so far are typed as crane:bbygb."""
        check_count("seed", seed, 0)
        text, fits = np.full(TEXT, PAD, np.uint8), np.ones(len(self._vocabulary), bool)
        text[0] = BEGIN_OF_ACTION
        require(len(history) < TRIES, f"a game has {TRIES} guesses, and {len(history)} are typed: none is left")
        lines, length = [], 1
        for number, typed in enumerate(history, 1):
            guess, colours = _typed(typed)
            turn = np.array([*guess, END_OF_ACTION, *colours, END_OF_STATE], np.uint8)
            text[length : length + len(turn)] = turn
            length += len(turn)
            fits &= self._fit(guess, colours)
            lines.append(f"guess {number}   {self._tiles(guess, colours)}")
        yield from self._legend()
        yield ""
        yield from lines
        if not fits.any():
            yield (
                f"none of the {len(self._vocabulary):,} words of this game fits these colours: see whether they are "
                f"typed right, by the rule that this agent learned (--environment.colours {self._rule})"
            )
        key = random_keys.at(random_keys.named(random_keys.root(evaluation_seed(seed)), "act"), len(history))
        action = np.asarray(self._act(self._state, key, text[None]))[0]
        yield from self._turn(len(history) + 1, Turn(text, action, None), fits)

    def _play(self, games: int, seed: int, target: str | None) -> tuple[np.ndarray, list[list[Turn]]]:
        """The targets, as numbers of words, and the turns of games that are played side by side."""
        state, text = first_episodes(self._environment, seed, games)
        if target is not None:
            state = state._replace(target=jnp.full(games, self._vocabulary.index(target), jnp.int32))
        root, step = random_keys.root(seed), jax.jit(jax.vmap(self._environment.step))
        act_key, keys = random_keys.named(root, "act"), jax.random.split(root, games)  # the game draws nothing
        targets = np.asarray(state.target)
        turns: list[list[Turn]] = [[] for _ in range(games)]
        over = np.zeros(games, bool)
        for time in range(TRIES):
            action = self._act(self._state, random_keys.at(act_key, time), text)
            state, outcome = step(keys, state, action)
            for game in np.flatnonzero(~over).tolist():
                written = np.asarray(action[game])
                turns[game].append(Turn(np.asarray(text[game]), written, self._answer(written, targets[game])))
            text, over = outcome.obs, over | np.asarray(outcome.terminated)
            if over.all():
                break
        return targets, turns

    def _answer(self, action: np.ndarray, target: int) -> np.ndarray | None:
        return colours_of(action[:LETTERS], self._letters[target], self._rule) if _is_word(action) else None

    def _fit(self, guess: np.ndarray, colours: np.ndarray) -> np.ndarray:
        """Which words [N] would have given these colours."""
        return (colours_of(guess, self._letters, self._rule) == colours).all(axis=-1)

    def _legend(self) -> Iterator[str]:
        yield "log pi: the log probability of writing the word, by the policy that imitates the data"
        if not self._heads:
            return
        several = self._heads > 1
        drawn = ", here of all heads on average: the agent draws one for each word" if several and self._drawn else ""
        name, own = (f"Q1 to Q{self._heads}", "; each head has its own") if several else ("Q", "")
        yield "score: what the agent writes by, log pi + min(beta * advantage, 0), summed over the letters"
        yield f"advantage: of a letter over V{drawn}"
        yield f"{name}: the value of having written the word, by the critic with the smallest{own}"
        yield "(before): the value V of the game before the guess; every wrong guess to come counts -1, discounted"

    def _turn(self, number: int, turn: Turn, fits: np.ndarray) -> Iterator[str]:
        yield f"guess {number}   {self._tiles(turn.action, turn.colours)}"
        yield from self._table(turn, np.flatnonzero(fits))

    def _table(self, turn: Turn, fits: np.ndarray) -> Iterator[str]:
        """The best of the words that fit, by score, and the guess."""
        actions = np.full((len(fits), LETTERS + 1), END_OF_ACTION, np.int32)
        actions[:, :LETTERS] = self._letters[fits]
        own = np.flatnonzero((actions == turn.action).all(axis=1))
        if not own.size:
            actions, own = np.concatenate([actions, turn.action[None]]), np.array([len(fits)])
        judged = self._judged(turn.text, actions)
        score, log_probability = judged.score.sum(axis=1), judged.log_probability.sum(axis=1)
        last = (actions != PAD).sum(axis=1) - 1
        q = judged.q[:, np.arange(len(actions)), last]  # [H, W] of the token that closes the word
        told = np.argsort(-score[: len(fits)], kind="stable")[: self._words].tolist()
        told = sorted({*told, *own.tolist()}, key=lambda row: -score[row])
        columns = ["log pi"]
        if len(q):
            columns += ["score", *([f"Q{head}" for head in range(1, len(q) + 1)] if len(q) > 1 else ["Q"])]
        count = f"{len(fits):,} word{'' if len(fits) == 1 else 's'} fit{'s' if len(fits) == 1 else ''}"
        yield f"   {count:16}" + "".join(f"{name:>9}" for name in columns)
        if len(q):
            yield f"   {'(before)':16}{'':18}" + "".join(f"{value:9.3f}" for value in judged.v[:, 0, 0])
        for row in told:
            numbers = [log_probability[row], *([score[row], *q[:, row]] if len(q) else [])]
            mark = ">" if row == own[0] else " "
            yield f" {mark} {_spelt(actions[row]):16}" + "".join(f"{value:9.3f}" for value in numbers)

    def _judged(self, text: np.ndarray, actions: np.ndarray) -> Judgement:
        """What the agent thinks of actions [W, L] behind a text. They are judged so many at once, to compile once."""
        found = []
        for begin in range(0, len(actions), JUDGED):
            part = actions[begin : begin + JUDGED]
            filled = np.concatenate([part, np.repeat(part[:1], JUDGED - len(part), axis=0)])
            judged = self._judge(self._state, np.repeat(text[None], JUDGED, axis=0), filled)
            found.append([np.asarray(x)[..., : len(part), :] for x in judged])
        return Judgement(*(np.concatenate(each, axis=-2) for each in zip(*found, strict=True)))

    def _tiles(self, action: np.ndarray, colours: np.ndarray | None) -> str:
        """A guess and the answer to it."""
        word = _spelt(action)
        if colours is None:
            return word if _is_word(action) else f"{word} is not five letters: it costs a guess and has no answer"
        if not self._coloured:
            return f"{word}:{''.join(NAMES[colour] for colour in colours.tolist())}"
        tiles = zip(word.upper(), colours.tolist(), strict=True)
        return "".join(f"\x1b[1;{TILES[colour]}m {letter} \x1b[0m" for letter, colour in tiles)


def _typed(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The letters and the colours of a guess that is typed."""
    word, _, colours = text.lower().partition(":")
    require(len(word) == LETTERS and set(word) <= set(ALPHABET), f"'{text}' has no word of five letters: {HOW}")
    require(len(colours) == LETTERS and set(colours) <= set(NAMES.values()), f"'{text}' has no five colours: {HOW}")
    tokens = {name: colour for colour, name in NAMES.items()}
    found = np.array([tokens[name] for name in colours])
    require((found != GREEN).any(), f"'{text}' is the word: the game is over, and there is no next guess")
    return letters_of([word])[0], found


def _is_word(action: np.ndarray) -> bool:
    return bool((action[:LETTERS] < len(ALPHABET)).all() and action[LETTERS] == END_OF_ACTION)


def _spelt(action: np.ndarray) -> str:
    """What was written before the token that closes it, with ? for what is no letter."""
    ends = np.flatnonzero(action == END_OF_ACTION)
    tokens = action[: ends[0]] if ends.size else action
    return "".join(ALPHABET[token] if token < len(ALPHABET) else "?" for token in tokens.tolist()) or "(nothing)"
