"""A trunk of Fourier features: sines and cosines of a learned projection of the observation."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from sharedq.networks.heads import linear
from sharedq.networks.network import of_flax
from sharedq.settings import require


class FourierTrunk(nn.Module):
    """Sines and cosines of a learned projection of the observation."""

    features: int

    @nn.compact
    def __call__(self, x):
        projected = nn.Dense(self.features)(x.reshape(x.shape[0], -1).astype(jnp.float32))
        return jnp.concatenate([jnp.sin(projected), jnp.cos(projected)], axis=-1)


@dataclass(frozen=True)
class Fourier:
    """Fourier features: sines and cosines of one learned layer."""

    features: int = 32  # number of frequencies; each gives a sine and a cosine

    def __post_init__(self):
        require(self.features >= 1, f"network.features must be at least 1, not {self.features}")

    def build(self, outputs):
        return of_flax(FourierTrunk(self.features), *linear(outputs))
