"""A tree of sums over numbers that are not negative, from which places are drawn in proportion to the numbers.

Each level is an array [blocks, 16] and holds the sums of the blocks below it, so a million numbers need five levels.
After numbers have changed, the sums above them are added up anew from their blocks. So they never drift, and they
depend on the numbers only and not on their history.
"""

import jax
import jax.numpy as jnp

WIDTH = 16  # numbers of a block; of 16, 32, 64 and 128 it is the fastest on a CPU, from 10,000 numbers to a million

Levels = tuple[jax.Array, ...]  # the first holds the numbers, and the last is a single block


def zeros(count: int) -> Levels:
    """The tree over `count` zeros."""
    return build(jnp.zeros(count))


def build(numbers: jax.Array) -> Levels:
    """The tree over the numbers [N]."""
    levels = []
    while True:
        blocks = max(-(-numbers.size // WIDTH), 1)
        levels.append(jnp.pad(numbers, (0, blocks * WIDTH - numbers.size)).reshape(blocks, WIDTH))
        if blocks == 1:
            return tuple(levels)
        numbers = levels[-1].sum(axis=1)


def write(levels: Levels, places: jax.Array, numbers: jax.Array) -> Levels:
    """The tree with other numbers [M] at these places. Nothing is written at places beyond the last block."""
    found, blocks = [], places
    for level in levels:
        blocks, within = jnp.divmod(blocks, WIDTH)
        level = level.at[blocks, within].set(numbers, mode="drop")
        numbers = level.at[blocks].get(mode="fill", fill_value=0).sum(axis=1)
        found.append(level)
    return tuple(found)


def read(levels: Levels, places: jax.Array) -> jax.Array:
    """The numbers at these places."""
    return levels[0][jnp.divmod(places, WIDTH)]


def numbers(levels: Levels, count: int) -> jax.Array:
    """The first `count` numbers."""
    return levels[0].reshape(-1)[:count]


def total(levels: Levels) -> jax.Array:
    """The sum of all numbers."""
    return levels[-1].sum()


def draw(levels: Levels, random: jax.Array) -> jax.Array:
    """Places [B] in proportion to their numbers, by random numbers [levels, B] in [0, 1).

    A place whose number is zero is never drawn. The draws are stratified: the i-th one falls into the i-th of B equal
    shares of the total, as far as the numbers of the highest level tell them apart. Below it each block is entered with
    a random number of its own, so that a large total cannot hide what is not small beside the 15 others of its block:
    the random numbers have 23 bits.
    """
    count = random.shape[1]
    place = _pick(jnp.broadcast_to(levels[-1], (count, WIDTH)), (jnp.arange(count) + random[0]) / count)
    for level, own in zip(levels[-2::-1], random[1:], strict=True):
        place = place * WIDTH + _pick(level[place], own)
    return place


def _pick(blocks: jax.Array, random: jax.Array) -> jax.Array:
    """A place in each of the blocks [B, WIDTH], in proportion to its number, by random numbers [B] in [0, 1)."""
    ahead = jnp.tri(WIDTH).T  # [i, j]: whether number i is one of the first j + 1
    sums = jax.lax.dot(blocks, ahead, precision=jax.lax.Precision.HIGHEST)
    positive = blocks > 0
    reached = positive & (sums > (random * sums[:, -1])[:, None])
    last = WIDTH - 1 - jnp.argmax(positive[:, ::-1], axis=1)
    return jnp.where(reached.any(axis=1), jnp.argmax(reached, axis=1), last)
