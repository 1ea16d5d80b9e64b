"""From an image file of any kind to a square of RGB pixels.

This module imports nothing of ours but `errors`, and nothing heavy: worker
processes load it. Whatever Pillow finds wrong with an image becomes a sentence.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import gc
import hashlib
import io
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from rapipe.errors import UserError

Data = bytes | npt.NDArray[np.uint8] | Path
"""An encoded image, pixels (H, W) or (H, W, 3), or a file to read."""

FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"),
    *("AVIF", "JPEG2000", "TGA", "ICO"),
)
"""What Pillow may read: formats that hold pixels. It also knows some that run programs (EPS)."""

MOST_PIXELS = 178_956_970
"""Above this Pillow refuses an image by itself."""

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
    gc.freeze()


class _Refused(Exception):
    """An image that could be decoded but must not be; the message ends the sentence."""


def _decode(data: Data, decoding: Decoding) -> tuple[Image.Image, tuple[int, int]]:
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
        size = image.size
    else:
        raw = data.read_bytes() if isinstance(data, Path) else data
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        size = image.size
        width, height = size
        if width * height > decoding.max_pixels:
            raise _Refused(
                f"has {width} x {height} = {width * height} pixels, more than "
                f"corpus.max_pixels, {decoding.max_pixels}"
            )
        if image.format == "JPEG" and max(size) > REDUCING_GAP * decoding.size:
            image.draft(None, _enough(size, decoding))  # JPEG decodes to a fraction much faster
        image.load()
        if not ORIENTED.isdisjoint(image.info):
            image = _upright(image)
    return _square(_rgb(image, decoding.background), decoding), size


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
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


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
    reason = " ".join(str(error).split()) or type(error).__name__
    if "BytesIO" in reason:  # Pillow names its argument, which tells a user nothing
        reason = f"it is none of {', '.join(FORMATS)}"
    return f"is no image that can be read: {reason}"
