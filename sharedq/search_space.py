"""What a search varies: the settings with their ranges, and which of them the sources of targets have."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

from sharedq.comparison import is_of_task, labels_of
from sharedq.experiment import TABLES, Experiment
from sharedq.settings import chosen, require

DIGITS = 4  # ours: significant digits of a number that is drawn from a range
FIXED = ("seed", "seeds", "training.steps")  # the budget of a trial
Draw = Callable[["Varied", Any, Any], Any]  # draws a number between two ends


class Varied(NamedTuple):
    """A setting that is varied: over a range of numbers, or over choices. Its values are texts, as they are typed."""

    name: str
    choices: tuple[str, ...]  # of a range its two ends
    is_range: bool = False
    is_log: bool = False


class Source(NamedTuple):
    """One source of targets, which is tuned by trials of its own; or the one that the recipe has."""

    label: str  # as it is typed; empty of the one that the recipe has
    options: dict[str, str]  # that choose it


def read_varied(words: Sequence[str]) -> list[Varied]:
    """The settings that are varied, each typed as NAME=RANGE."""
    found = [_read(word) for word in words]
    names = [one.name for one in found]
    twice = {name for name in names if names.count(name) > 1}
    require(not twice, f"--vary names {' and '.join(sorted(twice))} twice: name each setting once")
    return found


def _read(word: str) -> Varied:
    name, _, text = word.partition("=")
    example = "such as algorithm.learning_rate=log:1e-5..1e-3 or target.heads=1,3,9"
    require(bool(name and text), f"--vary takes NAME=RANGE, {example}, not '{word}'")
    is_log = text.startswith("log:")
    low, dots, high = text.removeprefix("log:").partition("..")
    if is_log or (dots and all(map(_is_number, (low, high)))):
        require(
            bool(dots) and all(map(_is_number, (low, high))),
            f"a range is written as LOW..HIGH or log:LOW..HIGH, not '{text}'",
        )
        require(float(low) < float(high), f"the range {text} of {name} is empty: write a low end and then a higher one")
        require(not is_log or float(low) > 0, f"the range {text} of {name} is logarithmic: begin it above 0")
        return Varied(name, (low, high), is_range=True, is_log=is_log)
    choices = tuple(part.strip() for part in re.split(r",(?![^\[(]*[\])])", text))  # a list in brackets is one value
    require(all(choices), f"--vary {word} has an empty value: write the values with a comma between them")
    is_range = len(choices) == 1 and dots
    require(not is_range, f"a range is written as LOW..HIGH or log:LOW..HIGH, with numbers, not '{text}'")
    require(len(choices) > 1, f"--vary {word} names one value: write --{name} {text} instead")
    require(len({*choices}) == len(choices), f"--vary {word} names a value twice: name each value once")
    return Varied(name, choices)


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        return math.isfinite(float(text))
    return False


def sources_of(base: Experiment, options: Mapping[str, str], targets: Sequence[str] | None) -> list[Source]:
    """The sources that are tuned, in the form of `compare --targets`; without any, that of the experiment."""
    if not targets:
        return [Source("", {})]
    require("target" not in options, "--target and --targets both choose a source: leave one of them out")
    found = []
    for text in targets:
        name, fields = chosen(text, TABLES["target"])
        found.append({"target": name, **{f"target.{field}": value for field, value in fields.items()}})
    experiments = [base.parse({**options, **one}) for one in found]
    require(experiments[0].uses_target, "this algorithm asks no source of targets: leave --targets out")
    labels_of(experiments)  # this raises if two of them are the same
    return [Source(text, one) for text, one in zip(targets, found)]


def check(
    base: Experiment, options: Mapping[str, str], sources: Sequence[Source], varied: Sequence[Varied]
) -> list[Experiment]:
    """Experiments with each choice, and at the ends of all ranges.

    Raises for a setting that no source has, or that refuses a value.
    """
    for one in varied:
        clash = [text for text in (options, *(source.options for source in sources)) if one.name in text]
        require(not clash, f"{one.name} is varied and has a value beside that: give it once")
        full = base.full_names({one.name: ""})[one.name]
        require(full not in FIXED, f"{one.name} cannot be varied: all trials have the same seeds and steps")
        require(not is_of_task(full), f"{one.name} cannot be varied: all trials have the same task")
    found, used = [], set()
    for source in sources:
        for texts in _kinds(varied):
            fixed = {**options, **source.options, **texts}
            experiment = base.parse(fixed)
            own = [one for one in varied if one.name not in texts and has(experiment, one.name)]
            used |= {one.name for one in own} | {*texts}
            for one in own:
                for text in one.choices:
                    found.append(base.parse({**fixed, one.name: text}))
                    _check_type(one, found[-1])
            found += [base.parse({**fixed, **{one.name: one.choices[end] for one in own}}) for end in (0, -1)]
    for one in varied:
        if one.name not in used:  # the parser says what is wrong
            base.parse({**options, **sources[0].options, one.name: one.choices[0]})
    return found


def _kinds(varied: Sequence[Varied]) -> Iterator[dict[str, str]]:
    """Every choice of the kinds that are varied."""
    kinds = [one for one in varied if one.name in TABLES]
    for values in product(*(one.choices for one in kinds)):
        yield {one.name: value for one, value in zip(kinds, values)}


def has(experiment: Experiment, name: str) -> bool:
    """Whether the parts of an experiment have a setting: heads are a setting of some sources only."""
    return experiment.full_names({name: ""})[name] in experiment.options()


def _value(experiment: Experiment, name: str) -> Any:
    return experiment.options()[experiment.full_names({name: ""})[name]].value


def _check_type(one: Varied, experiment: Experiment) -> None:
    value = _value(experiment, one.name)
    if one.is_range:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(is_number, f"{one.name} has no numbers between {one.choices[0]} and {one.choices[1]}: name its values")


def drawn(
    base: Experiment,
    fixed: Mapping[str, str],
    varied: Sequence[Varied],
    choose: Callable[[str, Sequence[str]], str],
    draw: Draw,
) -> dict[str, str]:
    """The values of a trial as texts. Kinds are chosen first, and settings that these kinds lack are left out.

    `choose(name, choices)` draws a choice and `draw(varied, low, high)` a number.
    """
    kinds = {one.name: choose(one.name, one.choices) for one in varied if one.name in TABLES}
    experiment, texts = base.parse({**fixed, **kinds}), dict(kinds)
    for one in varied:
        if one.name in kinds or not has(experiment, one.name):
            continue
        if not one.is_range:
            texts[one.name] = choose(one.name, one.choices)
            continue
        low, high = (_value(base.parse({**fixed, **kinds, one.name: end}), one.name) for end in one.choices)
        number = draw(one, low, high)
        texts[one.name] = str(number if isinstance(number, int) else min(max(_rounded(number), low), high))
    return texts


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def number_of(one: Varied, text: str) -> float | None:
    """The number that a value is, by which the page places it; None of a choice that is no number."""
    return float(text) if _is_number(text) and all(map(_is_number, one.choices)) else None
