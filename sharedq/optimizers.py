"""Optimisers: Adam, and ObGD, Adaptive Q and Intentional Q with eligibility traces for streams of single samples.

Those of streams take the gradient g of a value and, separately, the error delta of that value. ObGD (Elsayed et al.,
2024) is:

    z <- decay z + g                                   decay = gamma lambda, or 0 to forget the past
    M  = alpha kappa max(|delta|, 1) |z|_1
    theta <- theta + alpha / max(M, 1) delta z

So one step moves the parameters by at most 1 / kappa in the 1-norm, whatever alpha, delta and the traces are. There may
be several errors at once, one for each head of a network; they are then leading axes of every array.

Adaptive Q (Gogianu, Lutu & Pascanu, 2026) and Intentional Q (Sharifnassab et al., 2026) have the same traces z. They
divide each parameter's step by a running root mean square of its gradients. How they treat several heads is ours:

    a parameter that heads share has one mean square, of the sum over heads of their squared gradients
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharedq.networks.unit_kernels import project

BETA = 0.9  # the decay of first moments that Adam has unless it is given another

Bound = Literal["joint", "each"]


def with_beta(at: Callable[[Any], optax.GradientTransformation], beta: float) -> optax.GradientTransformationExtraArgs:
    """The optimiser `at(beta)`, whose steps can be made with another decay of the first moments: `update(beta=...)`."""

    def update(gradient, moments, params=None, **extra):
        step = optax.with_extra_args_support(at(extra.pop("beta", beta)))
        return step.update(gradient, moments, params, **extra)

    return optax.GradientTransformationExtraArgs(at(beta).init, update)


def adam(
    learning_rate: float, epsilon: float, max_gradient_norm: float | None, decay: float = 0.0, decayed: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Adam. If a bound is given, the gradient is first clipped to this global norm.

    `decayed` is a tree of truth values, a prefix of the parameters: where it is true, weights decay at this rate times
    the learning rate.
    """

    def at(beta: Any) -> optax.GradientTransformation:
        if decayed is None:
            step = optax.adam(learning_rate, beta, eps=epsilon)
        else:
            step = optax.adamw(learning_rate, beta, eps=epsilon, weight_decay=decay, mask=decayed)
        return _clipped(step, max_gradient_norm)

    return with_beta(at, BETA)


def radam(
    learning_rate: float, final: float, updates: int, epsilon: float, max_gradient_norm: float | None
) -> optax.GradientTransformationExtraArgs:
    """Rectified Adam (Liu et al., 2020), whose learning rate goes to `final` in a straight line over these updates."""
    rate = optax.linear_schedule(learning_rate, final, updates)
    return with_beta(lambda beta: _clipped(optax.radam(rate, beta, eps=epsilon), max_gradient_norm), BETA)


def _clipped(step: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    """The same steps for gradients that are first clipped to this global norm."""
    return step if norm is None else optax.chain(optax.clip_by_global_norm(norm), step)


def adam_with_rate(beta: float, epsilon: float) -> optax.GradientTransformationExtraArgs:
    """Adam whose learning rate is given at each step: `update(gradient, moments, params, rate=...)`."""

    def at(beta: Any) -> optax.GradientTransformationExtraArgs:
        scale = optax.scale_by_adam(b1=beta, eps=epsilon)

        def update(gradient, moments, params=None, *, rate, **_):
            updates, moments = scale.update(gradient, moments)
            return jax.tree.map(lambda update: -rate * update, updates), moments

        return optax.GradientTransformationExtraArgs(scale.init, update)

    return with_beta(at, beta)


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


Total = Callable[[Any], Any]  # of gradients with an axis of heads, adds up the heads of the parameters that they share


class AdaptiveTraces(NamedTuple):
    """The state of `adaptive`."""

    z: Any  # the decayed sum of past gradients, shaped like the gradients
    square: Any  # the running mean of squared gradients, shaped like the parameters


def adaptive(rate: float, memory: float, total: Total, epsilon: float = 0.1) -> optax.GradientTransformationExtraArgs:
    """Adaptive Q's optimiser: `update(gradients, traces, delta=..., decay=...) -> updates, traces`.

        z <- decay z + g
        v <- memory v + (1 - memory) sum_h g_h^2                    memory = gamma lambda; a cut leaves v as it is
        theta <- theta + sum_h rate clip(delta_h, -1, 1) z_h / (sqrt(v) + epsilon)

    `delta` and `decay` are arrays [H]. The leaves of the gradients and of the updates begin with this axis.
    """

    def init(params: Any) -> AdaptiveTraces:
        """The traces before the first step; `params` are shaped like the gradients."""
        z = jax.tree.map(jnp.zeros_like, params)
        return AdaptiveTraces(z, total(z))

    def update(gradients, traces, params=None, *, delta, decay):
        # For the barrier see `obgd`.
        decay, moves = jax.lax.optimization_barrier((decay, rate * jnp.clip(delta, -1, 1)))
        z = _decayed(decay, traces.z, gradients)
        squares = total(jax.tree.map(jnp.square, gradients))
        square = jax.tree.map(lambda v, new: memory * v + (1 - memory) * new, traces.square, squares)
        updates = jax.tree.map(lambda z, v: _along(moves, z) * z / (jnp.sqrt(v) + epsilon), z, square)
        return updates, AdaptiveTraces(z, square)

    return optax.GradientTransformationExtraArgs(init, update)


class IntentionalTraces(NamedTuple):
    """The state of `intentional`."""

    z: Any  # the decayed sum of past gradients, shaped like the gradients
    square: Any  # the running mean of squared gradients, shaped like the parameters
    length: jax.Array  # the running mean of |g|^2
    error_square: jax.Array  # [H] the running mean of squared errors
    count: jax.Array  # number of steps


def intentional(
    rate: float,
    memory: float,
    total: Total,
    square_memory: float = 0.999,
    error_memory: float = 0.9998,
    largest_error: float = 20.0,
) -> optax.GradientTransformationExtraArgs:
    """Intentional Q's optimiser: `update(gradients, traces, delta=..., decay=...) -> updates, traces`.

    With n, the root of the running mean of sum_h g_h^2, the length of x is |x|^2 = sum over heads and weights of x^2/n.

        z <- decay z + g
        step  = rate / sqrt(mean |g|^2 |z|^2)               the mean over time has the memory gamma lambda
        theta <- theta + step sum_h clip(delta_h) z_h / n   clipped to 20 times their own running root mean square

    All means are corrected for their start. So the step changes the values of the newest pair by about a fraction
    `rate` of delta: by no more if |g|^2 is its mean, for the Cauchy-Schwarz inequality bounds sum_h delta_h z_h g / n.
    With several heads there is one step, and the bound is on the length of the vector of errors. This is ours.

    The arguments have the form of those of `adaptive`.
    """

    def init(params: Any) -> IntentionalTraces:
        """The traces before the first step; `params` are shaped like the gradients."""
        z = jax.tree.map(jnp.zeros_like, params)
        errors = jnp.ones(jax.tree.leaves(z)[0].shape[0])  # 1, as in the public code, so that early errors pass
        return IntentionalTraces(z, total(z), jnp.float32(0), errors, jnp.int32(0))

    def update(gradients, traces, params=None, *, delta, decay):
        # For the barriers see `obgd`.
        delta, decay = jax.lax.optimization_barrier((delta, decay))
        count = traces.count + 1
        z = _decayed(decay, traces.z, gradients)
        squares = total(jax.tree.map(jnp.square, gradients))
        square = jax.tree.map(lambda v, new: v + (1 - square_memory) * (new - v), traces.square, squares)
        seen = _share_seen(square_memory, count)
        n = jax.tree.map(lambda v: jnp.sqrt(v / seen) + 1e-8, square)
        length = traces.length + (1 - memory) * (_length(squares, n) - traces.length)
        usual = length / _share_seen(memory, count)
        step = rate / jnp.maximum(jnp.sqrt(usual * _length(total(jax.tree.map(jnp.square, z)), n)), 1e-8)
        error_square = traces.error_square + (1 - error_memory) * (jnp.square(delta) - traces.error_square)
        largest = largest_error * jnp.sqrt(error_square / _share_seen(error_memory, count))
        moves = jax.lax.optimization_barrier(step * jnp.clip(delta, -largest, largest))
        updates = jax.tree.map(lambda z, n: _along(moves, z) * z / n, z, n)
        return updates, IntentionalTraces(z, square, length, error_square, count)

    return optax.GradientTransformationExtraArgs(init, update)


def _decayed(decay: jax.Array, z: Any, gradients: Any) -> Any:
    return jax.tree.map(lambda z, g: _along(decay, g) * z + g, z, gradients)


def _length(squares: Any, n: Any) -> jax.Array:
    """The sum of all squares, each divided by its n."""
    return sum(jax.tree.leaves(jax.tree.map(lambda square, n: (square / n).sum(), squares, n)))


def _share_seen(memory: float, count: jax.Array) -> jax.Array:
    """1 - memory^count, the weight of all numbers in a running mean that began at 0, without loss of digits."""
    return -jnp.expm1(count * (math.log(memory) if memory else -math.inf))


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
