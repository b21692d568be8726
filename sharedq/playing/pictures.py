"""Pictures of observations, for films of environments that cannot draw themselves."""

import colorsys

import numpy as np


def has_picture(obs: np.ndarray) -> bool:
    """Whether an observation is an image: height, width and a few channels."""
    return obs.ndim == 3


def picture(obs: np.ndarray) -> np.ndarray:
    """An image [H, W, channels] as uint8 [H, W, 3]: of a stack its newest frame; other channels get a colour each."""
    if obs.dtype == np.uint8:
        return np.repeat(obs[..., -1:], 3, axis=-1)
    channels = obs.shape[-1]
    colours = np.array([colorsys.hsv_to_rgb(channel / channels, 0.65, 1.0) for channel in range(channels)])
    strongest = obs.argmax(axis=-1)
    shade = np.clip(obs.max(axis=-1).astype(float), 0, 1)[..., None]
    return (255 * colours[strongest] * shade).round().astype(np.uint8)
