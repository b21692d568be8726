"""Implicit language Q-learning on text: seconds and memory of an update for each source, and tokens per second.

    python -m benchmarks.language
    python -m benchmarks.language --width 768 --layers 12 --batch 64 --dropout 0.1

Texts are games of six guesses, 74 tokens each. The policy and the critics have a body of the given size each. In a
round every source makes an update, and so do large matrix products; ratios are those of the same round, and medians
count. The ratio of operations says how fast a source could be beside the target network if all operations took the
same time. Memory is measured as in `benchmarks.memory`, in a process of its own for each source.

Whole words are written with and without a cache of what the model read before. Without one, every token takes a pass
over the whole text.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import benchmarks.memory as memory
from benchmarks.atari_update import Products, Updates  # first: it chooses the cores

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
import numpy as np  # isort: skip

from sharedq.algorithms import ILQL, Algorithm
from sharedq.environments.spec import EnvironmentSpec
from sharedq.environments.wordle import (
    ACTIONS,
    BEGIN_OF_ACTION,
    BLACK,
    END_OF_ACTION,
    END_OF_DIALOGUE,
    END_OF_STATE,
    LETTERS,
    PAD,
    TEXT,
    TRIES,
    TURN,
)
from sharedq.networks.gpt2 import GPT2, Cache, LanguageModel
from sharedq.recipes import recipe
from sharedq.targets import OnlineNetwork, SharedHeads, TargetNetwork
from sharedq.training.learning import example_batch
from sharedq.transitions import Batch, Transition

BESIDE = TargetNetwork(period=1, tau=0.005)
SOURCES = {one.label: one for one in (BESIDE, OnlineNetwork(), SharedHeads(heads=1), SharedHeads(heads=9))}
SPEC = EnvironmentSpec("wordle", jax.ShapeDtypeStruct((TEXT,), jnp.uint8), ACTIONS)
PARTS = ("updates", "memory", "writing")


@dataclass(frozen=True)
class Uncached(GPT2):
    """GPT-2 that remembers the text alone, and reads all of it for every token."""

    def language_model(self, vocabulary: int) -> LanguageModel:
        model = super().language_model(vocabulary)

        def read(params, tokens, lengths):
            rows = jnp.arange(len(tokens))
            return model.features(params, tokens)[rows, lengths - 1], Cache(tokens, tokens, lengths)

        def extend(params, cache, token):
            tokens = cache.keys.at[jnp.arange(len(token)), cache.lengths].set(token.astype(cache.keys.dtype))
            return read(params, tokens, cache.lengths + 1)

        return model._replace(start=read, extend=extend)


def games(count: int) -> np.ndarray:
    """Texts of whole games, uint8 [count, 74]. Their letters are random, and every guess is wrong."""
    tokens = np.full((count, TEXT), BEGIN_OF_ACTION, np.uint8)
    turns = tokens[:, 1:-1].reshape(count, TRIES, TURN)
    turns[..., :LETTERS] = np.random.default_rng(0).integers(26, size=(count, TRIES, LETTERS))
    turns[..., LETTERS], turns[..., LETTERS + 1 : -1], turns[..., -1] = END_OF_ACTION, BLACK, END_OF_STATE
    tokens[:, -1] = END_OF_DIALOGUE
    return tokens


def batches(size: int) -> Batch:
    """One update's batch, [1, B, ...]."""
    tokens = jnp.asarray(games(size))[None]
    reward, zeros = jnp.where(tokens == END_OF_ACTION, -1.0, 0.0), jnp.zeros((1, size))
    return Batch(Transition(tokens, (), reward, zeros, ()), zeros + 1, zeros.astype(jnp.int32))


def network_of(arguments: argparse.Namespace) -> GPT2:
    heads = max(arguments.width // 64, 1)  # as in GPT-2 small
    return GPT2(arguments.layers, arguments.width, heads, TEXT, arguments.dropout, arguments.compute)


def updates_of(label: str, arguments: argparse.Namespace) -> Updates:
    algorithm = ILQL().build(SPEC, SOURCES[label], network_of(arguments))
    return Updates(label, algorithm, batches(arguments.batch))


def compare_updates(arguments: argparse.Namespace) -> None:
    rows, products = [updates_of(label, arguments) for label in arguments.sources], Products(arguments.compute)
    for number in range(1 + arguments.repeats):
        for one in (*rows, products):
            one.call(timed=number > 0)
    peak = statistics.median(products.rates)
    print(f"large matrix products: {peak / 1e9:,.0f} GFLOP/s")
    beside = next((row for row in rows if row.label == BESIDE.label), rows[0])
    for row in rows:
        middle = statistics.median(row.times)
        ratio = statistics.median(mine / other for mine, other in zip(row.times, beside.times))
        print(
            f"{row.label:24} {middle * 1e3:9,.1f} ms ({min(row.times) * 1e3:,.1f} to {max(row.times) * 1e3:,.1f})  "
            f"{ratio:.3f} of the time and {row.flops / beside.flops:.3f} of the operations of {beside.label}  "
            f"{row.flops / 1e9:,.1f} GFLOP, {row.flops / middle / peak:4.0%} of the products' speed"
        )


def compare_memory(arguments: argparse.Namespace) -> None:
    names = ("width", "layers", "batch", "dropout", "compute")
    size = [word for name in names for word in (f"--{name}", str(getattr(arguments, name)))]
    print(memory.HEADER)
    for label in arguments.sources:
        options = ["--one", "--sources", label, *size]
        print(memory.row(label, memory.least_of(arguments.processes, "benchmarks.language", options)))


class Writer:
    """An agent that writes words behind the texts of games, whose calls can be timed one by one."""

    def __init__(self, network: GPT2, count: int):
        algorithm: Algorithm = ILQL().build(SPEC, OnlineNetwork(), network)
        key = jax.random.key(0)
        begun = np.arange(TEXT) < 1 + TURN * (np.arange(count) % TRIES)[:, None]  # with 0 to 5 guesses
        texts = jnp.asarray(np.where(begun, games(count), PAD).astype(np.uint8))
        state = jax.jit(algorithm.init)(key, example_batch(SPEC, 1))
        write = jax.jit(lambda state, texts: algorithm.act(state, key, texts, None)).lower(state, texts).compile()
        self._call, self.rates = lambda: write(state, texts), []

    def call(self, timed: bool) -> None:
        began = time.perf_counter()
        words = jax.block_until_ready(self._call())
        if timed:
            self.rates.append(words.size / (time.perf_counter() - began))


def compare_writing(network: GPT2, count: int, repeats: int) -> None:
    with_cache, without = Writer(network, count), Writer(Uncached(**vars(network)), count)
    for number in range(1 + repeats):
        for one in (with_cache, without):
            one.call(timed=number > 0)
    print(f"{network.layers} layers of width {network.width}, {count} games side by side")
    for name, one in (("with the cache", with_cache), ("without", without)):
        middle, least, most = (f(one.rates) for f in (statistics.median, min, max))
        print(f"  {name:15} {middle:10,.0f} tokens/s ({least:,.0f} to {most:,.0f})")
    ratio = statistics.median(mine / other for mine, other in zip(with_cache.rates, without.rates))
    print(f"  with the cache it is {ratio:.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES, metavar="SOURCE")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16, help="texts of an update")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--compute", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=9, help="rounds, whose median counts")
    parser.add_argument("--processes", type=int, default=1, help="processes of each source whose memory is measured")
    parser.add_argument("--games", type=int, default=8, help="games side by side that the model of this size writes")
    parser.add_argument("--one", action="store_true", help="measure the first source here and print its bytes as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(memory.bytes_of(lambda: updates_of(arguments.sources[0], arguments))))
        return
    print(
        f"{arguments.layers} layers of width {arguments.width}, batch {arguments.batch}, dropout {arguments.dropout}, "
        f"{arguments.compute}, on {jax.devices()[0].device_kind}"
    )
    if "updates" in arguments.parts:
        compare_updates(arguments)
    if "memory" in arguments.parts:
        compare_memory(arguments)
    if "writing" in arguments.parts:
        compare_writing(recipe("ilql-wordle-small").network, 256, arguments.repeats)
        compare_writing(network_of(arguments), arguments.games, arguments.repeats)


if __name__ == "__main__":
    main()
