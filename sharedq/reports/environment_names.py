"""What an environment is called on a page: "MinAtar Space Invaders", "gymnasium/LunarLander-v3"."""

import re
from collections.abc import Mapping
from typing import Any


def environment_name(options: Mapping[str, Any]) -> str:
    """The name of the environment that an experiment describes, without the settings of its dynamics."""
    kind = str(options.get("kind", "environment"))
    field, name = _KINDS.get(kind, ("", _as_it_is))
    if field in options or not field:
        told = options.get(field)
        if isinstance(told, str) and told.strip():
            return name(told)
        if kind in _KINDS and not field:
            return name(kind)
    texts = [value for key, value in options.items() if key != "kind" and isinstance(value, str) and value]
    return " ".join([kind, *texts])


def _as_it_is(text: str) -> str:
    return text


def _spaced(text: str) -> str:
    """Words with capitals, of a name in any spelling: `space_invaders`, `SpaceInvaders`."""
    words = re.sub(r"[\s_-]+|(?<=[a-z0-9])(?=[A-Z])", " ", text).split()
    return " ".join(word[0].upper() + word[1:] for word in words)


_KINDS = {  # kind -> the setting that names the environment, and how its value is shown
    "minatar": ("game", lambda game: f"MinAtar {_spaced(game)}"),
    "atari": ("game", lambda game: f"Atari {_spaced(game)}"),
    "gymnasium": ("id", lambda name: name if ":" in name else f"gymnasium/{name}"),
    "control": ("task", lambda task: f"DM Control {task}"),
    "custom": ("factory", _as_it_is),
    "probe": ("name", _as_it_is),
    "recorded": ("", lambda _: "recorded data"),
    "cartpole": ("", lambda _: "CartPole"),
    "wordle": ("", lambda _: "Wordle"),
}
