"""Noise of a sensor: Gaussian, of photons, of dead pixels.

Constants: `make_cifar_c.py` of Hendrycks & Dietterich. Letters: N images, H height, W width.
"""

from __future__ import annotations

import numpy as np

from rapipe.batches import transforms
from rapipe.evaluation.corruptions.base import Draws, Floats, at, on_floats
from rapipe.records import Ids, Pixels


def gaussian_noise(pixels: Pixels, ids: Ids, severity: int, seed: int) -> Pixels:
    """Gaussian noise: what little light leaves.

    The same images as at a noise level of the same standard deviation.
    """
    std = at(severity, (0.04, 0.06, 0.08, 0.09, 0.10))
    return transforms.gaussian_noise(pixels, ids, std, seed)


@on_floats
def shot_noise(images: Floats, severity: int, draws: Draws) -> Floats:
    """Poisson noise: light comes in photons. White is so many of them at each severity."""
    photons = np.float32(at(severity, (500, 250, 100, 75, 50)))
    return draws.poisson(images * photons) / photons


@on_floats
def impulse_noise(images: Floats, severity: int, draws: Draws) -> Floats:
    """Salt and pepper: a share of the values is black or white, each channel by itself."""
    share = at(severity, (0.01, 0.02, 0.03, 0.05, 0.07))
    drawn = draws.uniform(0, 1, *images.shape[1:])  # (N, H, W, 3)
    return np.where(drawn < share, (drawn < share / 2).astype(np.float32), images)
