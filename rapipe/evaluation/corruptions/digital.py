"""What is done to a file of an image: contrast, distortion, fewer pixels, JPEG.

Constants: `make_cifar_c.py` of Hendrycks & Dietterich.

Letters: N images, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from rapipe.evaluation.corruptions.base import Draws, Floats, at, on_floats
from rapipe.evaluation.corruptions.filters import gaussian, warped
from rapipe.records import Ids, Pixels


@on_floats
def contrast(images: Floats, severity: int, draws: Draws) -> Floats:
    """Less contrast: differences from the mean of each channel shrink by this factor."""
    factor = np.float32(at(severity, (0.75, 0.5, 0.4, 0.3, 0.15)))
    means = images.mean(axis=(1, 2), keepdims=True)  # (N, 1, 1, 3)
    return np.asarray(means + factor * (images - means))


@on_floats
def elastic_transform(images: Floats, severity: int, draws: Draws) -> Floats:
    """Distorted: a random affine map, and then each pixel displaced as its neighbours are.

    The constants are shares of the side: how far pixels go, the standard deviation of the
    Gaussian that smooths their displacements, and how far three corners go in the affine map.
    Both steps interpolate. Beyond an edge the image is mirrored.

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks Applied
    to Visual Document Analysis", ICDAR 2003.
    """
    constants = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05))
    reach, sigma, shift = at(severity, (*constants, (0.1, 0.03, 0.03)))
    _, h, w, _ = images.shape
    y, x = np.mgrid[:h, :w].astype(np.float64)
    back = inverse_affine(h, draws.uniform(-shift * h, shift * h, 3, 2))  # (N, 3, 2)
    sources = np.stack((x, y, np.ones_like(x)), axis=-1) @ back[:, None]  # (N, H, W, 2)
    images = warped(images, sources[..., 0], sources[..., 1], edge_twice=False)
    noise = draws.uniform(-1, 1, h, w, 2)
    steps = reach * h * gaussian(noise, sigma * h, mode="reflect", truncate=3)  # (N, H, W, 2)
    return warped(images, x + steps[..., 0], y + steps[..., 1], edge_twice=True)


def inverse_affine(side: int, shifts: Floats) -> npt.NDArray[np.float64]:
    """Matrices (N, 3, 2) that take (x, y, 1) back to where it was before three corners shifted.

    Args:
        shifts: (N, 3, 2) in pixels, of the corners of a right triangle in the middle.
    """
    middle, half = side // 2, side // 3
    signs = np.array(((1, 1), (1, -1), (-1, -1)))
    corners = (middle + half * signs).astype(np.float64)  # (3, 2), x and y
    shifted = corners + shifts
    ones = np.ones((*shifted.shape[:2], 1))
    return np.linalg.solve(np.concatenate((shifted, ones), axis=2), corners)


def pixelate(pixels: Pixels, ids: Ids, severity: int, seed: int) -> Pixels:
    """Fewer pixels: reduced to this share of the side, and enlarged again without blur."""
    share = at(severity, (0.95, 0.9, 0.85, 0.75, 0.65))
    _, h, w, _ = pixels.shape
    small = int(w * share), int(h * share)
    box = Image.Resampling.BOX
    return _each(pixels, lambda image: image.resize(small, box).resize((w, h), box))


def jpeg_compression(pixels: Pixels, ids: Ids, severity: int, seed: int) -> Pixels:
    """Written as a JPEG of this quality, from 1 to 95, and read back."""
    quality = at(severity, (80, 65, 58, 50, 40))

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(pixels, compressed)


def _each(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Pixels (N, H, W, 3) with each image changed by Pillow."""
    changed = np.empty_like(pixels)
    for row, image in enumerate(pixels):
        changed[row] = np.asarray(change(Image.fromarray(image)))
    return changed
