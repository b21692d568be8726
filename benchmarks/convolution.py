"""Both lowerings of a convolution, inside a compiled loop as in training: matrix products over patches, and the native.

    python -m benchmarks.convolution

Value and gradient of one layer, batch 32, on one core of a CPU or on the accelerator. The two take turns.
"""

import argparse
import statistics
import time

from sharedq.training.seeds import CPU_OPTIONS, use_all_cores

use_all_cores()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from sharedq.networks.convolution import convolve  # noqa: E402

LAYERS = {  # side, channels, filters, kernel, stride, padding
    "MinAtar": (10, 4, 16, 3, 1, "VALID"),
    "Nature, first layer": (84, 4, 32, 8, 4, "SAME"),
    "Nature, second layer": (21, 32, 64, 4, 2, "SAME"),
    "Nature, third layer": (11, 64, 64, 3, 1, "SAME"),
}
LOWERINGS = {"patches": "cpu", "native": "gpu"}


def timed(platform: str, side: int, channels: int, filters: int, size: int, stride: int, padding: str, loops: int):
    """A call that makes `loops` steps of gradient descent and gives the microseconds of one."""
    image = jax.random.uniform(jax.random.key(0), (32, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (size, size, channels, filters)) / size

    def loss(kernel, image):
        return jnp.square(convolve(image, kernel, stride, padding, platform)).mean()

    def step(_, carry):  # the image changes too, as a layer's input does: its gradient is needed
        kernel, image = carry
        slopes = jax.grad(loss, argnums=(0, 1))(kernel, image)
        return jax.tree.map(lambda x, slope: x - 1e-3 * slope, carry, slopes)

    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    run = jax.jit(lambda carry: jax.lax.fori_loop(0, loops, step, carry), compiler_options=options)
    jax.block_until_ready(run((kernel, image)))

    def call() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run((kernel, image)))
        return (time.perf_counter() - began) / loops * 1e6

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=20, help="gradient steps in each compiled call")
    parser.add_argument("--repeats", type=int, default=5, help="calls of each, whose median counts")
    arguments = parser.parse_args()
    print(f"microseconds of value and gradient, batch 32, on {jax.devices()[0].device_kind}")
    for name, layer in LAYERS.items():
        calls = {lowering: timed(platform, *layer, arguments.loops) for lowering, platform in LOWERINGS.items()}
        times = {lowering: [] for lowering in calls}
        for _ in range(arguments.repeats):
            for lowering, call in calls.items():
                times[lowering].append(call())
        middle = {lowering: statistics.median(found) for lowering, found in times.items()}
        words = "  ".join(f"{lowering} {value:9,.0f}" for lowering, value in middle.items())
        print(f"{name:22} {words}  native takes {middle['native'] / middle['patches']:6.2f} times as long")


if __name__ == "__main__":
    main()
