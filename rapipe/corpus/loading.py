"""From the bytes of an image file to the pixels in them, upright, in any mode.

Pillow decodes all formats but JPEG. Its JPEG decoder fills missing pixels with grey, and does not
tell; simplejpeg has the same library, so the same pixels, and tells what it warns about. Other
formats in which Pillow passes over damage are checked with `encoded`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from simplejpeg import decode_jpeg

from rapipe.corpus import encoded
from rapipe.corpus.formats import HEAD, format_of
from rapipe.io.placeholders import placeholder

Size = tuple[int, int]
"""Width and height."""
Least = Callable[[Size], Size]

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

TILE_WIDTH, TILE_LENGTH, PLANES, COMPRESSION, JPEG_TABLES = 322, 323, 284, 259, 347
STRIPS = ((273, 279), (324, 325))
"""Tags of TIFF; those of the offsets and lengths of strips and tiles."""

MARK = 90
"""A value that few images have in their last pixel."""

JPEG_MODES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
DAMAGE = ("Corrupt", "Premature")
"""How warnings of the JPEG decoder about pixels begin; others are about metadata."""

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

CHECKS: dict[str, Callable[[bytes], None]] = {
    "GIF": encoded.check_gif,
    "AVIF": encoded.check_avif,
    "JPEG2000": encoded.check_jpeg2000,
}
"""By format, what Pillow does not check."""


class UnusableImageError(Exception):
    """An image that must not be decoded; the message is a clause of `DecodeResult.errors`."""


def load(raw: bytes, max_pixels: int, least: Least) -> tuple[Image.Image, Size]:
    """An image of any mode, upright, and its size before it was reduced.

    Args:
        max_pixels: a larger image is not decoded.
        least: the width and height, for those of the image, to which it may be reduced.

    Raises:
        UnusableImageError: it is too large, takes too long, or parts of it are missing.
        Exception: whatever Pillow raises for damage.
    """
    try:
        return _load(encoded.pixel_data(raw), max_pixels, least)
    except UnusableImageError:
        raise
    except Exception as error:
        first = error
    bare = _without_metadata(raw)
    if bare is raw:
        raise first
    try:
        return _load(bare, max_pixels, least)
    except Exception:  # then it is not the metadata that are damaged
        raise first from None


def _without_metadata(raw: bytes) -> bytes:
    try:
        return encoded.without_metadata(raw)
    except (ValueError, IndexError, struct.error):
        return raw


def _open(raw: bytes) -> ImageFile.ImageFile:
    """The header of an image, or what the file is in its place."""
    try:
        return Image.open(io.BytesIO(raw), formats=FORMATS)
    except UnidentifiedImageError:
        if clause := placeholder(raw):
            raise UnusableImageError(f"is no image that can be read: it {clause}") from None
        if name := format_of(raw[:HEAD]):
            raise UnusableImageError(
                f"is no image that can be read: it is none of {', '.join(FORMATS)}, but {name}: "
                "convert it to PNG or JPEG"
            ) from None
        raise


def _load(raw: bytes, max_pixels: int, least: Least) -> tuple[Image.Image, Size]:
    image = _open(raw)
    pixels: Image.Image | None = None
    size = image.size
    _check_limits(image, raw, max_pixels)
    if image.format in CHECKS:
        CHECKS[image.format](raw)
    if image.format == "JPEG" and max(size) > max(least(size)):
        image.draft(None, least(size))  # JPEG decodes to a fraction much faster
    if image.format in ("JPEG", "MPO"):
        pixels = _jpeg_pixels(image, raw)
    if pixels is None:
        _mark_last_pixel(image)
        image.decodermaxblock = max(image.decodermaxblock, len(raw))  # `encoded` says why
        with _pixel_limit(max_pixels), _silenced(image):
            image.load()
        pixels = image
    _check_pixels(image, raw)
    if not ORIENTED.isdisjoint(image.info) and (turn := _turn(image)) is not None:
        pixels = pixels.transpose(turn)
    return pixels, size


def _jpeg_pixels(image: Image.Image, raw: bytes) -> Image.Image | None:
    """A JPEG as large as the opened image; None where only Pillow may be able to decode it.

    Raises:
        ValueError: the decoder warns about damaged or missing pixels.
    """
    if image.mode not in JPEG_MODES:
        return None
    if "progressive" in image.info:
        encoded.check_scans(raw)
    try:
        return _decode_jpeg(image, raw)
    except ValueError:
        bare = _without_metadata(raw)  # the warning may be about metadata
    try:
        return _decode_jpeg(image, bare)
    except ValueError as error:
        if str(error).startswith(DAMAGE):
            raise
    return None


def _decode_jpeg(image: Image.Image, raw: bytes) -> Image.Image:
    width, height = image.size
    pixels = decode_jpeg(raw, JPEG_MODES[image.mode], min_height=height, min_width=width)
    if pixels.shape[:2] != (height, width):
        raise ValueError("decoders disagree on the size")
    if image.mode == "CMYK":  # Adobe writes it inverted, and all others as Adobe
        return Image.frombytes("CMYK", image.size, np.invert(pixels).tobytes())
    return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels)


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file; others, such as pipes, may have no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UnusableImageError("cannot be read: it is no regular file")
    if status.st_size > MAX_BYTES:
        raise UnusableImageError(
            f"has {status.st_size:,} bytes, more than any image that is decoded"
        )
    return path.read_bytes()


def _check_limits(image: Image.Image, raw: bytes, max_pixels: int) -> None:
    """Refuse what takes too long to decode, and what decoders would fill up."""
    width, height = image.size
    if width * height > max_pixels:
        raise UnusableImageError(
            f"has {width} x {height} = {width * height} pixels, more than `max_pixels`, "
            f"{max_pixels}"
        )
    jpeg = image.format in ("JPEG", "MPO")
    if jpeg and raw.count(b"\xff\xda") > MAX_SCANS < encoded.scan_count(raw):  # or in metadata
        count = f"more than {MAX_SCANS} scans"
        raise UnusableImageError(f"is a JPEG of {count}, which would take too long")
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        if tags.get(TILE_WIDTH, 1) * tags.get(TILE_LENGTH, 1) > max_pixels:
            raise UnusableImageError(f"has tiles of more pixels than `max_pixels`, {max_pixels}")
        if image.tile and image.tile[0].codec_name == "raw":
            boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
            covered = sum((right - left) * (end - top) for left, top, right, end in boxes)
            planes = len(image.getbands()) if tags.get(PLANES) == 2 else 1
            if covered < width * height * planes:
                raise UnusableImageError("is no image that can be read: parts of it are missing")


def _mark_last_pixel(image: ImageFile.ImageFile) -> None:
    """Set the last pixel of a PNG: if it is the same afterwards, rows were probably missing.

    To count the compressed rows takes half as long as to decode them.
    """
    if image.format == "PNG" and "interlace" not in image.info:
        image.load_prepare()
        image.im.putpixel(_last_pixel(image), _mark(image))


def _last_pixel(image: Image.Image) -> Size:
    return image.width - 1, image.height - 1


def _mark(image: Image.Image) -> Any:
    if image.mode == "1":
        return 255
    bands = len(image.getbands())
    return MARK if bands == 1 else (MARK,) * bands


def _check_pixels(image: Image.Image, raw: bytes) -> None:
    """Refuse a loaded image whose decoder has filled up what is missing."""
    if image.format == "PNG":
        if "interlace" in image.info or image.getpixel(_last_pixel(image)) == _mark(image):
            encoded.check_png_rows(raw)
    elif image.format == "WEBP" and (fewer := encoded.webp_with_fewer_zeros(raw)):
        with suppress(OSError):
            Image.open(io.BytesIO(fewer), formats=["WEBP"]).load()
            raise ValueError("the end of its pixels is zeros, as if it was never written")
    elif isinstance(image, TiffImageFile) and (compression := image.tag_v2.get(COMPRESSION)):
        for offsets, lengths in STRIPS:
            for strip in _slices(raw, image.tag_v2.get(offsets), image.tag_v2.get(lengths)):
                if compression in (8, 32946):
                    encoded.check_deflated(strip)
                elif compression == 7:
                    tables = image.tag_v2.get(JPEG_TABLES, b"")
                    _check_jpeg_strip(tables[:-2] + strip[2:] if tables else strip)


def _slices(raw: bytes, offsets: object, lengths: object) -> Iterator[bytes]:
    if isinstance(offsets, tuple) and isinstance(lengths, tuple):
        for offset, length in zip(offsets, lengths, strict=False):
            yield raw[offset : offset + length]


def _check_jpeg_strip(strip: bytes) -> None:
    """Refuse what the JPEG decoder warns about; at an eighth of its size it is fast."""
    try:
        decode_jpeg(strip, "GRAY", min_height=1, min_width=1)
    except ValueError as error:
        if str(error).startswith(DAMAGE):
            raise


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


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright, as its EXIF data say; damage elsewhere in them is no matter."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF makes Pillow raise anything, and the pixels are still good
        return None
