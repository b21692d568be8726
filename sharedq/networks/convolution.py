"""A 2-D convolution, lowered to matrix products over patches on a CPU and to the native operation elsewhere.

Inside a compiled loop XLA's CPU convolution is about ten times slower than the same sums written as one matrix
product; `benchmarks/convolution.py` measures it. Outside of loops the native one is faster, so whoever traces a
function can request it with `with native_convolutions():`. Pooling is lowered in the same way, to maxima of slices.
Both lowerings compute the same function (a test compares them).
Images are [B, height, width, channels], kernels [height, width, channels, filters].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = Literal["SAME", "VALID"]
Function = TypeVar("Function", bound=Callable)

_native_asked_for: ContextVar[bool] = ContextVar("native convolutions", default=False)


@contextmanager
def native_convolutions() -> Iterator[None]:
    """Code traced inside uses the platform's own convolution and pooling, also on a CPU."""
    token = _native_asked_for.set(True)
    try:
        yield
    finally:
        _native_asked_for.reset(token)


def traced_natively(function: Function) -> Function:
    """The function, traced with native convolutions. Use it for functions that are not compiled inside a loop."""

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with native_convolutions():
            return function(*arguments, **keywords)

    return call  # type: ignore[return-value]


def _by_products_here(platform: str | None) -> bool:
    return (platform or jax.default_backend()) == "cpu" and not _native_asked_for.get()


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, platform: str | None = None) -> jax.Array:
    """The convolution of `x` with `kernel`, computed in the dtype of the kernel."""
    return (_by_products if _by_products_here(platform) else _native)(x, kernel, stride, padding)


def max_pool(x: jax.Array, size: int, stride: int, platform: str | None = None) -> jax.Array:
    """The largest value of each size x size square; SAME padding. Of equal values the first gets the gradient."""
    if not _by_products_here(platform):
        return nn.max_pool(x, (size, size), strides=(stride, stride), padding="SAME")
    for axis in (2, 1):  # rows first, so that of equal values the same one is taken as in the native pooling
        x = _largest(x, size, stride, axis)
    return x


def _largest(x: jax.Array, size: int, stride: int, axis: int) -> jax.Array:
    (pads,) = jax.lax.padtype_to_pads((x.shape[axis],), (size,), (stride,), "SAME")
    borders = [(0, 0)] * x.ndim
    borders[axis] = pads
    x = jnp.pad(x, borders, constant_values=-jnp.inf)
    reach = x.shape[axis] - size + 1
    first, *others = (jax.lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(size))
    for other in others:
        first = jnp.where(other > first, other, first)
    return first


def as_features(x: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Observations as floats. Bytes are treated as pixels and scaled to 0 .. 1."""
    scale = 255.0 if x.dtype == jnp.uint8 else 1.0
    return x.astype(dtype) / scale


def as_images(x: jax.Array) -> jax.Array:
    """Images [B, height, width, channels]. Grey images [B, height, width] get one channel."""
    return x[..., None] if x.ndim == 3 else x


def _native(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    x = as_features(x, kernel.dtype)
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def _by_products(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    size = kernel.shape[:2]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], size, (stride, stride), padding)
    # The barrier puts the image into memory once; without it each slice below computes the image again.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
    if stride > 1 and all(side % stride == 0 for side in size):
        x, kernel = _space_to_depth(x, kernel, stride)
        stride = 1
    height, width, channels, filters = kernel.shape
    whole, in_rows = height * width * channels, width * channels + height * filters  # numbers read per output
    if stride == 1 and in_rows <= whole:
        return _over_rows(x, kernel)
    return _over_patches(x, kernel, stride)


def _over_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """One product over the whole patch of each output."""
    height, width, channels, filters = kernel.shape
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    patches = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(height)
        for j in range(width)
    ]
    patches = as_features(jnp.concatenate(patches, axis=-1), kernel.dtype)
    return patches @ kernel.reshape(height * width * channels, filters)


def _over_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One product over one row of each output's patch, for all rows of the kernel; then the rows are summed."""
    height, width, channels, filters = kernel.shape
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    patches = as_features(jnp.concatenate([x[:, :, j : j + columns] for j in range(width)], axis=-1), kernel.dtype)
    by_row = kernel.transpose(1, 2, 0, 3).reshape(width * channels, height * filters)
    parts = _product(patches, by_row)
    return sum(parts[:, i : i + rows, :, i * filters : (i + 1) * filters] for i in range(height))


@jax.custom_vjp
def _product(patches: jax.Array, kernel: jax.Array) -> jax.Array:
    """`patches @ kernel`, with its own gradient with respect to the kernel."""
    return patches @ kernel


def _product_forward(patches: jax.Array, kernel: jax.Array):
    return patches @ kernel, (patches, kernel)


def _product_backward(kept, slope: jax.Array):
    """Transposes the patches before their product: along their rows the product takes half as long as along columns."""
    patches, kernel = kept
    slope = jax.lax.optimization_barrier(slope)
    turned = jax.lax.optimization_barrier(patches.reshape(-1, patches.shape[-1]).T)
    return slope @ kernel.T, turned @ slope.reshape(-1, slope.shape[-1])


_product.defvjp(_product_forward, _product_backward)


def _space_to_depth(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """The same convolution with stride 1: each stride x stride square of pixels becomes one pixel's channels."""
    batch, rows, columns, channels = x.shape
    rows, columns = rows // stride, columns // stride  # the part cut off affects no output
    x = x[:, : rows * stride, : columns * stride].reshape(batch, rows, stride, columns, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, stride * stride * channels)
    height, width, channels, filters = kernel.shape
    kernel = kernel.reshape(height // stride, stride, width // stride, stride, channels, filters)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    return x, kernel.reshape(height // stride, width // stride, stride * stride * channels, filters)
