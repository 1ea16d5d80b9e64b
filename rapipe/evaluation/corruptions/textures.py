"""Random textures of the weather: a fractal for fog, crystals for frost.

Letters: N images, S side of a texture, a power of two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rapipe.evaluation.corruptions.base import PUBLISHED_SIDE, Draws, Floats
from rapipe.evaluation.corruptions.filters import gaussian, motion, resampled, resize_weights

ICE_DARK = np.array((0.20, 0.30, 0.42), np.float32)
ICE_BRIGHT = np.array((0.90, 0.97, 1.00), np.float32)
"""Colours of clear ice and of the crystals on it: red, green, blue."""


def plasma(side: int, decay: float, draws: Draws) -> Floats:
    """Fractals (N, side, side) from 0 to 1 by the diamond-square algorithm, on a torus.

    The middle of a square becomes the mean of its corners, the middle of an edge that of its
    four neighbours, each plus noise. With each halving of the step the noise shrinks by the
    square of `decay`.

    Source: Fournier, Fussell & Carpenter, "Computer Rendering of Stochastic Models", CACM 1982.
    """
    size = 1 << (side - 1).bit_length()  # S
    heights = draws.uniform(-1, 1, size, size).astype(np.float64)  # (N, S, S), the noise at first
    heights[:, 0, 0] = 0
    step, strength = size, 1.0
    while step >= 2:
        _halve(heights, step, strength)
        step, strength = step // 2, strength / decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    heights /= heights.max(axis=(1, 2), keepdims=True)
    return heights[:, :side, :side].astype(np.float32)


def _halve(heights: npt.NDArray[np.float64], step: int, strength: float) -> None:
    """Turn noise (N, S, S) into heights where a grid of half this step has points more."""
    half = step // 2
    corners = heights[:, ::step, ::step]
    middles = heights[:, half::step, half::step]  # a view, as the two below
    pairs = corners + np.roll(corners, -1, axis=1)
    middles[:] = strength * middles + (pairs + np.roll(pairs, -1, axis=2)) / 4
    above, left = heights[:, ::step, half::step], heights[:, half::step, ::step]
    near = corners + np.roll(corners, -1, axis=2) + middles + np.roll(middles, 1, axis=1)
    above[:] = strength * above + near / 4
    near = corners + np.roll(corners, -1, axis=1) + middles + np.roll(middles, 1, axis=2)
    left[:] = strength * left + near / 4


def frost_texture(side: int, draws: Draws) -> Floats:
    """Ice (N, side, side, 3): needles in three directions, 60 degrees apart, dense in patches.

    Drawn on 32 by 32 pixels and resized. It is not the published texture.

    Source: this project.
    """
    angle = draws.uniform(0, 60)  # (N,)
    seeds = gaussian(draws.normal(PUBLISHED_SIDE, PUBLISHED_SIDE, 1), 0.6)  # (N, 32, 32, 1)
    rays = [motion(seeds, angle + turn, 6, 3) for turn in range(0, 360, 60)]
    needles = np.max([rays[i] + rays[i + 3] for i in range(3)], axis=0)
    patches = plasma(PUBLISHED_SIDE, 2, draws)[..., None]  # (N, 32, 32, 1)
    ice = np.clip(patches + 0.6 * needles - 0.4, 0, 1)
    ice = resampled(ice, resize_weights(PUBLISHED_SIDE, side))  # (N, side, side, 1)
    return ICE_DARK + ice * (ICE_BRIGHT - ICE_DARK)
