"""Optimisers: Adam, and ObGD with eligibility traces for streams of single samples.

ObGD (Elsayed et al., 2024) takes the gradient g of a value and, separately, the error delta of that value:

    z <- decay z + g                                   decay = gamma lambda, or 0 to forget the past
    M  = alpha kappa max(|delta|, 1) |z|_1
    theta <- theta + alpha / max(M, 1) delta z

So one step moves the parameters by at most 1 / kappa in the 1-norm, whatever alpha, delta and the traces are. There may
be several errors at once, one for each head of a network; they are then leading axes of every array.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.networks.unit_kernels import project

Bound = Literal["joint", "each"]


def adam(learning_rate: float, epsilon: float, max_gradient_norm: float | None) -> optax.GradientTransformation:
    """Adam. If a bound is given, the gradient is first clipped to this global norm."""
    return _clipped(optax.adam(learning_rate, eps=epsilon), max_gradient_norm)


def radam(
    learning_rate: float, final: float, updates: int, epsilon: float, max_gradient_norm: float | None
) -> optax.GradientTransformation:
    """Rectified Adam (Liu et al., 2020), whose learning rate goes to `final` in a straight line over these updates."""
    rate = optax.linear_schedule(learning_rate, final, updates)
    return _clipped(optax.radam(rate, eps=epsilon), max_gradient_norm)


def _clipped(step: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    """The same steps for gradients that are first clipped to this global norm."""
    return step if norm is None else optax.chain(optax.clip_by_global_norm(norm), step)


def adam_with_rate(beta: float, epsilon: float) -> optax.GradientTransformationExtraArgs:
    """Adam whose learning rate is given at each step: `update(gradient, moments, params, rate=...)`."""
    scale = optax.scale_by_adam(b1=beta, eps=epsilon)

    def update(gradient, moments, params=None, *, rate, **_):
        updates, moments = scale.update(gradient, moments)
        return jax.tree.map(lambda update: -rate * update, updates), moments

    return optax.GradientTransformationExtraArgs(scale.init, update)


def gradient_step(
    optimiser: optax.GradientTransformationExtraArgs, gradient: Any, moments: Any, params: Any, **extra: Any
) -> tuple[Any, Any]:
    """The parameters and the optimiser's moments after one gradient step of any algorithm.

    Kernels on the unit sphere are projected back onto it. `extra` has more arguments of the optimiser, by name.
    """
    updates, moments = optimiser.update(gradient, moments, params, **extra)
    return project(optax.apply_updates(params, updates)), moments


class Traces(NamedTuple):
    """The state of ObGD."""

    z: Any  # the decayed sum of past gradients, shaped like the gradients
    count: jax.Array  # number of steps


def obgd(
    alpha: float = 1.0,
    kappa: float = 2.0,
    bound: Bound = "joint",
) -> optax.GradientTransformationExtraArgs:
    """ObGD: `update(gradients, traces, delta=..., decay=..., newest=None) -> updates, traces`.

    With `kappa` 0 there is no bound. `delta` is a number or an array of errors. If it is an array, the leaves of the
    gradients and of the updates begin with its axes. If parts of the gradients have different errors, `delta` is a tree
    of errors that is a prefix of the gradients. `decay` and `newest` have the form of `delta`. `newest` is the error of
    the newest gradient minus the error of the past ones. The step is then along delta z + newest g, and M has
    alpha kappa |newest| |g|_1 more, so that the same bound holds.

    `bound` is for several errors. With "joint" there is one M, the sum over all errors, and one step. With "each" the
    move along each error's traces is bounded by 1 / kappa, so n errors may move shared parameters by n / kappa.
    """

    def init(params: Any) -> Traces:
        """The traces before the first step; `params` are shaped like the gradients."""
        z = jax.tree.map(jnp.zeros_like, params)
        return Traces(z, jnp.int32(0))

    def update(gradients, traces, params=None, *, delta, decay, newest=None):
        slopes, form = jax.tree.flatten(gradients)
        errors, decays = (_for_each(x, gradients) for x in (delta, decay))
        extras = [None] * len(slopes) if newest is None else _for_each(newest, gradients)
        # The barriers keep these few numbers in memory. Without them XLA's CPU compiler computes each number again for
        # every weight, with everything that it depends on, even the environment's step.
        errors, decays, extras = jax.lax.optimization_barrier((errors, decays, extras))
        z = [_along(k, g) * z + g for k, z, g in zip(decays, form.flatten_up_to(traces.z), slopes, strict=True)]
        pairs = list(zip(z, slopes, strict=True))
        reaches = map(_reach, pairs, errors, extras)
        reach = sum(one.sum() if bound == "joint" else one for one in reaches)
        step = alpha / jnp.maximum(alpha * kappa * reach, 1)
        moves = [[None if x is None else step * x for x in given] for given in (errors, extras)]
        errors, extras = jax.lax.optimization_barrier(moves)
        return form.unflatten(map(_direction, pairs, errors, extras)), Traces(form.unflatten(z), traces.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _for_each(prefix: Any, gradients: Any) -> list[jax.Array]:
    """One array for each leaf of the gradients, from a tree that is a prefix of them."""
    return jax.tree.leaves(jax.tree.broadcast(jax.tree.map(jnp.asarray, prefix), gradients))


def _along(error: jax.Array, gradient: jax.Array) -> jax.Array:
    """The errors, with axes of size 1 added so that they broadcast with a gradient."""
    return error.reshape(error.shape + (1,) * (gradient.ndim - error.ndim))


def _direction(pair: tuple[jax.Array, jax.Array], error: jax.Array, extra: jax.Array | None) -> jax.Array:
    z, gradient = pair
    past = _along(error, z) * z
    return past if extra is None else past + _along(extra, z) * gradient


def _reach(pair: tuple[jax.Array, jax.Array], error: jax.Array, extra: jax.Array | None) -> jax.Array:
    """The largest length of a step of size 1 for each error, in the 1-norm. Each error counts as at least 1."""
    lengths = [jnp.abs(x).sum(tuple(range(error.ndim, x.ndim))) for x in pair]
    past = jnp.maximum(jnp.abs(error), 1) * lengths[0]
    return past if extra is None else past + jnp.abs(extra) * lengths[1]
