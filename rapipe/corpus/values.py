"""Whether the values of a source's images are what they seem: hints where they are not.

Letters: N images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DARK = 16
"""Of 255: an image without a higher value is nearly black."""
UNUSED_BITS = 2
"""Deep images that leave so many bits unused are probably of fewer bits than is assumed."""
OUTLIERS = 0.01
"""Share of deep images that may have higher values than all others."""


@dataclass(frozen=True)
class ValueCounts:
    """How the values of the images of a source are distributed over their range."""

    images: int
    deep: int
    """Images of greyscale that is stored with more than 8 bits."""
    peak: int
    """No value of nearly all of those is higher."""
    dark: int
    """Images that become nearly black."""
    flat: int
    """Images that become one colour."""

    @classmethod
    def count(cls, peaks: npt.NDArray[np.int32], extremes: npt.NDArray[np.uint8]) -> ValueCounts:
        """Count.

        Args:
            peaks: (N,), highest value of greyscale of more than 8 bits, else -1.
            extremes: (N, 2), lowest and highest value of each image as it is in the corpus.
        """
        deep = peaks[peaks >= 0]
        peak = np.quantile(deep, 1 - OUTLIERS, method="lower") if len(deep) else 0
        dark, flat = extremes[:, 1] <= DARK, extremes[:, 0] == extremes[:, 1]
        return cls(len(peaks), len(deep), int(peak), int(dark.sum()), int(flat.sum()))

    def hints(self, depth: int) -> list[str]:
        """Clauses about a source, for what a user probably wants to change.

        Args:
            depth: bits that deep images are assumed to have.
        """
        bits = self.peak.bit_length()
        if self.deep and bits <= depth - UNUSED_BITS:
            share = 2 ** (depth - bits)
            better = max(8, bits + bits % 2)
            return [
                f"{self.deep:,} images are stored with more than 8 bits, but nearly all have no "
                f"value above {self.peak:,}, at most 1/{share} of the range, and become dark; if "
                f"they are of {better} bits, set `depth`: {better}"
            ]
        if 2 * self.dark >= self.images > 0:
            return [
                f"{self.dark:,} of {self.images:,} images are nearly black, without a value above "
                f"{DARK} of 255: are they masks, or of more bits than they can show?"
            ]
        if 2 * self.flat >= self.images > 0:
            return [f"{self.flat:,} of {self.images:,} images are of one colour only"]
        return []
