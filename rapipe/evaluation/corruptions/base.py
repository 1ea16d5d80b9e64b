"""What corruptions share: severities, the random numbers of an image, floats and 8 bits.

Random numbers come from one generator for each image, whose key is the seed, the image's id, the
corruption's name and the severity. So an image's are the same in every batch.

Letters: N images, H height, W width.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError
from rapipe.records import Ids, Pixels

Floats = npt.NDArray[np.float32]
"""Images (N, H, W, 3) in [0, 1], unless another shape is given."""
Corruption = Callable[[Pixels, Ids, int, int], Pixels]
"""Pixels (N, H, W, 3), ids (N,), severity and seed to pixels of the same shape."""
T = TypeVar("T")

SEVERITIES = (1, 2, 3, 4, 5)
PUBLISHED_SIDE = 32
"""Pixels of a side of the images that the constants are for."""
CHUNK = 128
"""Images that are floats at the same time."""


def check_severity(severity: object) -> None:
    """Raise `ArgumentError` if this is none of the severities."""
    if severity not in SEVERITIES:
        raise ArgumentError(
            f"`severity`: {severity!r} is none of {', '.join(map(str, SEVERITIES))}"
        )


def at(severity: int, constants: Sequence[T]) -> T:
    """The constant of a severity, of five.

    Raises:
        ArgumentError: it is none of 1 to 5.
    """
    check_severity(severity)
    return constants[SEVERITIES.index(severity)]


def scale_of(images: Floats) -> float:
    """The factor for lengths in pixels: 1 at 32 pixels; images are square."""
    _, h, _, _ = images.shape
    return float(h / PUBLISHED_SIDE)


class Draws:
    """Random numbers for each of N images; a second call continues where the first ended.

    Args:
        ids: (N,) of the images.
        key: of everything else that the numbers depend on.
    """

    def __init__(self, ids: Ids, key: tuple[int, ...]) -> None:
        self.ids = ids
        self.key = key

    @functools.cached_property
    def generators(self) -> list[np.random.Generator]:
        return [np.random.default_rng([*self.key, int(i) & (2**64 - 1)]) for i in self.ids]

    def normal(self, *shape: int) -> Floats:
        """Standard normal numbers (N, *shape)."""
        return np.stack([g.standard_normal(shape, np.float32) for g in self.generators])

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        """Numbers (N, *shape) from `low` to `high`."""
        drawn = np.stack([g.random(shape, np.float32) for g in self.generators])
        return np.float32(low) + np.float32(high - low) * drawn

    def integers(self, low: int, high: int, *shape: int) -> npt.NDArray[np.int64]:
        """Whole numbers (N, *shape) from `low` to `high` - 1."""
        return np.stack([g.integers(low, high, shape) for g in self.generators])

    def poisson(self, rates: Floats) -> Floats:
        """Counts (N, ...) with these means."""
        pairs = zip(self.generators, rates, strict=True)
        return np.stack([generator.poisson(rate) for generator, rate in pairs]).astype(np.float32)


def on_floats(function: Callable[[Floats, int, Draws], Floats]) -> Corruption:
    """A corruption from a function of images in [0, 1], which is called with some at a time.

    Its result is clipped to [0, 1] and rounded to 8 bits.
    """
    name = zlib.crc32(function.__name__.encode())

    @functools.wraps(function)
    def corrupt(pixels: Pixels, ids: Ids, severity: int, seed: int) -> Pixels:
        check_severity(severity)
        corrupted = np.empty_like(pixels)
        for start in range(0, len(pixels), CHUNK):
            part = slice(start, start + CHUNK)
            draws = Draws(ids[part], (seed, name, severity))
            images = pixels[part].astype(np.float32) / np.float32(255)
            changed = function(images, severity, draws)
            corrupted[part] = np.rint(np.clip(changed, 0, 1) * 255)
        return corrupted

    return corrupt
