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

from rapipe.errors import UserError, printable, shortened

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes lines to stderr

Data = bytes | npt.NDArray[np.uint8] | Path
"""An encoded image, pixels (H, W) or (H, W, 3), or a file to read."""

FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"),
    *("AVIF", "JPEG2000", "TGA", "ICO"),
)
"""What Pillow may read: formats that hold pixels. It also knows some that run programs (EPS)."""

MOST_PIXELS = 178_956_970
"""Above this Pillow refuses an image by itself."""

MOST_BYTES = 1 << 30
"""A larger file is not read: so many pixels of three channels of 16 bits are no larger."""

MOST_SCANS = 100
"""Of a JPEG, each of which takes time for the whole image; others have some ten."""

MOST_LETTERS = 300
"""Of what Pillow says about a damaged file, which may quote much of it."""

TILE_WIDTH, TILE_LENGTH, PLANES = 322, 323, 284
"""Tags of TIFF."""

ORIENTED = frozenset(("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"))
"""Where images say which side is up; Pillow turns TIFF by itself. To look there takes time."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the value of its EXIF orientation."""

REDUCING_GAP = 2.0
"""Large images are first reduced by a whole factor, to no less than this times the final size."""


@dataclass(frozen=True)
class Decoding:
    """How images become squares.

    `crop` keeps the centre, `squash` ignores the aspect, and `pad` shrinks the
    whole image onto the background; transparent images stand on it too.
    """

    size: int
    resize: str = "crop"
    background: str = "white"
    max_pixels: int = MOST_PIXELS


@dataclass(frozen=True)
class Found:
    """What was found while decoding some images; one without an id has an error."""

    ids: npt.NDArray[np.int64]  # (N,)
    sizes: npt.NDArray[np.int32]  # (N, 2): width and height before resizing
    errors: dict[int, str]
    """By row, why it cannot be decoded, as the rest of a sentence about its place."""


def decode(data: Data, where: str, decoding: Decoding) -> npt.NDArray[np.uint8]:
    """One image as (S, S, 3) pixels.

    Raises:
        UserError: it cannot be decoded; names `where` it is.
    """
    pixels, found = decode_many([data], decoding)
    if found.errors:
        raise UserError(f"{where} {found.errors[0]}")
    one: npt.NDArray[np.uint8] = pixels[0]
    return one


def decode_many(items: Sequence[Data], decoding: Decoding) -> tuple[npt.NDArray[np.uint8], Found]:
    """Images one after the other: pixels (N, S, S, 3), zeros where there is an error."""
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
                errors[row] = _sentence(error)
    ids = np.array([_hash(own) for own in pixels], np.int64)
    found = Found(ids, np.array(sizes, np.int32).reshape(-1, 2), errors)
    return np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, side, side, 3), found


def decode_into(path: Path, start: int, items: Sequence[Data], decoding: Decoding) -> Found:
    """Decode into a file of pixels that exists, from its image number `start` on."""
    pixels, found = decode_many(items, decoding)
    with path.open("r+b") as file:
        file.seek(start * 3 * decoding.size * decoding.size)
        file.write(pixels.data)
    return found


def pixel_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64-bit id of one image (S, S, 3): BLAKE2b of its pixels, as a signed integer."""
    return _hash(pixels.tobytes())


def _hash(pixels: bytes) -> int:
    digest = hashlib.blake2b(pixels, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def prepare_worker() -> None:
    """For worker processes: Ctrl-C is the parent's to handle, and modules are no garbage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, which would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Refused(Exception):
    """An image that could be decoded but must not be; the message ends the sentence."""


def _decode(data: Data, decoding: Decoding) -> tuple[Image.Image, tuple[int, int]]:
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
        size = image.size
    else:
        raw = _content(data) if isinstance(data, Path) else data
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        size = image.size
        _check(image, raw, decoding.max_pixels)
        if image.format == "JPEG" and max(size) > REDUCING_GAP * decoding.size:
            image.draft(None, _enough(size, decoding))  # JPEG decodes to a fraction much faster
        with _no_more_than(decoding.max_pixels), _quietly(image):
            image.load()
        if not ORIENTED.isdisjoint(image.info):
            image = _upright(image)
    return _square(_rgb(image, decoding.background), decoding), size


def _content(path: Path) -> bytes:
    """The bytes of a regular file; others may have no end."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise _Refused("cannot be read: it is no regular file")
    if facts.st_size > MOST_BYTES:
        raise _Refused(f"has {facts.st_size:,} bytes, more than any image that is decoded")
    return path.read_bytes()


def _check(image: Image.Image, raw: bytes, most: int) -> None:
    """Refuse what would take too much to decode, and what Pillow would fill up with zeros."""
    width, height = image.size
    if width * height > most:
        raise _Refused(
            f"has {width} x {height} = {width * height} pixels, more than corpus.max_pixels, {most}"
        )
    if image.format in ("JPEG", "MPO") and raw.count(b"\xff\xda") > MOST_SCANS:
        raise _Refused(f"is a JPEG of more than {MOST_SCANS} scans, which would take too long")
    if image.format == "JPEG2000" and b"\xff\xd9" not in raw:
        raise _Refused("is no image that can be read: its end is missing")
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        if tags.get(TILE_WIDTH, 1) * tags.get(TILE_LENGTH, 1) > most:
            raise _Refused(f"has tiles of more pixels than corpus.max_pixels, {most}")
        if image.tile and image.tile[0].codec_name == "raw":
            boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
            covered = sum((right - left) * (end - top) for left, top, right, end in boxes)
            planes = len(image.getbands()) if tags.get(PLANES) == 2 else 1
            if covered < width * height * planes:
                raise _Refused("is no image that can be read: parts of it are missing")


@contextmanager
def _no_more_than(pixels: int) -> Iterator[None]:
    """Refuse images inside of images (ICO has some) that are larger."""
    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels // 2  # Pillow refuses twice that
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def _quietly(image: Image.Image) -> Iterator[None]:
    """The library that reads TIFF writes lines about damage to stderr, beside our sentence."""
    if not isinstance(image, TiffImageFile):
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says; what else EXIF holds does not matter, nor whether it can be read."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF makes Pillow raise anything, and the pixels are still good
        return image
    return image if turn is None else image.transpose(turn)


def _enough(size: tuple[int, int], decoding: Decoding) -> tuple[int, int]:
    """The least width and height from which the square can still be made well."""
    gap = REDUCING_GAP * decoding.size
    if decoding.resize != "pad":
        return round(gap), round(gap)
    scale = gap / max(size)
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _rgb(image: Image.Image, background: str) -> Image.Image:
    """Any mode as RGB; deep greyscale is scaled down, and transparency laid over `background`."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits (0 to 65535) or of real numbers (0 to 1) as 0 to 255."""
    values = np.asarray(image).astype(np.float32)
    top = 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= top):
        raise _Refused(
            f"holds values from {values.min():g} to {values.max():g}; a greyscale image of mode "
            f"{image.mode} must hold 0 to {top}"
        )
    values *= 255 / top
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))


def _square(image: Image.Image, decoding: Decoding) -> Image.Image:
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


def _sentence(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, Image.DecompressionBombError):
        return "has more pixels than can be read, and more than corpus.max_pixels"
    reason = " ".join(str(error).split()) or type(error).__name__
    if "BytesIO" in reason:  # Pillow names its argument, which tells a user nothing
        reason = f"it is none of {', '.join(FORMATS)}"
    return f"is no image that can be read: {shortened(printable(reason), MOST_LETTERS)}"
