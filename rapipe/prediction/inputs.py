"""Images as a program has them: paths, bytes, pictures of Pillow, arrays.

Letters: N images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rapipe.corpus.decode import Data
from rapipe.corpus.sources.base import Item
from rapipe.errors import ArgumentError
from rapipe.io.text import expand_home, quoted
from rapipe.records import UNLABELLED

LOSSLESS = ("PNG", "TIFF")
"""Formats that between them have every mode of Pillow's that the corpus can read."""


def items_of(images: Iterable[Any]) -> Iterator[Item]:
    """One after the other, to be decoded as the corpus decodes files.

    Args:
        images: of each a path, the bytes of a file, a picture of Pillow, or an array uint8
            (H, W, 3), or (H, W) of greys.

    Raises:
        ArgumentError: one is none of these; names its number.
    """
    for number, image in enumerate(images):
        is_path = isinstance(image, str | Path)
        location = str(image) if is_path else f"image {number}"
        yield Item(_data_of(image, location), UNLABELLED, location)


def _data_of(image: Any, location: str) -> Data:
    if isinstance(image, str | Path):
        return expand_home(image)
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return _data_of_picture(image, location)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
            return image
        shape = " x ".join(map(str, image.shape))
        raise ArgumentError(f"`images`: {location} is an array {shape}; it must be (H, W, 3)")
    what = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else quoted(image)
    raise ArgumentError(
        f"`images`: {location} is {what}; it must be a path, bytes, a picture of Pillow or an "
        "array of uint8"
    )


def _data_of_picture(picture: Image.Image, location: str) -> Data:
    """Its pixels; where there is more to a mode than that, such as transparency, as a file."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGB", "L") and not upright.has_transparency_data:
        return np.asarray(upright)
    for kind in LOSSLESS:
        buffer = BytesIO()
        try:
            upright.save(buffer, kind, compress_level=1)
        except OSError:  # it has no such mode
            continue
        return buffer.getvalue()
    raise ArgumentError(
        f"`images`: {location} is of mode {upright.mode}, which no file has: convert it to RGB"
    )
