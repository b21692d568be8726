"""Completes commands in a shell: the scripts for bash and zsh, and the words that they offer.

The scripts call `sharedq complete -- WORDS`, which prints what may stand in place of the last word. JAX is imported
only where the recipes and their options are needed.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from sharedq.errors import SharedqError

SCRIPTS = {
    "bash": """\
_sharedq() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        printf -v word %q "$word"
        COMPREPLY+=("$word")
    done < <("$1" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace
    fi
}
complete -o default -F _sharedq sharedq
""",
    "zsh": """\
#compdef sharedq
_sharedq() {
    local -a offered folders others
    offered=("${(@f)$("$words[1]" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    folders=(${(M)offered:#*/})
    others=(${offered:#*/})
    if (( ! $#folders && ! $#others )); then
        _files
        return
    fi
    compadd -S '' -- $folders
    compadd -- $others
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _sharedq "$@"
else
    compdef _sharedq sharedq
fi
""",
}


def complete(words: Sequence[str], verbs: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """What may stand in place of the last word of a command; nothing where it is left to the shell to offer files."""
    *before, current = [word for word in words if word != "="] or [""]  # bash splits --option=value into three words
    if words[-1:] == ["="]:
        before, current = [*before, current], ""
    option, equals, _ = current.partition("=")
    more = ["--version"]
    while before and before[0] in verbs and (inner := _commands(verbs[before[0]])):  # a command of commands
        before, verbs, more = before[1:], inner, []
    try:
        if not before:
            offered = [*verbs, "--help", *more]
        elif before[0] not in verbs:
            offered = []
        elif equals:
            offered = [f"{option}={value}" for value in _after(verbs[before[0]], [*before[1:], option])]
        elif current.startswith("-"):
            offered = _options(verbs[before[0]], before[1:], current)
        else:
            offered = _after(verbs[before[0]], before[1:], current)
    except SharedqError:  # the mistake is told when the command is run
        offered = []
    return [one for one in dict.fromkeys(offered) if one.startswith(current)]


def _commands(verb: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The commands of a command, if it has some."""
    found = (action.choices for action in verb._actions if isinstance(action, argparse._SubParsersAction))
    return next(found, {})


def _options(verb: argparse.ArgumentParser, before: list[str], current: str) -> list[str]:
    """The options of the command and of the recipe that it names. A last name is offered once it has been begun."""
    own = [name for action in verb._actions for name in action.option_strings if name.startswith("--")]
    theirs = _recipe_options(verb, before)
    last = [name.rpartition(".")[2] for name in theirs] if current[2:] else []
    return own + [f"--{name}" for name in (*theirs, *(name for name in last if last.count(name) == 1))]


def _after(verb: argparse.ArgumentParser, before: list[str], current: str = "") -> list[str]:
    """What may follow these words: values of their last option, or what stands without an option."""
    place = next((n for n in reversed(range(len(before))) if before[n].startswith("--")), None)
    if place is not None and "=" not in before[place]:
        given = len(before) - place - 1
        action = verb._option_string_actions.get(before[place])
        if action is None:
            return _values(verb, before, before[place].removeprefix("--"))
        if action.dest == "targets":
            return _kinds("target")
        if action.dest == "agents":
            return ["random", *_folders(current)]
        if action.dest == "environment":
            return _recipes()
        if action.nargs is None and not given:
            return list(action.choices or [])
    positional = next(iter(verb._get_positional_actions()), None)
    if positional is None:
        return []
    if positional.dest == "recipe":
        return _recipes() if _recipe(verb, before) is None else []
    return list(positional.choices) if positional.choices else _folders(current)


def _values(verb: argparse.ArgumentParser, before: list[str], option: str) -> list[str]:
    """The values of an option of the recipe, if there are only a few that it can take."""
    options = _recipe_options(verb, before)
    full = [name for name in options if option in (name, name.rpartition(".")[2])]
    takes = options[option if option in options else full[0]] if full else ""
    return takes.split("|") if "|" in takes else []


def _recipe(verb: argparse.ArgumentParser, before: list[str]) -> str | None:
    """The recipe that these words name."""
    try:
        return verb.parse_known_args([word for word in before if word not in ("-h", "--help")])[0].recipe
    except (SharedqError, AttributeError):  # no recipe yet, or a command that takes none
        return None


def _recipe_options(verb: argparse.ArgumentParser, before: list[str]) -> dict[str, str]:
    """The options of the recipe that these words name, each with what it takes. No module of a user is imported."""
    name = _recipe(verb, before)
    if name is None or ":" in name:
        return {}
    from sharedq.experiment import SHORT, TABLES
    from sharedq.recipes import recipe

    experiment = recipe(name)
    words = [part for word in before for part in word.split("=", 1)]
    for option, value in pairwise(words):
        part = option.removeprefix("--")
        if option.startswith("--") and part in TABLES and value in TABLES[part]:
            experiment = experiment.replace(**{part: value})
    takes = {option: described.takes for option, described in experiment.options().items()}
    return takes | {short: takes[full] for short, full in SHORT.items() if full in takes}


def _recipes() -> list[str]:
    from sharedq.recipes import RECIPES

    return list(RECIPES)


def _kinds(part: str) -> list[str]:
    from sharedq.experiment import TABLES

    return list(TABLES[part])


def _folders(current: str) -> list[str]:
    """Runs, comparisons and data sets below the folder that the word begins with, and folders that may hold some."""
    begun = current.rpartition("/")[0]
    parent = Path(f"{begun}/" if "/" in current else ".")
    try:
        names = sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    paths = [f"{begun}/{name}" if "/" in current else name for name in names]
    return [path if _is_done(Path(path)) else f"{path}/" for path in paths]


def _is_done(path: Path) -> bool:
    """Whether a folder is a run, a comparison or a data set."""
    return any((path / name).exists() for name in ("experiment.json", "compare.json", "manifest.json"))
