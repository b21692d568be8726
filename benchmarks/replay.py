"""What prioritised replay costs: in the whole loop against uniform replay, and alone with a million transitions.

    python -m benchmarks.replay
    python -m benchmarks.replay --loops none --beside cpprb flashbax

The loops are MinAtar Breakout and Atari Breakout with the paper's network, each with a uniform and with other samplers,
which take turns, so that a change in the machine's speed meets all alike; medians of ratios of neighbouring stretches
count. Alone, a draw of 32 transitions and the writing of their new priorities are timed together, in a compiled loop
where a library allows one. The others also read one number of each transition that they draw. cpprb and flashbax are
other libraries' prioritised buffers: `pip install cpprb flashbax`.
"""

import argparse
import statistics
import time

from sharedq.training.seeds import CPU_OPTIONS, use_all_cores

use_all_cores(for_one=True)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.rows import Row  # noqa: E402
from sharedq.recipes import recipe  # noqa: E402
from sharedq.samplers import SAMPLERS, SamplerSpec  # noqa: E402
from sharedq.transitions import Step  # noqa: E402

BATCH, CALLS, REPEATS = 32, 1_000, 5
LOOPS = {
    "minatar": lambda: recipe("minatar-breakout").replace(log_period=4_000),
    "atari": lambda: recipe("atari-cnn-ln").replace(
        game="Breakout", capacity=100_000, log_period=400, **{"training.warm_up": 400}
    ),
}


class Alone:
    """A sampler of ours with all its transitions stored, in a compiled loop."""

    def __init__(self, name: str, entries: int):
        self.label, self.times = f"sharedq, {name}", []
        spec = SamplerSpec(entries, 1, 1, BATCH, steps=1_000_000)
        sampler = SAMPLERS[name]().build(spec)
        number, flag = jnp.zeros(1), jnp.zeros(1, bool)
        step = Step(number, number, number, flag, flag, number)

        def fill(state):
            return jax.lax.fori_loop(0, entries, lambda time, state: sampler.added(state, time, step), state)

        def several(state, first, key):
            def once(state, at):
                count, key = at
                index, weights, _ = sampler.draw(state, entries, count, key)
                errors = jax.random.normal(key, (1, BATCH))
                return sampler.updated(state, entries, index, errors, count), weights.sum()

            return jax.lax.scan(once, state, (first + jnp.arange(CALLS), jax.random.split(key, CALLS)))

        options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
        self._several = jax.jit(several, donate_argnums=0, compiler_options=options)
        self._state, self._first = jax.jit(fill, donate_argnums=0)(sampler.init()), 1

    def call(self, timed: bool) -> None:
        began = time.perf_counter()
        self._state, _ = jax.block_until_ready(self._several(self._state, self._first, jax.random.key(self._first)))
        self._first += CALLS
        if timed:
            self.times.append((time.perf_counter() - began) / CALLS)


class Cpprb:
    """cpprb's prioritised buffer, which is written in C++ and called from Python."""

    def __init__(self, entries: int):
        from cpprb import PrioritizedReplayBuffer

        self.label, self.times, self._random = "cpprb", [], np.random.default_rng(0)
        self._buffer = PrioritizedReplayBuffer(entries, {"obs": {}}, alpha=0.6)
        self._buffer.add(obs=np.zeros(entries))

    def call(self, timed: bool) -> None:
        began = time.perf_counter()
        for _ in range(CALLS):
            drawn = self._buffer.sample(BATCH, beta=0.4)
            self._buffer.update_priorities(drawn["indexes"], np.abs(self._random.standard_normal(BATCH)) + 1e-6)
        if timed:
            self.times.append((time.perf_counter() - began) / CALLS)


class Flashbax:
    """flashbax's prioritised buffer, in a compiled loop."""

    def __init__(self, entries: int):
        import flashbax

        self.label, self.times, self._number = "flashbax", [], 0
        buffer = flashbax.make_prioritised_flat_buffer(entries, BATCH, BATCH, False, None, 0.6)
        state = buffer.init({"obs": jnp.zeros(())})
        add = jax.jit(buffer.add, donate_argnums=0)
        state = jax.lax.fori_loop(0, entries - 1, lambda _, state: add(state, {"obs": jnp.zeros(())}), state)

        def several(state, key):
            def once(state, key):
                drawn = buffer.sample(state, key)
                priorities = jnp.abs(jax.random.normal(key, (BATCH,))) + 1e-6
                return buffer.set_priorities(state, drawn.indices, priorities), drawn.probabilities.sum()

            return jax.lax.scan(once, state, jax.random.split(key, CALLS))

        options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
        self._several, self._state = jax.jit(several, donate_argnums=0, compiler_options=options), state

    def call(self, timed: bool) -> None:
        self._number += 1
        began = time.perf_counter()
        self._state, _ = jax.block_until_ready(self._several(self._state, jax.random.key(self._number)))
        if timed:
            self.times.append((time.perf_counter() - began) / CALLS)


OTHERS = {"cpprb": Cpprb, "flashbax": Flashbax}


def loops(name: str, samplers: list[str], stretches: int) -> None:
    """Prints what each sampler's loop takes, as a multiple of the uniform one's time."""
    base = LOOPS[name]()
    base = base.replace(steps=base.training.warm_up + (stretches + 3) * base.training.log_period)
    rows = [Row(base.replace(sampler=sampler), sampler) for sampler in ("uniform", *samplers)]
    for number in range(stretches + 3):
        for row in rows:
            row.advance(timed=number >= 3)
    print(f"{name}: {statistics.median(rows[0].rates):,.0f} steps/s with uniform replay")
    for row in rows[1:]:
        ratios = [plain / own for plain, own in zip(rows[0].rates, row.rates, strict=True)]
        print(f"  {row.label:14} {statistics.median(ratios):5.2f} of its time ({min(ratios):.2f} to {max(ratios):.2f})")


def alone(entries: int, samplers: list[str], beside: list[str]) -> None:
    """Prints the time of a draw and a write-back, ours and of other libraries."""
    rows = [*(Alone(name, entries) for name in samplers), *(OTHERS[name](entries) for name in beside)]
    for number in range(REPEATS + 1):
        for row in rows:
            row.call(timed=number > 0)
    first = statistics.median(rows[0].times)
    print(f"a draw of {BATCH} of {entries:,} transitions, and new priorities for them:")
    for row in rows:
        median = statistics.median(row.times)
        print(f"  {row.label:24} {1e6 * median:9.1f} us   {median / first:6.2f} of the first")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [name for name in SAMPLERS if name != "uniform"]
    parser.add_argument("--samplers", nargs="+", choices=choices, default=["prioritized", "reaper"])
    parser.add_argument("--loops", nargs="+", choices=[*LOOPS, "none"], default=list(LOOPS))
    parser.add_argument("--stretches", type=int, default=9, help="timed stretches of each loop")
    parser.add_argument("--entries", type=int, default=1_000_000, help="transitions of the samplers alone")
    parser.add_argument("--beside", nargs="+", choices=OTHERS, default=[], help="other libraries to time alone")
    arguments = parser.parse_args()
    for name in arguments.loops:
        if name != "none":
            loops(name, arguments.samplers, arguments.stretches)
    alone(arguments.entries, [name for name in arguments.samplers if name != "surprise"], arguments.beside)


if __name__ == "__main__":
    main()
