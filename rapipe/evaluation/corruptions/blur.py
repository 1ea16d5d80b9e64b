"""Blurs: out of focus, through frosted glass, of a moving camera, of one that comes nearer.

Radii, standard deviations and displacements are in pixels of a 32 pixel image and grow with the
side. Constants: `make_cifar_c.py` of Hendrycks & Dietterich.

Letters: N images, H height, W width.
"""

from __future__ import annotations

import math

import numpy as np

from rapipe.evaluation.corruptions.base import Draws, Floats, at, on_floats, scale_of
from rapipe.evaluation.corruptions.filters import (
    Kernel,
    filtered,
    gaussian,
    motion,
    resampled,
    zoom_weights,
)


def disk(radius: float, sigma: float, reach: int) -> Kernel:
    """A disk of equal weights whose edge is softened; the sum is 1.

    Args:
        radius: of the disk, in pixels.
        sigma: of the Gaussian that softens it, in pixels.
        reach: pixels from this Gaussian's middle to its end.
    """
    from scipy import ndimage

    half = math.floor(radius) + reach
    x = np.arange(-half, half + 1)
    inside = (x**2 + x[:, None] ** 2 <= radius**2).astype(np.float64)  # (2 half + 1, same)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        inside = ndimage.correlate1d(inside, weights, axis, mode="constant")
    return np.asarray(inside / inside.sum())


def shrunk(kernel: Kernel, scale: float) -> Kernel:
    """A kernel for images that are smaller by a factor below 1, where a disk may be one pixel.

    Each weight is a square of this side, and goes to the pixels that the square lies on.
    """
    half = len(kernel) // 2
    pixels = np.arange(-half, half + 1)
    squares = pixels * scale
    starts = np.maximum(pixels[:, None] - 0.5, squares - scale / 2)
    ends = np.minimum(pixels[:, None] + 0.5, squares + scale / 2)
    shares = np.maximum(ends - starts, 0) / scale  # (pixels, squares)
    return np.asarray(shares @ kernel @ shares.T)


@on_floats
def defocus_blur(images: Floats, severity: int, draws: Draws) -> Floats:
    """Out of focus: a point becomes a disk, of this radius and this softness of its edge."""
    radius, sigma = at(severity, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)))
    scale = scale_of(images)
    if scale < 1:
        return filtered(images, shrunk(disk(radius, sigma, 1), scale))
    return filtered(images, disk(radius * scale, sigma * scale, round(scale)))


@on_floats
def glass_blur(images: Floats, severity: int, draws: Draws) -> Floats:
    """Through frosted glass: blurred, pixels displaced once or twice, and blurred again.

    The authors' code means to exchange a pixel with the displaced one, but copies it. At
    32 pixels their order makes no difference to the copies, so all are made at once here.
    A displacement by `reach` goes from -reach to reach - 1, as there.
    """
    constants = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    sigma, reach, rounds = at(severity, constants)
    n, h, _, _ = images.shape
    scale = scale_of(images)
    reach = max(1, round(reach * scale))
    inner = np.arange(reach + 1, h - reach + 1)  # (R,), rows and columns that are displaced
    blurred = gaussian(images, sigma * scale)
    for _ in range(rounds):
        steps = draws.integers(-reach, reach, 2, len(inner), len(inner))  # (N, 2, R, R)
        rows, columns = inner[:, None] + steps[:, 0], inner + steps[:, 1]
        copies = blurred[np.arange(n)[:, None, None], rows, columns]  # (N, R, R, 3)
        blurred[:, inner[:, None], inner] = copies
    return gaussian(blurred, sigma * scale)


@on_floats
def motion_blur(images: Floats, severity: int, draws: Draws) -> Floats:
    """A moving camera: blurred along a ray of this radius and sigma, within 45 degrees of level."""
    radius, sigma = at(severity, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)))
    scale = scale_of(images)
    return motion(images, draws.uniform(-45, 45), radius * scale, sigma * scale)


@on_floats
def zoom_blur(images: Floats, severity: int, draws: Draws) -> Floats:
    """A camera that comes nearer: the mean of an image and its enlargements, in steps of 1 %."""
    factors = np.arange(1, at(severity, (1.06, 1.11, 1.16, 1.21, 1.26)), 0.01)
    total = images.copy()
    for factor in factors:
        total += resampled(images, zoom_weights(images.shape[1], factor))
    return total / np.float32(len(factors) + 1)
