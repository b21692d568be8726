"""The activations of hidden layers, as flax modules, so that what a layer gives can be looked at from outside."""

from typing import Literal

import flax.linen as nn

Activation = Literal["relu", "leaky_relu"]  # leaky_relu has slope 0.01 below 0

ACTIVATIONS = {"relu": nn.relu, "leaky_relu": nn.leaky_relu}


class ActivationLayer(nn.Module):
    """An activation without parameters. `network.activations_of` finds its outputs."""

    kind: Activation = "relu"

    def __call__(self, x):
        return ACTIVATIONS[self.kind](x)
