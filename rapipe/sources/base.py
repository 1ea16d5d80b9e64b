"""What a source is: classes, and for each split the images with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WHOLE = "all"
"""The split of a source that comes undivided: the corpus divides it."""

ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}
"""Other names that data sets give their validation split."""


@dataclass(frozen=True)
class Item:
    """One image, still encoded (bytes) or already pixels (H, W) or (H, W, 3) uint8."""

    data: bytes | npt.NDArray[np.uint8]
    label: int
    where: str
    """File or row, for messages."""


@dataclass(frozen=True)
class Split:
    """A number of images, and a way to walk through them."""

    size: int
    items: Callable[[], Iterator[Item]]


@dataclass(frozen=True)
class Source:
    """Classes, in the order of the labels, and splits by name.

    Splits are a non-empty choice of train, validation and test, or `all` alone.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
