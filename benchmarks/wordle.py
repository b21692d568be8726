"""Wordle on a CPU: guesses per second of the compiled game, and games per second of writing a data set.

    python -m benchmarks.wordle

The games of a batch are spread over all cores. Each guess is a word of the list, and a game that ends is followed by
the next one at once. Of several stretches the median counts.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from sharedq.training.seeds import SEEDS, use_all_cores

use_all_cores()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402

from sharedq.environments import Wordle, autoreset  # noqa: E402
from sharedq.environments.wordle import END_OF_ACTION, letters_of  # noqa: E402
from sharedq.wordle_players import RECIPES, write_games  # noqa: E402

GUESSES = 200  # of each game in one compiled call


def guesses_per_second(settings: Wordle, batch: int, stretches: int) -> list[float]:
    game, table = autoreset(settings.build()), letters_of(settings.vocabulary()).astype(np.int32)
    words = jnp.asarray(np.pad(table, ((0, 0), (0, 1)), constant_values=END_OF_ACTION))

    @jax.jit
    def play(state, keys):
        def guess(state, turn):
            action = words[(turn * 7 + jnp.arange(batch)) % len(words)]
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, turn)
            state, outcome = jax.vmap(game.step)(now, state, action)
            return state, outcome.reward

        state, rewards = jax.lax.scan(guess, state, jnp.arange(GUESSES))
        return state, rewards.sum()

    cores = NamedSharding(Mesh(np.array(jax.devices()), SEEDS), SEEDS)
    keys = jax.device_put(jax.random.split(jax.random.key(0), batch), cores)
    state = jax.jit(jax.vmap(game.reset))(keys)[0]
    rates = []
    for _ in range(1 + stretches):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(play(state, keys))
        rates.append(batch * GUESSES / (time.perf_counter() - began))
    return rates[1:]  # the first one compiles


def games_per_second(settings: Wordle, recipe: str, games: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_games(Path(folder) / "games", recipe, games, 0, settings)
        return games / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096, help="games side by side")
    parser.add_argument("--stretches", type=int, default=9, help=f"timed stretches of {GUESSES} guesses of each game")
    parser.add_argument("--games", type=int, default=20_000, help="games of each data set")
    arguments = parser.parse_args()
    for colours in ("paper", "real"):
        rates = guesses_per_second(Wordle(colours=colours), arguments.batch, arguments.stretches)
        middle, least, most = (f"{f(rates):,.0f}" for f in (statistics.median, min, max))
        print(f"{colours} colours: {middle} ({least} to {most}) guesses/s")
    for recipe in RECIPES:
        print(f"recipe {recipe}: {games_per_second(Wordle(), recipe, arguments.games):,.0f} games/s")


if __name__ == "__main__":
    main()
