"""Wordle as a text of tokens: the agent writes five letters and the game answers with five colours.

An observation is the whole text of the game so far. A game of two guesses, with g for a letter and c for a colour:

    33 | g g g g g 30 c c c c c 31 | g g g g g 30 c c c c c 31 | 34

A game has one target from beginning to end. The public code of implicit language Q-learning instead draws a new target
at every guess, among the words that fit all colours so far. The two are equal in law, because targets are uniform.

Shape letters: N words, G guesses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.environments.contract import Environment, Outcome
from sharedq.environments.spec import EnvironmentSpec, Tokens
from sharedq.errors import SharedqError, missing_extra, reason
from sharedq.settings import check_count, require

LETTERS, TRIES = 5, 6  # of a word, and of a game
ALPHABET = "abcdefghijklmnopqrstuvwxyz"  # tokens 0 .. 25
GREEN, BLACK, YELLOW, PAD, END_OF_ACTION, END_OF_STATE = range(26, 32)  # 32, a begin of sequence, is never used
BEGIN_OF_ACTION, END_OF_DIALOGUE, VOCABULARY = 33, 34, 35
TURN = 2 * (LETTERS + 1)  # tokens of a guess and its colours, each with the token behind it
TEXT = 1 + TRIES * TURN + 1  # tokens of the longest game

ACTIONS = Tokens(
    length=LETTERS + 1,
    vocabulary=VOCABULARY,
    pad=PAD,
    closes=END_OF_ACTION,
    opens=(BEGIN_OF_ACTION, END_OF_STATE),
    ends=END_OF_DIALOGUE,
)

PACKAGE = "wonderwords"  # MIT; plain lists of nouns, verbs and adjectives
MOST_WORDS = 20_000  # ours: with more, the table of all colours would take more than 400 MB

Colours = Literal["paper", "real"]


@dataclass(frozen=True)
class Wordle:
    """Wordle, in which an agent writes its guesses letter by letter: a reward of -1 for each guess that is wrong."""

    words: str = PACKAGE  # wonderwords, a list in the package of this name; or a text file with one word in each line
    count: int | None = 236  # size of a sample of the words; the paper plays with 236; none takes all
    words_seed: int = 0  # random seed of the sample
    colours: Colours = "paper"  # paper: yellow if the target has the letter; real: at most as often as the target does

    def __post_init__(self):
        require(bool(self.words), f"words must be {PACKAGE} or the path of a list of words")
        check_count("count", 2 if self.count is None else self.count, 2, MOST_WORDS)
        check_count("words_seed", self.words_seed, 0)

    def vocabulary(self) -> tuple[str, ...]:
        """The words that can be the target, sorted."""
        words = packaged_words() if self.words == PACKAGE else listed_words(self.words)
        count = len(words) if self.count is None else self.count
        require(
            count <= len(words),
            f"count is {count:,}, and {self.words} has {len(words):,} words: lower it, or take all with --count none",
        )
        return tuple(sorted(sorted(words, key=self._drawn)[:count]))

    def _drawn(self, word: str) -> bytes:
        """A number of a word, by which the sample is drawn. It is the same in every version of every library."""
        return sha256(f"{self.words_seed} {word}".encode()).digest()

    def build(self) -> Environment:
        return game_of(self.vocabulary(), self.colours)


def packaged_words() -> list[str]:
    """All words of five letters from a to z among the nouns, verbs and adjectives of the package wonderwords."""
    try:
        lists = resources.files(PACKAGE) / "assets"
    except ModuleNotFoundError as error:
        raise missing_extra(PACKAGE, "language", "the list of words of Wordle") from error
    texts = ((lists / f"{kind}list.txt").read_text("utf-8") for kind in ("noun", "verb", "adjective"))
    return sorted({word for text in texts for word in text.split("\n") if _is_word(word)})


def listed_words(path: str | Path) -> list[str]:
    """The words of a text file with one word in each line."""
    lines: dict[str, int] = {}
    for number, word in _lines(path):
        where = f"{path}, line {number}"
        require(len(word) == LETTERS, f"{where}: {word!r} has {len(word)} letters, and a word needs {LETTERS}")
        require(_is_word(word), f"{where}: {word!r} is not written in the letters a to z alone: use lower case")
        require(word not in lines, f"{where}: {word!r} stands in line {lines.get(word)} too: remove one of them")
        lines[word] = number
        require(len(lines) <= MOST_WORDS, f"{path} has more than {MOST_WORDS:,} words: shorten it")
    require(len(lines) >= 2, f"{path} has fewer than 2 words, and a game needs 2 at least: write one in each line")
    return list(lines)


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(100), ""), 1):  # a file may be one endless line
                yield number, line.strip()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or reason(error)
        raise SharedqError(
            f"cannot read the list of words {path} ({said}): name {PACKAGE}, or a text file with one word in each line"
        ) from None


def _is_word(word: str) -> bool:
    return len(word) == LETTERS and set(word) <= set(ALPHABET)


def letters_of(words: Sequence[str]) -> np.ndarray:
    """The tokens of words, uint8 [N, 5]."""
    return np.frombuffer("".join(words).encode(), np.uint8).reshape(-1, LETTERS) - np.uint8(ord("a"))


def colours_of(guess: Any, target: Any, rule: Colours) -> Any:
    """The colours of guesses [..., 5], as tokens; of arrays of numpy or of JAX, whose leading axes are broadcast."""
    green = guess == target
    found = guess[..., :, None] == target[..., None, :]  # [..., letter of the guess, letter of the target]
    if rule == "paper":
        yellow = found.any(-1)
    else:  # a letter of the target that is not green colours one letter of the guess, the first that can have it
        earlier = np.tri(LETTERS, k=-1, dtype=bool)
        before = (guess[..., :, None] == guess[..., None, :]) & ~green[..., None, :] & earlier
        yellow = before.sum(-1) < (found & ~green[..., None, :]).sum(-1)
    return BLACK + (yellow & ~green) - 1 * green


def patterns_of(words: Sequence[str], rule: Colours) -> np.ndarray:
    """The colours of every word as a guess for every word as the target, as one number of 0 to 242: uint8 [N, N].

    Its digits in base 3 are the colours, from the first letter on: 0 green, 1 black and 2 yellow. So 0 is a win.
    """
    letters, found = letters_of(words), np.empty((len(words), len(words)), np.uint8)
    for guess, row in zip(letters[:, None], found):
        row[:] = (colours_of(guess, letters, rule) - GREEN) @ 3 ** np.arange(LETTERS)
    return found


def colours_in(pattern: np.ndarray) -> np.ndarray:
    """The colours, as tokens [..., 5], of numbers that `patterns_of` gave."""
    return pattern[..., None] // 3 ** np.arange(LETTERS) % 3 + GREEN


class Game(NamedTuple):
    target: jax.Array  # number of the word
    text: jax.Array  # uint8 [74], the observation
    length: jax.Array  # tokens of the text before padding
    tries: jax.Array  # guesses so far


def game_of(words: Sequence[str], rule: Colours) -> Environment:
    """The game whose target is one of these words."""
    table = letters_of(words)
    begun = np.full(TEXT, PAD, np.uint8)
    begun[0] = BEGIN_OF_ACTION

    def reset(key):
        target = jax.random.randint(key, (), 0, len(table))
        return Game(target, jnp.asarray(begun), jnp.int32(1), jnp.int32(0)), jnp.asarray(begun)

    def step(key, game, action):
        target, tries = jnp.asarray(table)[game.target], game.tries + 1
        letter = (action >= 0) & (action < len(ALPHABET)) & (jnp.cumsum(action == END_OF_ACTION) == 0)
        is_word = letter[:LETTERS].all() & (action[LETTERS] == END_OF_ACTION)
        won = is_word & (action[:LETTERS] == target).all()
        over = won | (tries == TRIES)
        turn, size = _turn(action, letter, is_word, over, colours_of(action[:LETTERS], target, rule))
        place = jnp.arange(TEXT) - game.length
        text = jnp.where((place >= 0) & (place <= TURN), turn[place.clip(0, TURN)], game.text)
        reward = jnp.where(won, 0.0, -1.0)
        outcome = Outcome(text, reward, terminated=over, truncated=jnp.bool_(False), final_obs=text)
        return Game(game.target, text, game.length + size, tries), outcome

    return Environment(
        EnvironmentSpec(_name(words, rule), jax.ShapeDtypeStruct((TEXT,), jnp.uint8), ACTIONS), reset, step
    )


def _turn(action: Any, letter: Any, is_word: Any, over: Any, colours: Any) -> tuple[jax.Array, jax.Array]:
    """What a turn adds to the text, uint8 [13], and how many tokens these are without the end of the game.

    No colours follow a guess that is no word. Its first letters are kept, fewer than a word has, so that it is never
    read as one (ours: the public code only says that there are no colours).
    """
    nth = jnp.cumsum(letter)
    kept = letter & (nth <= jnp.where(is_word, LETTERS, LETTERS - 1))
    place, count = jnp.arange(TURN + 1), kept.sum()
    written = jnp.where(kept & (nth - 1 == place[:, None]), action, 0).sum(1)
    turn = jnp.where(place < count, written, PAD)
    turn = jnp.where(place == count, END_OF_ACTION, turn)
    turn = jnp.where(is_word, turn.at[LETTERS + 1 : TURN - 1].set(colours), turn)
    size = jnp.where(is_word, TURN, count + 2)
    turn = jnp.where(place == size - 1, END_OF_STATE, turn)
    return jnp.where((place == size) & over, END_OF_DIALOGUE, turn).astype(jnp.uint8), size


def _name(words: Sequence[str], rule: Colours) -> str:
    """The name of the game. It tells lists of words apart, so that data of one are refused by the game of another."""
    return f"wordle-{len(words)}-{sha256(' '.join(sorted(words)).encode()).hexdigest()[:8]}-{rule}"
