"""Formats of images, told by the suffix; under any other suffix, or none, by the content."""

from __future__ import annotations

import re
from collections.abc import Callable

SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".ico"),
        *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".tga", ".icb", ".vda", ".vst"),
    )
)
"""Suffixes of images."""

UNREADABLE_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".psb", ".xcf", ".eps", ".raw"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr", ".dcm"),
    )
)
"""Suffixes of images that must be converted first."""

HEAD = 192
"""First bytes of a file that tell its format."""
FORMATS = {
    "": re.compile(
        rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM.{12}[\x0c(4@8l|]\0\0\0"
        rb"|(II|MM)(\*\0|\0\*|\+\0|\0\+)|P[1-6]\s+(#.*?\n\s*)*\d+\s+\d+\s|.{4}ftypavi[fs]"
        rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|\0\0\x01\0[\x01-\x20]\0.{3}\0[\0\x01]\0",
        re.DOTALL,
    ),
    "HEIC": re.compile(rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\n|\0\0\0\x0cJXL \r\n\x87\n"),
    "Photoshop": re.compile(rb"8BPS\0"),
    "DICOM": re.compile(rb".{128}DICM", re.DOTALL),
    "OpenEXR": re.compile(rb"v/1\x01"),
    "Radiance HDR": re.compile(rb"#\?R(ADIANC|GB)E"),
    "GIMP": re.compile(rb"gimp xcf "),
    "PostScript": re.compile(rb"%!PS-|\xc5\xd0\xd3\xc6"),
    "SVG": re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg\b"),
    "camera raw": re.compile(rb".{4}ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR", re.DOTALL),
}
"""First bytes of formats; those under "" can be read."""


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot; or ""."""
    stem, dot, end = name.rpartition(".")
    return f".{end.lower()}" if dot and stem and not stem.endswith("/") else ""


def image_error(name: str, head: Callable[[], bytes]) -> str | None:
    """Why an image cannot be used, as a clause; "" if it can, and None if it is no image.

    Args:
        name: of the file.
        head: gives its first `HEAD` bytes; called only if the suffix does not tell.
    """
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        return ""
    if suffix in UNREADABLE_SUFFIXES:
        return f"is a {suffix} file, which cannot be read: convert it to PNG or JPEG"
    try:
        first = head()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    name_of_format = format_of(first)
    return name_of_format and (
        f"holds an image of the format {name_of_format}, which cannot be read: convert it to PNG "
        "or JPEG"
    )


def format_of(head: bytes) -> str | None:
    """The format of an image by its first bytes: "" if it can be read; None if it is no image."""
    return next((name for name, pattern in FORMATS.items() if pattern.match(head)), None)
