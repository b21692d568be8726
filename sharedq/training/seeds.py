"""How several seeds run at once. The layout depends on the platform; the results of a seed do not depend on the layout.

On a CPU, batching the small matrix products of several seeds is slower than running the seeds one after another. So
each core is a device of its own and works through its share of the seeds. On a GPU the seeds are one more array axis.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SEEDS = PartitionSpec("seeds")


# Without this, XLA's CPU compiler copies each weight matrix in every update before it changes it in place: an update
# of the MinAtar network took 390 us, and 285 with it.
CPU_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}


SHARING = 8  # ours: the most devices that share a core


def use_all_cores(for_one: bool = False, devices: int = 0) -> None:
    """Makes every core a device with its own seeds. It has no effect once JAX has run.

    With a pool of threads shared by the devices, they would wait for each other in every matrix product. With `for_one`
    seed, all cores share each operation instead, which is faster if the operations are large.

    More `devices` than cores can be asked for. Where the host steps environments, one for each seed is better: several
    seeds of a device are copied in and out of their common arrays at every call, and their replays with them. Five
    seeds of LunarLander with 200,000 steps in each replay made 800 to 1,100 steps/s on two devices, and 3,200 on five.
    """
    keep_freed_memory()
    if for_one:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    with contextlib.suppress(RuntimeError, AttributeError):  # JAX has run already, or the platform hides its cores
        cores = len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", max(cores, min(devices, SHARING * cores)))


def keep_freed_memory(trim: int = 2**31 - 1, mmap: int = 2**30) -> None:
    """Keeps the memory that a compiled call frees in this process, for the next call.

    Otherwise glibc returns large blocks to the system at once, and each call touches fresh pages, which the system must
    clear: an update of the paper's Atari network, called by itself, took 36 to 50 ms without this and 21 to 23 with it.
    Blocks above `mmap` bytes and free memory above `trim` bytes are still returned.
    """
    trim_threshold, mmap_threshold = -1, -3  # as <malloc.h> numbers them
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, without this call
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, trim)
        mallopt(mmap_threshold, mmap)


def side_by_side() -> bool:
    """Whether the seeds are one more axis of every operation, instead of running on separate devices."""
    return jax.default_backend() != "cpu"


class Layout:
    """Lays `count` seeds out on the devices. Arrays with an axis of seeds are padded to `padded` seeds."""

    def __init__(self, count: int):
        self.count = count
        self.batched = side_by_side()
        devices = jax.devices()[:1] if self.batched else jax.devices()[:count]
        self.per_device = -(-count // len(devices))
        devices = devices[: -(-count // self.per_device)]
        self.padded = count if self.batched else self.per_device * len(devices)
        self.mesh = Mesh(np.array(devices), ("seeds",))

    def spread(self, function: Callable, given: int = 0) -> jax.stages.Wrapped:
        """Turns `function(shared, own, *given) -> own, out` of one seed into a function of all seeds.

        `own` is donated. The `given` further arguments are not; they also have an axis of seeds.
        """
        if self.batched:
            return jax.jit(jax.vmap(function, in_axes=(None, *[0] * (1 + given))), donate_argnums=1)
        places = (PartitionSpec(), *[SEEDS] * (1 + given))
        share = partial(_one_after_another, function, self.count)
        mapped = jax.shard_map(share, mesh=self.mesh, in_specs=places, out_specs=SEEDS, check_vma=False)
        # stated, because JAX would not shard an empty array, which some games have in their state
        spread = NamedSharding(self.mesh, SEEDS)
        return jax.jit(mapped, donate_argnums=1, out_shardings=spread, compiler_options=CPU_OPTIONS)

    def ask(self, function: Callable) -> Callable:
        """Turns `function(shared, given) -> out` of one seed into a function of all seeds; nothing is donated."""
        if self.batched:
            return jax.jit(jax.vmap(function, in_axes=(None, 0)))
        share = partial(_asked_one_after_another, function)
        places = (PartitionSpec(), SEEDS)
        mapped = jax.shard_map(share, mesh=self.mesh, in_specs=places, out_specs=SEEDS, check_vma=False)
        return jax.jit(mapped, compiler_options=CPU_OPTIONS)

    @property
    def devices(self) -> int:
        return self.mesh.size

    def shapes(self, one: Any) -> Any:
        """The shapes of all seeds on the devices, given the shapes of one seed."""
        sharding = NamedSharding(self.mesh, SEEDS)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.padded, *x.shape), x.dtype, sharding=sharding), one)

    def place(self, tree: Any) -> Any:
        """Moves arrays [count, ...] to the devices, padded with copies of the last seed.

        An array that needs no padding and is on the right device already is not copied: donating the result also
        donates the argument. So a replay that is being loaded is in memory twice for a moment, and not four times.
        """
        if self.padded > self.count:
            seats = np.minimum(np.arange(self.padded), self.count - 1)
            tree = jax.tree.map(lambda x: x[seats], tree)
        return jax.device_put(tree, NamedSharding(self.mesh, SEEDS))

    def fetch(self, tree: Any) -> Any:
        """Moves arrays to the host, without the padding. Random keys stay there, because numpy cannot hold them."""

        def get(x):
            return x[: self.count] if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)[: self.count]

        return jax.tree.map(get, tree)


def _asked_one_after_another(function: Callable, shared: Any, given: Any) -> Any:
    if jax.tree.leaves(given)[0].shape[0] == 1:  # a single seed needs no copy
        return jax.tree.map(lambda x: x[None], function(shared, jax.tree.map(lambda x: x[0], given)))
    return jax.lax.map(partial(function, shared), given)


def _one_after_another(function: Callable, count: int, shared: Any, own: Any, *given: Any) -> Any:
    """Runs the seeds of one device one after another, in place; the last device may have fewer than its share."""
    room = jax.tree.leaves(own)[0].shape[0]
    first = jax.lax.axis_index("seeds") * room

    def take(tree, i):
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)

    def put(tree, i, new):
        return jax.tree.map(lambda x, n: jax.lax.dynamic_update_index_in_dim(x, n, i, 0), tree, new)

    if room == 1:
        result = function(shared, *jax.tree.map(lambda x: x[0], (own, *given)))
        return jax.tree.map(lambda x: x[None], result)
    outs = jax.eval_shape(function, shared, *jax.tree.map(lambda x: x[0], (own, *given)))[1]
    outs = jax.tree.map(lambda out: jnp.zeros((room, *out.shape), out.dtype), outs)

    def body(i, carry):
        own, outs = carry
        new, out = function(shared, take(own, i), *take(given, i))
        return put(own, i, new), put(outs, i, out)

    return jax.lax.fori_loop(0, jnp.minimum(room, count - first), body, (own, outs))
