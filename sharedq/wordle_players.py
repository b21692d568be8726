"""Scripted players of Wordle, and the data sets of their games.

The players are those of the public code of implicit language Q-learning. They know the words and see which of them fit
all colours so far. Many games are played at once, with numpy. A game depends on nothing but the recipe, the seed and
its number, so a data set that was interrupted is repeated up to where it was, and goes on from there.

Shape letters: B games, N words, K guesses so far.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from sharedq.collecting import known_of
from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.store import Store
from sharedq.datasets.writing import StoreWriter
from sharedq.environments.spec import EnvironmentSpec
from sharedq.environments.wordle import (
    BEGIN_OF_ACTION,
    END_OF_ACTION,
    END_OF_DIALOGUE,
    END_OF_STATE,
    LETTERS,
    PAD,
    TEXT,
    TRIES,
    TURN,
    Colours,
    Wordle,
    colours_in,
    game_of,
    letters_of,
    patterns_of,
)
from sharedq.errors import unknown
from sharedq.experiment import Experiment
from sharedq.output import Counted, bar, uncounted
from sharedq.settings import as_typed, check_count, convert, require, to_plain
from sharedq.validation import path as as_path

OPENERS = 28  # words that an expert begins with, as many as in the paper's code; which ones is ours
CHUNK = 256  # games, or families of games, that are played at once; other chunks would be other games
KEPT = 50_000  # sets of words whose best guesses are kept
CODES = 3**LETTERS  # of the colours of a guess
COUNTED = 2**22  # entries of the table of colours that are counted at once


class Knowledge:
    """The words of a game, the colours of each as a guess for each as the target, and which guesses tell the most."""

    def __init__(self, words: Sequence[str], rule: Colours):
        self.words, self.letters, self.patterns = tuple(words), letters_of(words), patterns_of(words, rule)
        self._best = lru_cache(KEPT)(self._most_telling)
        everything = np.ones(len(words), bool)
        self.openers = np.sort(np.argsort(-self.information(everything), kind="stable")[:OPENERS])

    def fit(self, guess: Any, target: Any) -> np.ndarray:
        """Which words [B, N] would have given the colours of guesses [B] for their targets [B]."""
        return self.patterns[guess] == self.patterns[guess, target][:, None]

    def information(self, mask: np.ndarray) -> np.ndarray:
        """The bits that the colours of a guess tell on average about the target: of each word [C] in a mask [N]."""
        those = np.flatnonzero(mask)
        rows = max(COUNTED // len(those), 1)
        return np.concatenate([self._bits(those[at : at + rows], those) for at in range(0, len(those), rows)])

    def _bits(self, guesses: np.ndarray, targets: np.ndarray) -> np.ndarray:
        codes = self.patterns[np.ix_(guesses, targets)] + CODES * np.arange(len(guesses))[:, None]
        share = np.bincount(codes.ravel(), minlength=CODES * len(guesses)).reshape(-1, CODES) / len(targets)
        return -(share * np.log2(np.where(share > 0, share, 1))).sum(1)

    def _most_telling(self, packed: bytes) -> np.ndarray:
        mask = np.unpackbits(np.frombuffer(packed, np.uint8), count=len(self.words)).astype(bool)
        bits = self.information(mask)
        found = np.zeros_like(mask)
        found[np.flatnonzero(mask)[bits >= bits.max() - 1e-9]] = True  # sums in another order differ by rounding
        return found

    def most_telling(self, masks: np.ndarray) -> np.ndarray:
        """The words of each mask [B, N] with the most information, as masks."""
        return np.stack([self._best(packed.tobytes()) for packed in np.packbits(masks, axis=1)])


# Of what is known, the words [B, N] that fit, the guesses so far [B, K] and three random numbers [B, 3]: guesses [B].
Player = Callable[[Knowledge, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def one_of(mask: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A word of each mask [B, N], all of them equally likely."""
    count = mask.cumsum(axis=1, dtype=np.int32)
    return (count > (draw * count[:, -1])[:, None].astype(np.int32)).argmax(axis=1)


def expert(known: Knowledge, fits: np.ndarray, past: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """One of the openers, and then always a word that fits and tells the most."""
    if not past.shape[1]:
        return known.openers[(draw[:, 2] * len(known.openers)).astype(int)]
    return one_of(known.most_telling(fits), draw[:, 2])


def fitting(known: Knowledge, fits: np.ndarray, past: np.ndarray, draw: np.ndarray, p: float) -> np.ndarray:
    """A word that fits with probability p, and otherwise any word."""
    return one_of(fits | (draw[:, 1:2] >= p), draw[:, 2])


def wrong(known: Knowledge, fits: np.ndarray, past: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A word that does not fit; any word where all fit."""
    return one_of(~fits | fits.all(1, keepdims=True), draw[:, 2])


def repeating(known: Knowledge, fits: np.ndarray, past: np.ndarray, draw: np.ndarray, first: int) -> np.ndarray:
    """Any word, and then always one of the first guesses again."""
    if not past.shape[1]:
        return (draw[:, 2] * len(known.words)).astype(int)
    return past[np.arange(len(past)), (draw[:, 2] * min(first, past.shape[1])).astype(int)]


def mixture(
    known: Knowledge, fits: np.ndarray, past: np.ndarray, draw: np.ndarray, q: float, one: Player, other: Player
) -> np.ndarray:
    """At each guess, one player with probability q, and otherwise the other."""
    return np.where(draw[:, 0] < q, one(known, fits, past, draw), other(known, fits, past, draw))


RANDOM, QUARTER, HALF, MOSTLY, FITTING = (partial(fitting, p=p) for p in (0.0, 0.25, 0.5, 0.75, 1.0))
REPEATING = partial(repeating, first=2)


class Played(NamedTuple):
    target: np.ndarray  # [B]
    guesses: np.ndarray  # [B, 6], -1 behind the end
    length: np.ndarray  # [B], the number of guesses
    won: np.ndarray  # [B]


def play(known: Knowledge, player: Player, target: np.ndarray, draws: np.ndarray, past: Any = None) -> Played:
    """Games with these targets [B], by random numbers [B, 6, 3]; they go on behind the guesses `past` [B, K]."""
    games = len(target)
    begun = 0 if past is None else past.shape[1]
    guesses = np.full((games, TRIES), -1)
    guesses[:, :begun] = 0 if past is None else past
    fits = np.ones((games, len(known.words)), bool)
    for turn in range(begun):
        fits &= known.fit(guesses[:, turn], target)
    length, won = np.full(games, TRIES), np.zeros(games, bool)
    going = np.arange(games)
    for turn in range(begun, TRIES):
        if not going.size:
            break
        guess = player(known, fits[going], guesses[going, :turn], draws[going, turn])
        guesses[going, turn] = guess
        hit = guess == target[going]
        length[going[hit]], won[going[hit]] = turn + 1, True
        going, guess = going[~hit], guess[~hit]
        fits[going] &= known.fit(guess, target[going])
    return Played(target, guesses, length, won)


def texts_of(known: Knowledge, played: Played) -> np.ndarray:
    """The whole texts of games, uint8 [B, 74], as the environment writes them."""
    turns = np.full((len(played.target), TRIES, TURN), END_OF_ACTION, np.uint8)
    turns[..., :LETTERS] = known.letters[played.guesses]
    turns[..., LETTERS + 1 : -1] = colours_in(known.patterns[played.guesses, played.target[:, None]])
    turns[..., -1] = END_OF_STATE
    texts = np.full((len(turns), TEXT), BEGIN_OF_ACTION, np.uint8)
    texts[:, 1:-1] = turns.reshape(len(turns), TRIES * TURN)
    end, place = 1 + TURN * played.length[:, None], np.arange(TEXT)
    texts[place == end] = END_OF_DIALOGUE
    texts[place > end] = PAD
    return texts


def episodes_of(known: Knowledge, played: Played, group: int) -> list[Episode]:
    """Games as a data set has them."""
    texts = texts_of(known, played)
    actions = np.full((len(texts), TRIES, LETTERS + 1), END_OF_ACTION, np.int32)
    actions[..., :-1] = known.letters[played.guesses]
    place, begins = np.arange(TEXT), 1 + TURN * np.arange(TRIES)
    seen = np.where(place < begins[:, None], texts[:, None], np.uint8(PAD))  # [B, 6, 74], before each guess
    rewards = np.full(TRIES, -1, np.float32)
    episodes = []
    for game, (length, won) in enumerate(zip(played.length.tolist(), played.won.tolist(), strict=True)):
        obs = np.concatenate([seen[game, :length], texts[game : game + 1]])
        reward = rewards[:length].copy()
        reward[-1] = 0 if won else -1
        episodes.append(Episode(obs, actions[game, :length], reward, End.TERMINATED, group))
    return episodes


# The games of a player, with the number of the family, or of the game, that each belongs to.
Part = tuple[int, np.ndarray, Played]  # the group of the player, families [B], games [B]


class Recipe(NamedTuple):
    """A mixture of players. Each is a group of the data set."""

    groups: tuple[str, ...]  # who plays, in words
    parts: Callable[[Knowledge, np.random.Generator], Iterator[Part]]  # of one chunk


def _drawn(known: Knowledge, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The targets of a chunk, and the random numbers of its games."""
    return rng.integers(len(known.words), size=CHUNK), rng.random((CHUNK, TRIES, 3))


def _mixed(players: Mapping[str, tuple[float, Player]]) -> Recipe:
    """Each game is played by one of the players, drawn by these shares."""
    edges = np.cumsum([share for share, _ in players.values()])

    def parts(known: Knowledge, rng: np.random.Generator) -> Iterator[Part]:
        target, draws = _drawn(known, rng)
        chosen = np.searchsorted(edges[:-1], rng.random(CHUNK) * edges[-1], side="right")
        for group, (_, player) in enumerate(players.values()):
            games = np.flatnonzero(chosen == group)
            yield group, games, play(known, player, target[games], draws[games])

    return Recipe(tuple(players), parts)


def _branch(known: Knowledge, rng: np.random.Generator) -> Iterator[Part]:
    """An expert's game, and from the state before each of its guesses on a game with words that do not fit."""
    target, draws = _drawn(known, rng)
    yield 0, np.arange(CHUNK), (first := play(known, expert, target, draws))
    for turn in range(TRIES):
        _, draws = _drawn(known, rng)
        games = np.flatnonzero(first.length > turn)
        yield 1, games, play(known, wrong, target[games], draws[games], first.guesses[games, :turn])


def _paper(known: Knowledge, rng: np.random.Generator) -> Iterator[Part]:
    """An expert's game, five weaker games, and from its third guess on five games that only repeat its first two.

    All games of a family have one target, so that no game that repeats the two guesses is won.
    """
    target, draws = _drawn(known, rng)
    everyone = np.arange(CHUNK)
    yield 0, everyone, (first := play(known, expert, target, draws))
    for _ in range(5):
        _, draws = _drawn(known, rng)
        yield 1, everyone, play(known, HALF, target, draws)
    longer = np.flatnonzero(first.length >= 3)
    for _ in range(5):
        _, draws = _drawn(known, rng)
        yield 2, longer, play(known, REPEATING, target[longer], draws[longer], first.guesses[longer, :2])


SOMETIMES = {
    "25 % words that fit": (1.0, QUARTER),
    "50 % words that fit": (1.0, HALF),
    "75 % words that fit": (1.0, MOSTLY),
    "words that fit": (1.0, FITTING),
}
RECIPES = {
    "human": _mixed({**{name: (0.85 / 4, one) for name, (_, one) in SOMETIMES.items()}, "expert": (0.15, expert)}),
    "mixed": _mixed(
        {"random words": (1.0, RANDOM), **SOMETIMES, "expert": (1.0, expert), "repeats its first": (1.0, REPEATING)}
    ),
    "adversarial": _mixed(
        {
            "65 % repeats of the first two, 35 % words that fit": (
                1.0,
                partial(mixture, q=0.65, one=REPEATING, other=FITTING),
            )
        }
    ),
    "branch": Recipe(("expert", "from each state of the expert on words that do not fit"), _branch),
    "paper": Recipe(("expert", "50 % words that fit", "from its third guess on repeats of the first two"), _paper),
}


def games(known: Knowledge, recipe: Recipe, seed: int, skipped: int = 0) -> Iterator[Episode]:
    """The games of a recipe, without end: those of a family one behind another. The first ones can be left out."""
    chunk = 0
    while True:
        rng = np.random.default_rng((seed, crc32(b"wordle"), chunk))
        chunk += 1
        parts = list(recipe.parts(known, rng))
        family = np.concatenate([families for _, families, _ in parts])
        if skipped >= len(family):
            skipped -= len(family)
            continue
        episodes = [episode for group, _, played in parts for episode in episodes_of(known, played, group)]
        for place in np.argsort(family, kind="stable")[skipped:].tolist():
            yield episodes[place]
        skipped = 0


def write_games(out: str | Path, recipe: str, count: int, seed: int = 0, environment: Wordle | None = None) -> Store:
    """Writes a data set of so many games of scripted players; `recipe` is one of `RECIPES`."""
    out, settings = as_path(out, "out"), environment or Wordle()
    count, seed = convert(count, int, "games"), convert(seed, int, "seed")
    check_count("games", count)
    check_count("seed", seed, 0)
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    require(not out.exists(), f"{out} exists already: choose another name, or remove it")
    experiment, words = Experiment(environment=settings), settings.vocabulary()
    spec = game_of(words, settings.colours).spec
    description = _description(recipe, count, seed, experiment, spec)
    with bar(f"playing {out}", "games") as progress, StoreWriter(out, description) as writer:
        played = games(Knowledge(words, settings.colours), RECIPES[recipe], seed, writer.episodes_written)
        _write(writer, played, count, progress)
        return writer.finish()


def _write(writer: StoreWriter, played: Iterator[Episode], count: int, progress: Counted = uncounted) -> None:
    while (number := writer.episodes_written) < count:
        writer.add(next(played), f"game {number}")
        progress(number + 1, count)


def _description(recipe: str, count: int, seed: int, experiment: Experiment, spec: EnvironmentSpec) -> Description:
    settings = to_plain(experiment.environment)
    typed = [part for name, value in settings.items() for part in (f"--{name}", as_typed(value))]
    command = ["sharedq", "data", "wordle", "--recipe", recipe, "--games", str(count), "--seed", str(seed), *typed]
    groups = (f"group {group}: {who}" for group, who in enumerate(RECIPES[recipe].groups))
    return Description(
        source=shlex.join(command),
        reader="wordle",
        behaviour=f"scripted players by the recipe {recipe} ({'; '.join(groups)})",
        **known_of(experiment, spec),
    )
