"""Weather: snow, frost, fog and too much light.

Constants: `make_cifar_c.py` of Hendrycks & Dietterich.

Letters: N images, H height, W width.
"""

from __future__ import annotations

import numpy as np

from rapipe.evaluation.corruptions.base import (
    PUBLISHED_SIDE,
    Draws,
    Floats,
    at,
    on_floats,
    scale_of,
)
from rapipe.evaluation.corruptions.filters import motion, resampled, resize_weights, zoom_weights
from rapipe.evaluation.corruptions.textures import frost_texture, plasma

LUMA = np.array((0.299, 0.587, 0.114), np.float32)
"""Weights of red, green and blue in a grey."""


@on_floats
def snow(images: Floats, severity: int, draws: Draws) -> Floats:
    """Falling snow: flakes are the peaks of noise, enlarged and blurred along their fall.

    They fall twice, the second time upside down, and the image turns paler. Flakes are drawn on
    32 by 32 pixels and resized to the image. The constants are mean and standard deviation of the
    noise, enlargement, threshold, radius and sigma of the blur, and how much of the image remains.
    """
    constants = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    mean, std, factor, threshold, radius, sigma, kept = at(severity, constants)
    noise = mean + std * draws.normal(PUBLISHED_SIDE, PUBLISHED_SIDE, 1)  # (N, 32, 32, 1)
    noise = resampled(noise, zoom_weights(PUBLISHED_SIDE, factor))
    flakes = np.clip(np.where(noise < threshold, 0, noise), 0, 1).astype(np.float32)
    flakes = resampled(flakes, resize_weights(PUBLISHED_SIDE, images.shape[1]))  # (N, H, W, 1)
    scale = scale_of(images)
    flakes = motion(flakes, draws.uniform(-135, -45), radius * scale, sigma * scale)
    pale = np.maximum(images, (images @ LUMA)[..., None] * 1.5 + 0.5)
    snowy = kept * images + (1 - kept) * pale + flakes + flakes[:, ::-1, ::-1]
    return np.asarray(snowy, np.float32)


@on_floats
def frost(images: Floats, severity: int, draws: Draws) -> Floats:
    """Frost on a window: a weighted sum of the image and a texture of ice.

    The texture is computed; the published one is cut from photographs. The weights are the
    published ones, but numbers for frost cannot be compared with those of CIFAR-10-C.
    """
    constants = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    of_image, of_frost = at(severity, constants)
    return of_image * images + of_frost * frost_texture(images.shape[1], draws)


@on_floats
def fog(images: Floats, severity: int, draws: Draws) -> Floats:
    """Fog: a fractal is added, and the sum scaled back to the brightest value of the image.

    The constants are the fog's weight and how fast its finer structure fades.
    """
    weight, decay = at(severity, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)))
    brightest = images.max(axis=(1, 2, 3), keepdims=True)  # (N, 1, 1, 1)
    mist = plasma(images.shape[1], decay, draws)[..., None]  # (N, H, W, 1)
    foggy = images + np.float32(weight) * mist
    return np.asarray(foggy * brightest / (brightest + np.float32(weight)))


@on_floats
def brightness(images: Floats, severity: int, draws: Draws) -> Floats:
    """Too much light: the value of HSV grows by this much; hue and saturation stay."""
    lift = np.float32(at(severity, (0.05, 0.1, 0.15, 0.2, 0.3)))
    value = images.max(axis=3, keepdims=True)  # (N, H, W, 1)
    lifted = np.minimum(value + lift, 1)
    colour = images / np.where(value > 0, value, 1)
    return np.asarray(lifted * np.where(value > 0, colour, 1))  # black turns grey
