"""From an image file of any kind to a square of RGB pixels.

This module, and what it imports, imports nothing heavy: worker processes load it.
Whatever is wrong with an image becomes a sentence.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rapipe.corpus.loading import FORMATS, MAX_PIXELS, UnusableImageError, load, read_bytes
from rapipe.errors import ArgumentError, printable, shortened
from rapipe.io.checksums import image_id

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes lines to stderr

Data = bytes | npt.NDArray[np.uint8] | Path
"""An encoded image, pixels (H, W) or (H, W, 3), or a file."""

MAX_CHARACTERS = 300
"""Of a message of Pillow about a damaged file, which may quote much of it."""

REDUCING_GAP = 2.0
"""Large images are first reduced by an integer factor, to at least this times the final size."""


@dataclass(frozen=True)
class Decoding:
    """How images become squares.

    Args:
        size: S, in pixels.
        resize: `crop` keeps the centre, `squash` ignores the aspect ratio, `pad` shrinks the
            whole image onto the background.
        background: colour, which also shows through transparent pixels.
        max_pixels: a larger image is not decoded.
        depth: bits of the values of greyscale that is stored with more than 8: 12 scales 0 to
            4095, as many cameras and scanners have it, to 0 to 255.
    """

    size: int
    resize: str = "crop"
    background: str = "white"
    max_pixels: int = MAX_PIXELS
    depth: int = 16


@dataclass(frozen=True)
class DecodeResult:
    """All but the pixels of some decoded images."""

    ids: npt.NDArray[np.int64]  # (N,), of a black square where there is an error
    sizes: npt.NDArray[np.int32]  # (N, 2): width and height before resizing
    peaks: npt.NDArray[np.int32]  # (N,): highest value of greyscale of more than 8 bits, else -1
    extremes: npt.NDArray[np.uint8]  # (N, 2): lowest and highest value of the square
    errors: dict[int, str]
    """By row, why the image cannot be decoded: a clause that goes on after its location."""


def decode(data: Data, location: str, decoding: Decoding) -> npt.NDArray[np.uint8]:
    """One image as (S, S, 3) pixels.

    Raises:
        ArgumentError: it cannot be decoded; begins with its location, such as a file.
    """
    pixels, result = decode_many([data], decoding)
    if result.errors:
        raise ArgumentError(f"{location} {result.errors[0]}")
    square: npt.NDArray[np.uint8] = pixels[0]
    return square


def decode_many(
    items: Sequence[Data], decoding: Decoding
) -> tuple[npt.NDArray[np.uint8], DecodeResult]:
    """Several images as pixels (N, S, S, 3), zeros where there is an error."""
    side = decoding.size
    blank = bytes(3 * side * side)
    squares, sizes, peaks = [], [], []
    errors: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about what it reads all the same
        for row, data in enumerate(items):
            try:
                image, size, peak = _decode(data, decoding)
                square = image.tobytes()
            except Exception as error:  # damaged files make Pillow raise anything
                square, size, peak = blank, (0, 0), -1
                errors[row] = _reason(error)
            squares.append(square)
            sizes.append(size)
            peaks.append(peak)
    ids = np.array([image_id(square) for square in squares], np.int64)
    pixels = np.frombuffer(b"".join(squares), np.uint8).reshape(-1, side, side, 3)
    flat = pixels.reshape(-1, 3 * side * side)
    extremes = np.stack([flat.min(1), flat.max(1)], 1)
    shape = np.array(sizes, np.int32).reshape(-1, 2)
    return pixels, DecodeResult(ids, shape, np.array(peaks, np.int32), extremes, errors)


def decode_into(path: Path, start: int, items: Sequence[Data], decoding: Decoding) -> DecodeResult:
    """Decode into an existing file of pixels, from its image number `start` on."""
    pixels, result = decode_many(items, decoding)
    with path.open("r+b") as file:
        file.seek(start * 3 * decoding.size * decoding.size)
        file.write(pixels.data)
    return result


def pixel_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64-bit id of one image (S, S, 3): BLAKE2b of its pixels, as a signed integer."""
    return image_id(pixels.tobytes())


def prepare_worker() -> None:
    """Initialise a worker process: the parent handles Ctrl-C; modules are no garbage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    gc.freeze()


def _exit_with_parent() -> None:
    """End a worker whose parent was killed, which would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode(data: Data, decoding: Decoding) -> tuple[Image.Image, tuple[int, int], int]:
    """Square, width and height before, and highest value of greyscale of more than 8 bits."""
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
        size = image.size
    else:
        raw = read_bytes(data) if isinstance(data, Path) else data
        image, size = load(raw, decoding.max_pixels, partial(_minimal_size, decoding))
    peak = -1
    if image.mode.startswith("I") or image.mode == "F":
        image, peak = _to_eight_bits(image, decoding.depth)
    return _to_square(_to_rgb(image, decoding.background), decoding), size, peak


def _minimal_size(decoding: Decoding, size: tuple[int, int]) -> tuple[int, int]:
    """The least width and height from which the square still has its full quality."""
    gap = REDUCING_GAP * decoding.size
    if decoding.resize != "pad":
        return round(gap), round(gap)
    scale = gap / max(size)
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Any mode of 8 bits as RGB; transparency is laid over `background`."""
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(image: Image.Image, depth: int) -> tuple[Image.Image, int]:
    """Greyscale of `depth` bits, or of real numbers (0 to 1), as 0 to 255; and its highest value.

    The highest value is -1 for real numbers.
    """
    values = np.asarray(image).astype(np.float32)
    real = image.mode == "F"
    top = 1 if real else 2**depth - 1
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):
        reason = "" if real or depth == 16 else f" (`depth` is {depth})"
        raise UnusableImageError(
            f"holds values from {low:g} to {high:g}; a greyscale image of mode {image.mode} must "
            f"hold 0 to {top}{reason}"
        )
    values *= 255 / top
    eight = Image.fromarray(np.rint(values, out=values).astype(np.uint8))
    return eight, -1 if real else int(high)


def _to_square(image: Image.Image, decoding: Decoding) -> Image.Image:
    (width, height), size = image.size, decoding.size
    if width == height == size:
        return image
    cubic = Image.Resampling.BICUBIC
    if decoding.resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return image.resize((size, size), cubic, box, REDUCING_GAP)
    if decoding.resize == "squash":
        return image.resize((size, size), cubic, None, REDUCING_GAP)
    scale = size / max(width, height)
    inner = (max(1, round(scale * width)), max(1, round(scale * height)))
    ground = Image.new("RGB", (size, size), decoding.background)
    corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
    ground.paste(image.resize(inner, cubic, None, REDUCING_GAP), corner)
    return ground


def _reason(error: Exception) -> str:
    if isinstance(error, UnusableImageError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, Image.DecompressionBombError):
        return "has more pixels than can be read, and more than `max_pixels`"
    reason = " ".join(str(error).split()) or type(error).__name__
    if "BytesIO" in reason:  # Pillow names its argument, which no user knows
        reason = f"it is none of {', '.join(FORMATS)}"
    return f"is no image that can be read: {shortened(printable(reason), MAX_CHARACTERS)}"
