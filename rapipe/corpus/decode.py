"""From an image file of any kind to a square of RGB pixels.

This module imports nothing of ours but `errors`, and nothing heavy: worker
processes load it. Whatever Pillow finds wrong with an image becomes a sentence.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import gc
import hashlib
import io
import logging
import os
import signal
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from rapipe.errors import ArgumentError, printable, shortened

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes lines to stderr

Data = bytes | npt.NDArray[np.uint8] | Path
"""An encoded image, pixels (H, W) or (H, W, 3), or a file."""

FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"),
    *("AVIF", "JPEG2000", "TGA", "ICO"),
)
"""Formats that Pillow may read: those of pixels. It also knows some that run programs (EPS)."""

MAX_PIXELS = 178_956_970
"""Pillow itself refuses a larger image."""

MAX_BYTES = 1 << 30
"""A larger file is not read: `MAX_PIXELS` of three channels of 16 bits are no larger."""

MAX_SCANS = 100
"""Scans of a JPEG, each of which takes time for all pixels; usual files have about ten."""

MAX_CHARACTERS = 300
"""Of a message of Pillow about a damaged file, which may quote much of it."""

TILE_WIDTH, TILE_LENGTH, PLANES = 322, 323, 284
"""Tags of TIFF."""

ORIENTED = frozenset(("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"))
"""Where images keep their orientation, which takes time to parse; Pillow itself turns TIFF."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by its EXIF orientation."""

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
    """

    size: int
    resize: str = "crop"
    background: str = "white"
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class DecodeResult:
    """All but the pixels of some decoded images."""

    ids: npt.NDArray[np.int64]  # (N,), of a black square where there is an error
    sizes: npt.NDArray[np.int32]  # (N, 2): width and height before resizing
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
    pixels, sizes = [], []
    errors: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about what it reads all the same
        for row, data in enumerate(items):
            try:
                image, size = _decode(data, decoding)
                pixels.append(image.tobytes())
                sizes.append(size)
            except Exception as error:  # damaged files make Pillow raise anything
                pixels.append(blank)
                sizes.append((0, 0))
                errors[row] = _reason(error)
    ids = np.array([_hash(square) for square in pixels], np.int64)
    result = DecodeResult(ids, np.array(sizes, np.int32).reshape(-1, 2), errors)
    return np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, side, side, 3), result


def decode_into(path: Path, start: int, items: Sequence[Data], decoding: Decoding) -> DecodeResult:
    """Decode into an existing file of pixels, from its image number `start` on."""
    pixels, result = decode_many(items, decoding)
    with path.open("r+b") as file:
        file.seek(start * 3 * decoding.size * decoding.size)
        file.write(pixels.data)
    return result


def pixel_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64-bit id of one image (S, S, 3): BLAKE2b of its pixels, as a signed integer."""
    return _hash(pixels.tobytes())


def _hash(pixels: bytes) -> int:
    digest = hashlib.blake2b(pixels, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


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


class _Unusable(Exception):
    """An image that must not be decoded; the message is a clause of `DecodeResult.errors`."""


def _decode(data: Data, decoding: Decoding) -> tuple[Image.Image, tuple[int, int]]:
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
        size = image.size
    else:
        raw = _read_bytes(data) if isinstance(data, Path) else data
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        size = image.size
        _check_limits(image, raw, decoding.max_pixels)
        if image.format == "JPEG" and max(size) > REDUCING_GAP * decoding.size:
            image.draft(
                None, _minimal_size(size, decoding)
            )  # JPEG decodes to a fraction much faster
        with _pixel_limit(decoding.max_pixels), _silenced(image):
            image.load()
        if not ORIENTED.isdisjoint(image.info):
            image = _to_upright(image)
    return _to_square(_to_rgb(image, decoding.background), decoding), size


def _read_bytes(path: Path) -> bytes:
    """The bytes of a regular file; others, such as pipes, may have no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise _Unusable("cannot be read: it is no regular file")
    if status.st_size > MAX_BYTES:
        raise _Unusable(f"has {status.st_size:,} bytes, more than any image that is decoded")
    return path.read_bytes()


def _check_limits(image: Image.Image, raw: bytes, max_pixels: int) -> None:
    """Refuse what takes too long to decode, and what Pillow would fill up with zeros."""
    width, height = image.size
    if width * height > max_pixels:
        raise _Unusable(
            f"has {width} x {height} = {width * height} pixels, more than `max_pixels`, "
            f"{max_pixels}"
        )
    if image.format in ("JPEG", "MPO") and raw.count(b"\xff\xda") > MAX_SCANS:
        raise _Unusable(f"is a JPEG of more than {MAX_SCANS} scans, which would take too long")
    if image.format == "JPEG2000" and b"\xff\xd9" not in raw:
        raise _Unusable("is no image that can be read: its end is missing")
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        if tags.get(TILE_WIDTH, 1) * tags.get(TILE_LENGTH, 1) > max_pixels:
            raise _Unusable(f"has tiles of more pixels than `max_pixels`, {max_pixels}")
        if image.tile and image.tile[0].codec_name == "raw":
            boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
            covered = sum((right - left) * (end - top) for left, top, right, end in boxes)
            planes = len(image.getbands()) if tags.get(PLANES) == 2 else 1
            if covered < width * height * planes:
                raise _Unusable("is no image that can be read: parts of it are missing")


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Let Pillow refuse larger images inside of images, as ICO may contain."""
    default = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels // 2  # Pillow refuses twice that
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = default


@contextmanager
def _silenced(image: Image.Image) -> Iterator[None]:
    """Discard what the library that reads TIFF writes to stderr about damage."""
    if not isinstance(image, TiffImageFile):
        yield
        return
    with Path(os.devnull).open("wb") as null:
        stderr = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _to_upright(image: Image.Image) -> Image.Image:
    """The image turned upright as its EXIF data say; damage elsewhere in them does not matter."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF makes Pillow raise anything, and the pixels are still good
        return image
    return image if turn is None else image.transpose(turn)


def _minimal_size(size: tuple[int, int], decoding: Decoding) -> tuple[int, int]:
    """The least width and height from which the square still has its full quality."""
    gap = REDUCING_GAP * decoding.size
    if decoding.resize != "pad":
        return round(gap), round(gap)
    scale = gap / max(size)
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Any mode as RGB: greyscale of more bits is scaled, transparency laid over `background`."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits (0 to 65535) or of real numbers (0 to 1) as 0 to 255."""
    values = np.asarray(image).astype(np.float32)
    top = 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= top):
        raise _Unusable(
            f"holds values from {values.min():g} to {values.max():g}; a greyscale image of mode "
            f"{image.mode} must hold 0 to {top}"
        )
    values *= 255 / top
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


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
    if isinstance(error, _Unusable):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, Image.DecompressionBombError):
        return "has more pixels than can be read, and more than `max_pixels`"
    reason = " ".join(str(error).split()) or type(error).__name__
    if "BytesIO" in reason:  # Pillow names its argument, which no user knows
        reason = f"it is none of {', '.join(FORMATS)}"
    return f"is no image that can be read: {shortened(printable(reason), MAX_CHARACTERS)}"
