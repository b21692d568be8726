"""Pruning of weights by their magnitude: the smallest weights of each layer are set to zero and stay there.

The kernels of layers are pruned, which are recognised by their names among the parameters. Biases, the scales of
normalisation layers and embeddings stay whole. A mask is true where a weight is kept, and masks have the form of the
parameters.

Where a source has several networks or heads, each has masks of its own. Several critics, and the blocks of a language
model, lie in one array, which counts as one layer.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sharedq.networks.network import Network
from sharedq.settings import require

Distribution = Literal["uniform", "erk"]
KERNELS = ("kernel", "unit_kernel")


def is_kernel(path: tuple) -> bool:
    return getattr(path[-1], "key", None) in KERNELS


def kernels(tree: Any) -> list[Any]:
    """The leaves of a tree with the form of the parameters that are kernels."""
    return [leaf for path, leaf in jax.tree.leaves_with_path(tree) if is_kernel(path)]


def check_no_noise(name: str, network: Network) -> None:
    require(network.with_noise is None, f"target '{name}' prunes a network without noise: leave network.noisy out")


def check_prunable(name: str, params: Any) -> None:
    """Raises if the trunk has no kernel. What a table has in the place of weights are the values themselves."""
    require(
        bool(kernels(params["trunk"])),
        f"target '{name}' prunes the weights of layers, and this network has no weights to prune: choose another "
        "--network, such as dense",
    )


def all_kept(params: Any) -> Any:
    """The masks of parameters of which nothing is pruned."""
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)


def pruned(tree: Any, masks: Any) -> Any:
    """The tree with zeros where the masks are false. Through it no gradient reaches what is pruned."""
    return jax.tree.map(lambda x, mask: jnp.where(mask, x, 0), tree, masks)


def pruned_moments(moments: Any, masks: Any) -> Any:
    """The moments of an optimiser, with zeros for the weights that are pruned.

    Every part of the moments that has the form of the parameters is pruned like them.
    """
    form = jax.tree.structure(masks)

    def like_params(part: Any) -> bool:
        return jax.tree.structure(part) == form

    return jax.tree.map(lambda part: pruned(part, masks) if like_params(part) else part, moments, is_leaf=like_params)


def sparsity_of(masks: Any) -> jax.Array:
    """The share of pruned weights among all weights of kernels."""
    found = kernels(masks)
    return sum((~mask).sum() for mask in found) / sum(mask.size for mask in found)


class Left(NamedTuple):
    """What is left of a network whose smallest weights are pruned."""

    sparsity: jax.Array  # the share of pruned weights among all weights of kernels
    parameters: jax.Array  # the number of parameters that are not pruned
    flops: jax.Array  # of one pass of one input: two for each use of a weight that is not pruned

    def metrics(self) -> dict[str, jax.Array]:
        return {"sparsity": self.sparsity, "parameters_left": self.parameters, "flops_left": self.flops}


def left_of(masks: Any, uses: Any) -> Left:
    parameters = sum(mask.sum(dtype=jnp.float32) for mask in jax.tree.leaves(masks))
    used = sum(count * mask.sum(dtype=jnp.float32) for count, mask in zip(kernels(uses), kernels(masks), strict=True))
    return Left(sparsity_of(masks), parameters, 2.0 * used)


def uses_of_weights(network: Network, params: Any, batch_stats: Any, inputs: Any) -> Any:
    """How often one input's pass through the network uses each weight: a tree of numbers in the form of `params`.

    The kernel of a convolution is used once for each pixel of its output, and every other kernel once.
    """
    found = {}

    def noticed(method, arguments, keywords, context):
        outputs = method(*arguments, **keywords)
        if isinstance(outputs, jax.Array):
            found[context.module.path] = math.prod(outputs.shape[1:-1])
        return outputs

    with nn.intercept_methods(noticed):
        jax.eval_shape(lambda p, s, x: network.trunk(p, s, x, False), params["trunk"], batch_stats, inputs)

    def one(path: tuple, _: Any) -> int:
        part, *module, _name = (getattr(key, "key", None) for key in path)
        return found.get(tuple(module), 1) if part == "trunk" else 1

    return jax.tree_util.tree_map_with_path(one, params)


def ranks(params: Any, masks: Any, apart: Collection[str] = ()) -> Any:
    """The rank of each weight of a kernel in its layer: 0 for the largest. Those that are pruned come last.

    In the parts of the parameters that are `apart`, leaves begin with an axis of heads, each of which has ranks of its
    own.
    """

    def of_layer(w: jax.Array, mask: jax.Array) -> jax.Array:
        order = jnp.argsort(jnp.where(mask, -jnp.abs(w), jnp.inf).ravel())
        return jnp.zeros(w.size, jnp.int32).at[order].set(jnp.arange(w.size, dtype=jnp.int32)).reshape(w.shape)

    def one(path: tuple, w: jax.Array, mask: jax.Array) -> jax.Array:
        if not is_kernel(path):
            return jnp.zeros(w.shape, jnp.int32)
        return (jax.vmap(of_layer) if path[0].key in apart else of_layer)(w, mask)

    return jax.tree_util.tree_map_with_path(one, params, masks)


def masks_of(ranks: Any, sparsity: jax.Array, distribution: Distribution, apart: Collection[str] = ()) -> Any:
    """The masks that keep the largest weights of each kernel, so that this share of all is pruned."""

    def shape_of(path: tuple, rank: jax.Array) -> tuple[int, ...]:
        return rank.shape[1:] if path[0].key in apart else rank.shape

    shapes = [shape_of(path, rank) for path, rank in jax.tree.leaves_with_path(ranks) if is_kernel(path)]
    shares = iter(densities(shapes, sparsity, distribution))

    def one(path: tuple, rank: jax.Array) -> jax.Array:
        if not is_kernel(path):
            return jnp.ones(rank.shape, bool)
        return rank < jnp.round(next(shares) * math.prod(shape_of(path, rank))).astype(jnp.int32)

    return jax.tree_util.tree_map_with_path(one, ranks)


def densities(shapes: Sequence[tuple[int, ...]], sparsity: jax.Array, distribution: Distribution) -> list[jax.Array]:
    """The share of weights that each layer keeps.

    `uniform` is the same share everywhere. `erk` is epsilon * (sum of the sides of the kernel) / (their product), with
    the epsilon that leaves 1 - sparsity of all weights. No layer keeps more than all of its weights.
    """
    density = 1 - jnp.asarray(sparsity, jnp.float32)
    if distribution == "uniform":
        return [density] * len(shapes)
    sizes = jnp.array([math.prod(shape) for shape in shapes], jnp.float32)
    raw = jnp.array([sum(shape) / math.prod(shape) for shape in shapes], jnp.float32)

    def with_more(_: int, whole: jax.Array) -> jax.Array:
        return whole | (epsilon_of(whole) * raw > 1)

    def epsilon_of(whole: jax.Array) -> jax.Array:
        left = density * sizes.sum() - jnp.sum(jnp.where(whole, sizes, 0))
        return left / jnp.maximum(jnp.sum(jnp.where(whole, 0, raw * sizes)), 1e-9)

    # A layer that would keep more than everything is left whole. That leaves less for the others, whose epsilon grows.
    whole = jax.lax.fori_loop(0, len(shapes), with_more, jnp.zeros(len(shapes), bool))
    return list(jnp.where(whole, 1.0, jnp.minimum(epsilon_of(whole) * raw, 1.0)))
