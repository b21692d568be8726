"""Which recipes fit an environment, for whoever names the environment where a recipe is expected."""

import re
from collections.abc import Mapping
from importlib.util import find_spec

from sharedq.environments import CartPole, Control, Gymnasium, MinAtar, control
from sharedq.environments.atari import MULTIPLAYER
from sharedq.errors import letters
from sharedq.experiment import Experiment
from sharedq.reports.human_scores import SCORES

VERSION = r"(-v\d+)?$"  # at the end of an id of Gymnasium


def fitting_recipes(name: str, recipes: Mapping[str, Experiment]) -> list[str]:
    """The recipes, with options where needed, that train in the environment of this name, in any spelling."""
    replayed = {one: found for one, found in recipes.items() if found.training.learns_from == "replay"}
    return _minatar(name, replayed) + _atari(name) or _gymnasium(name, replayed) or _control(name, replayed)


def _minatar(name: str, recipes: Mapping[str, Experiment]) -> list[str]:
    """For breakout, Space Invaders, MinAtar/Breakout-v1."""
    game = letters(re.sub(rf"^MinAtar/(.*?){VERSION}", r"\1", name))
    return [one for one, found in recipes.items() if _is_on(found, MinAtar, "game", {game})]


def _atari(name: str) -> list[str]:
    """For Pong, ms_pacman, ALE/Pong-v5, PongNoFrameskip-v4, Pong-ram-v0."""
    game = re.sub(rf"^ALE/|(-ram)?(NoFrameskip|Deterministic)?{VERSION}", "", name)
    if letters(game) not in {*SCORES, *_installed_games()}:
        return []
    words = re.findall("[A-Za-z0-9]+", game)
    return [f"atari-cnn --game {''.join(word[0].upper() + word[1:] for word in words)}"]


def _installed_games() -> set[str]:
    if find_spec("ale_py") is None:
        return set()
    from ale_py import roms

    return {letters(rom) for rom in roms.get_all_rom_ids() if rom not in MULTIPLAYER}


def _gymnasium(name: str, recipes: Mapping[str, Experiment]) -> list[str]:
    """For an id of Gymnasium, with or without the version where a recipe of ours is on it."""
    ids = {letters(name), letters(re.sub(VERSION, "-v1", name)), letters(re.sub(VERSION, "-v3", name))}
    if letters("CartPole-v1") in ids:
        return [one for one, found in recipes.items() if isinstance(found.environment, CartPole)]
    if ours := [one for one, found in recipes.items() if _is_on(found, Gymnasium, "id", ids)]:
        return ours
    if not re.search(r"v\d+$", name) or find_spec("gymnasium") is None:
        return []
    import gymnasium

    registered = next((one for one in gymnasium.registry if letters(one) == letters(name)), None)
    if registered is None:
        return []
    return [f"{one} --environment.id {registered}" for one in ("lunar-lander", "sac-pendulum")]


def _control(name: str, recipes: Mapping[str, Experiment]) -> list[str]:
    """For a task of the Control Suite, such as cheetah-run or walker_walk."""
    if ours := [one for one, found in recipes.items() if _is_on(found, Control, "task", {letters(name)})]:
        return ours
    if name.isalnum() or find_spec("dm_control") is None:
        return []
    task = next((one for one in control.tasks() if letters(one) == letters(name)), None)
    return [] if task is None else [f"sac-mlp --environment.task {task}"]


def _is_on(experiment: Experiment, kind: type, field: str, names: set[str]) -> bool:
    """Whether an experiment is on an environment of this kind that has one of these names, in letters alone."""
    environment = experiment.environment
    return isinstance(environment, kind) and letters(getattr(environment, field)) in names
