"""Blurs and resampling for many images at once, each computed image by image.

No sum runs over images, so that a result does not depend on the size of a batch.

Letters: N images, H height, W width, C channels, M positions.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from rapipe.evaluation.corruptions.base import Floats

Kernel = npt.NDArray[np.float64]  # (rows, columns)
Positions = npt.NDArray[np.floating]


def gaussian(images: Floats, sigma: float, mode: str = "nearest", truncate: float = 4) -> Floats:
    """Images (N, H, W, C) blurred by a Gaussian, as scikit-image does.

    Args:
        sigma: standard deviation in pixels; 0 leaves images as they are.
        mode: what lies beyond the edge, in SciPy's words.
        truncate: where the kernel ends, in standard deviations.
    """
    from scipy import ndimage

    return np.asarray(
        ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode=mode, truncate=truncate)
    )


def filtered(images: Floats, kernel: Kernel) -> Floats:
    """Images (N, H, W, C) filtered by a kernel; edges are mirrored, without the outermost pixel."""
    from scipy import ndimage

    return np.asarray(ndimage.correlate(images, kernel[None, :, :, None], mode="mirror"))


def motion(images: Floats, angles: Floats, radius: float, sigma: float) -> Floats:
    """Images (N, H, W, C) blurred along a line, as ImageMagick's `-motion-blur` does.

    A pixel becomes a mean over itself and the pixels along a ray, which weigh as one half of a
    Gaussian does. The ray has 2 * radius steps, each rounded to a pixel. Beyond the edge lies
    the nearest pixel.

    Args:
        angles: (N,) of the rays in degrees: 0 points to the right, 90 down.
        radius, sigma: in pixels.

    Source: `MotionBlurImage` in ImageMagick's `effect.c`.
    """
    n, h, w, _ = images.shape
    length = 2 * math.ceil(radius) + 1
    steps = np.arange(length)[:, None]  # (length, 1)
    weights = np.exp(-(steps[:, 0] ** 2) / (2 * sigma**2))
    radians = np.deg2rad(angles.astype(np.float64))
    down = np.ceil(steps * np.sin(radians) - 0.5).astype(int) + length  # (length, N)
    right = np.ceil(steps * np.cos(radians) - 0.5).astype(int) + length
    edges = ((0, 0), (length, length), (length, length), (0, 0))
    padded = np.pad(images, edges, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), (1, 2))
    blurred = np.zeros(images.transpose(0, 3, 1, 2).shape, np.float32)  # (N, C, H, W)
    for weight, row, column in zip(weights / weights.sum(), down, right, strict=True):
        blurred += np.float32(weight) * windows[np.arange(n), row, column]
    return np.moveaxis(blurred, 1, 3)


def interpolation(positions: Positions, side: int) -> Floats:
    """Weights (M, side) that interpolate between `side` values at positions (M,) among them."""
    distances = np.abs(np.clip(positions, 0, side - 1)[:, None] - np.arange(side))
    return np.asarray(np.maximum(1 - distances, 0), np.float32)


def zoom_weights(side: int, factor: float) -> Floats:
    """Weights (side, side) for one axis of the published zoom into the middle.

    A crop of ceil(side / factor) pixels is enlarged to the nearest number of whole pixels, from
    its first pixel to its last, and cut to the side.
    """
    crop = math.ceil(side / factor)
    large = round(crop * factor)
    pixels = (large - side) // 2 + np.arange(side)
    return interpolation((side - crop) // 2 + pixels * (crop - 1) / (large - 1), side)


def resize_weights(side: int, target: int) -> Floats:
    """Weights (target, side) that enlarge one axis linearly, from edge to edge."""
    return interpolation((np.arange(target) + 0.5) * side / target - 0.5, side)


def resampled(images: Floats, weights: Floats) -> Floats:
    """Images (N, H, W, C) with both axes resampled by the same weights (M, H): (N, M, M, C)."""
    rows = np.matmul(weights, images.transpose(0, 3, 1, 2))  # (N, C, M, W)
    return np.moveaxis(np.matmul(rows, weights.T), 1, 3)


def warped(images: Floats, x: Positions, y: Positions, edge_twice: bool) -> Floats:
    """Images (N, H, W, C) read at positions x and y (N, H, W) in pixels, linearly interpolated.

    Args:
        edge_twice: whether the mirror image beyond an edge begins with the outermost pixel.
    """
    _, h, w, _ = images.shape
    if edge_twice:
        grid = np.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), axis=-1)
    else:
        grid = np.stack((2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1), axis=-1)  # (N, H, W, 2)
    read = F.grid_sample(
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        torch.from_numpy(grid.astype(np.float32)),
        padding_mode="reflection",
        align_corners=not edge_twice,
    )
    return np.asarray(read.permute(0, 2, 3, 1).numpy())
