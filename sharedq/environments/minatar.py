"""The five MinAtar games, through the package pgx.

pgx is Apache-2.0, but its MinAtar files call themselves forks of the GPL-3 original. So pgx is an optional extra,
imported only when a game is built.

Four games equal the original step by step. pgx's Seaquest differs in three rules. The game ends one step later when the
air runs out. Enemies speed up one surfacing earlier. An enemy bullet that left the screen on the left holds up the
bullets fired after it, and one that left on the right keeps its place in a table of 25. We keep Seaquest as it is, so
that results can be compared with other results from pgx.

We call pgx's public `init` and `step`. Calling its inner functions, which skips the checks for illegal actions and
ended games, was not faster beyond the noise (1 and 8 environments, scanned, on a CPU).
"""

import importlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from sharedq.environments.contract import Environment, Outcome, time_limited
from sharedq.environments.spec import Discrete, EnvironmentSpec
from sharedq.errors import letters, missing_extra, unknown
from sharedq.settings import check_count, require

GAMES = {
    "asterix": "MinAtarAsterix",
    "breakout": "MinAtarBreakout",
    "freeway": "MinAtarFreeway",
    "seaquest": "MinAtarSeaquest",
    "space_invaders": "MinAtarSpaceInvaders",
}  # pgx.minatar.<module>, its class


@dataclass(frozen=True)
class MinAtar:
    """A MinAtar game (pgx): 10x10 images of a few channels, with sticky actions as in the original."""

    game: str = "breakout"  # asterix, breakout, freeway, seaquest or space_invaders
    sticky: float = 0.1  # probability that the last action is repeated instead of the chosen one
    time_limit: int | None = None  # steps until an episode is truncated; none, as in the original games, is no limit

    def __post_init__(self):
        object.__setattr__(self, "game", _canonical(self.game))
        require(0 <= self.sticky <= 1, f"sticky must be a probability between 0 and 1, not {self.sticky}")
        require(
            self.time_limit is None or self.time_limit >= 1,
            f"time_limit must be none or at least 1, not {self.time_limit}",
        )
        check_count("time_limit", self.time_limit or 1)

    def build(self) -> Environment:
        try:
            module = importlib.import_module(f"pgx.minatar.{self.game}")
        except ModuleNotFoundError as error:
            raise missing_extra("pgx", "minatar", "MinAtar") from error
        game = getattr(module, GAMES[self.game])(use_minimal_action_set=True, sticky_action_prob=self.sticky)

        def reset(key):
            state = game.init(key)
            return state, state.observation

        def step(key, state, action):
            state = game.step(state, action, key)
            outcome = Outcome(
                obs=state.observation,
                reward=state.rewards[0],
                terminated=state.terminated,
                truncated=jnp.bool_(False),
                final_obs=state.observation,
            )
            return state, outcome

        observation = jax.ShapeDtypeStruct(game.observation_shape, jnp.bool_)
        spec = EnvironmentSpec(f"minatar/{self.game}", observation, Discrete(game.num_actions))
        return time_limited(Environment(spec, reset, step), self.time_limit)


def _canonical(name: str) -> str:
    """pgx's name of a game, from any spelling: SpaceInvaders, space-invaders, Space Invaders."""
    for game in GAMES:
        if letters(game) == letters(name):
            return game
    raise unknown("MinAtar game", name, GAMES)
