"""Batch renormalisation (Ioffe, 2017) as CrossQ uses it (Bhatt et al., ICLR 2024)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import ones, zeros

MOMENTUM, EPSILON, LARGEST_SCALE, LARGEST_SHIFT = 0.99, 1e-3, 3.0, 5.0
PLAIN_STEPS = 100_000  # for this many batches it is plain batch normalisation, until the running statistics are good


class BatchRenorm(nn.Module):
    """Batch normalisation over the last axis. In training too, its output is close to that of the running statistics.

    A bounded scale and shift without gradient correct the statistics of the batch towards the running statistics.
    """

    use_running_average: bool

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape)
        seen = self.variable("batch_stats", "batches", jnp.zeros, ())  # a float: copies of statistics are averaged
        gain, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        deviation = jnp.sqrt(running_variance.value + EPSILON)
        if self.use_running_average:
            return (x - running_mean.value) / deviation * gain + bias

        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
        own_deviation = jnp.sqrt(variance + EPSILON)
        trusted = seen.value >= PLAIN_STEPS
        scale = jnp.clip(own_deviation / deviation, 1 / LARGEST_SCALE, LARGEST_SCALE)
        shift = jnp.clip((mean - running_mean.value) / deviation, -LARGEST_SHIFT, LARGEST_SHIFT)
        scale, shift = jax.lax.stop_gradient((jnp.where(trusted, scale, 1.0), jnp.where(trusted, shift, 0.0)))
        if not self.is_initializing():
            running_mean.value += (1 - MOMENTUM) * (mean - running_mean.value)
            running_variance.value += (1 - MOMENTUM) * (variance - running_variance.value)
            seen.value += 1
        return ((x - mean) / own_deviation * scale + shift) * gain + bias
