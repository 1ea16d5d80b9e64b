"""The parts of an encoded image that hold its pixels, and whether they are intact.

Two promises. Damage to metadata, and whatever lies behind the end of an image, are no reason to
refuse its pixels: `pixel_data` and `without_metadata` leave them out. And damaged pixels are
never taken for good ones: checksums, lengths and ends are checked here where Pillow does not.
JPEG, WebP, AVIF, JPEG 2000, GIF and everything uncompressed have no checksums, so that a changed
byte may show as a changed pixel, and nobody can know.

All functions raise ValueError, with a clause as message, for damage.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from struct import Struct, pack, unpack_from

PNG = b"\x89PNG\r\n\x1a\n"
ICO = b"\0\0\1\0"
JPEG = b"\xff\xd8\xff"
JP2 = b"\0\0\0\x0cjP  "

CHUNK_HEAD = Struct(">I4s")
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
"""Chunks of a PNG that decide its pixels."""
ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Texts of a PNG that may say which side is up, as `eXIf` does."""
PASSES = (
    *((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2)),
    (0, 1, 1, 2),
)
"""Of an interlaced PNG: first column, step of columns, first row, step of rows."""
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel of a PNG, by its colour type."""

FRAMES = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDB, 0xDD))
"""Markers of a JPEG that its pixels depend on, up to the first scan: frames and tables."""
SCAN, END = 0xDA, 0xD9
MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""Of a JPEG; inside a scan, 0 and the markers of restarts follow its other bytes of 255."""
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
EXIF = b"Exif\0\0"

ZEROS = 32
"""Zeros at the end of compressed pixels that look like a part of the file never written."""


def pixel_data(raw: bytes) -> bytes:
    """What to decode of a file: a PNG without other chunks, also out of an icon."""
    if raw.startswith(ICO):
        raw = _largest_icon(raw)
    return _bare_png(raw, True) if raw.startswith(PNG) else raw


def without_metadata(raw: bytes) -> bytes:
    """What to decode where `pixel_data` could not be: as little as the pixels need.

    The same bytes where nothing can be left out.
    """
    if raw.startswith(PNG):
        return _bare_png(raw, False)
    if raw.startswith(JPEG):
        return _bare_jpeg(raw)
    if raw.startswith((b"GIF87a", b"GIF89a")):
        return _bare_gif(raw)
    if raw.startswith(b"RIFF"):
        return _bare_webp(raw)
    return _bare_jp2(raw) if raw.startswith(JP2) else raw


# PNG and ICO


def _png_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each complete chunk."""
    at, last = len(PNG), len(raw) - 12
    while at <= last:
        length, name = CHUNK_HEAD.unpack_from(raw, at)
        if at + length > last:
            return
        yield name, at + 8, at + 8 + length
        at += 12 + length


def _bare_png(raw: bytes, oriented: bool) -> bytes:
    """A PNG of the chunks that its pixels need, and with `oriented` those on its orientation.

    All compressed pixels are in one chunk, so that the decoder sees their end, and the checksum
    there, together with the last row.
    """
    head, orientation, pixels, others = [], [], [], 0
    view = memoryview(raw)
    for name, start, end in _png_chunks(raw):
        intact = zlib.crc32(view[start - 4 : end]) == int.from_bytes(raw[end : end + 4], "big")
        if name in NEEDED:
            if not intact:
                raise ValueError(f"the checksum of its {name.decode()} chunk is wrong")
            if name == b"IDAT":
                pixels.append(view[start:end])
            elif not pixels:
                head.append(view[start - 8 : end + 4])
        elif name == b"IEND":
            others += not intact
            break
        elif intact and (name == b"eXIf" or (oriented and raw.startswith(ORIENTED, start))):
            orientation.append(view[start - 8 : end + 4])
        else:
            others += 1
    else:
        others += 1  # its end is missing
    if not pixels:
        raise ValueError("its pixels are missing, or it is cut before their first checksum")
    if len(pixels) == 1 and not others and not orientation:
        return raw
    chunks = (_png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND", b""))
    return b"".join((PNG, *head, *orientation, *chunks))


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return pack(">I", len(content)) + name + content + pack(">I", checksum)


def check_png_rows(raw: bytes) -> None:
    """Whether a PNG of `pixel_data` has all rows; takes about as long as to decode it."""
    chunks = {name: (start, end) for name, start, end in _png_chunks(raw)}
    width, height, depth, colour, *_, interlaced = unpack_from(">IIBBBBB", raw, chunks[b"IHDR"][0])
    bits = depth * SAMPLES[colour]
    expected = 0
    for left, across, top, down in PASSES if interlaced else ((0, 1, 0, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        expected += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    start, end = chunks[b"IDAT"]
    length = len(zlib.decompressobj().decompress(raw[start:end], expected))
    if length < expected:
        raise ValueError(f"its pixels end early, after {length:,} of {expected:,} bytes")


def _largest_icon(raw: bytes) -> bytes:
    """The PNG that is the largest picture of an icon; the icon if that is none."""
    entries = []
    for at in range(6, 6 + 16 * unpack_from("<H", raw, 4)[0] if len(raw) > 6 else 0, 16):
        if at + 16 > len(raw):
            return raw
        width, height, colours, _, _, depth, _, start = unpack_from("<BBBBHHII", raw, at)
        depth = depth or (colours - 1).bit_length() * bool(colours) or 256
        entries.append((-(width or 256) * (height or 256), depth, at, start))
    start = min(entries)[-1] if entries else 0
    return raw[start:] if raw.startswith(PNG, start) else raw


# JPEG


def _jpeg_segments(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of the first image, scans with their pixels."""
    at = 2
    while match := MARKER.search(raw, at):
        marker, start = match[1][0], match.end() - 2
        if marker == END:
            yield marker, start, start + 2
            return
        end = match.end()
        if marker != 1 and marker != 0xD8:
            end += int.from_bytes(raw[end : end + 2], "big")
        if marker == SCAN:
            after = MARKER.search(raw, end)
            end = after.start() if after else len(raw)
        yield marker, start, end
        at = max(end, match.end())


def scan_count(raw: bytes) -> int:
    """Scans of the first image of a JPEG, each of which takes time for all pixels."""
    return sum(marker == SCAN for marker, _, _ in _jpeg_segments(raw))


def _bare_jpeg(raw: bytes) -> bytes:
    """Tables, frame and scans of a JPEG, and what says how to read its colours and turn it."""
    parts = [raw[:2]]
    for marker, start, end in _jpeg_segments(raw):
        content = raw[start + 4 : end]
        if marker == SCAN:
            parts.append(raw[start:])
            break
        if marker == 0xE0 and content.startswith(b"JFIF\0"):
            parts.append(JFIF)
        elif (
            marker in FRAMES
            or (marker == 0xE1 and content.startswith(EXIF))
            or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12)
        ):
            parts.append(raw[start:end])
    return b"".join(parts)


def check_scans(raw: bytes) -> None:
    """Whether a progressive JPEG has all bits of all coefficients: it may be cut between scans."""
    missing: dict[int, list[int]] = {}
    for marker, start, _ in _jpeg_segments(raw):
        if marker == 0xC2:
            missing = {name: [1] * 64 for name in raw[start + 10 :: 3][: raw[start + 9]]}
        elif marker == SCAN:
            count = raw[start + 4]
            at = start + 5 + 2 * count
            first, last, bits = raw[at : at + 3].ljust(3, b"\1")
            for name in raw[start + 5 :: 2][:count]:
                missing.get(name, [])[first : last + 1] = [bits & 15] * (last + 1 - first)
    if any(map(any, missing.values())):
        raise ValueError("its last scans are missing")


# GIF, WebP, JPEG 2000, AVIF


def _gif_frame(raw: bytes) -> tuple[bytes, int, int]:
    """What stands before the first frame of a GIF and says how to draw it; its start and end."""
    at = 13 + (3 * (2 << (raw[10] & 7)) if raw[10] & 128 else 0)
    head, control = raw[:at], b""
    while raw[at : at + 1] == b"!":
        end = _gif_blocks_end(raw, at + 2)
        if raw[at + 1] == 0xF9 and end - at == 8:
            control = raw[at:end]
        at = end
    if raw[at : at + 1] != b",":
        raise ValueError("it has no frame")
    table = 3 * (2 << (raw[at + 9] & 7)) if raw[at + 9] & 128 else 0
    return head + control, at, _gif_blocks_end(raw, at + 11 + table)


def _bare_gif(raw: bytes) -> bytes:
    head, start, end = _gif_frame(raw)
    return head + raw[start:end] + b";"


def check_gif(raw: bytes) -> None:
    """Whether the end of the first frame was ever written: a zero ends a frame."""
    if raw.endswith(b"\0\0") and not raw[_gif_frame(raw)[2] :].strip(b"\0"):
        raise ValueError("its end is zeros, as if it was never written")


def _gif_blocks_end(raw: bytes, at: int) -> int:
    while raw[at]:
        at += 1 + raw[at]
    return at + 1


def _riff_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end (without padding) of each chunk that is complete."""
    at = 12
    while at + 8 <= len(raw):
        name, length = unpack_from("<4sI", raw, at)
        if at + 8 + length > len(raw):
            return
        yield name, at + 8, at + 8 + length
        at += 8 + length + length % 2


def _riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        name + pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in chunks
    )
    return b"RIFF" + pack("<I", len(body) + 4) + b"WEBP" + body


def _bare_webp(raw: bytes) -> bytes:
    """A WebP without profile, XMP and unknown chunks; incomplete chunks are left out."""
    chunks = []
    for name, start, end in _riff_chunks(raw):
        if name == b"VP8X" and end - start == 10:
            chunks.append((name, bytes([raw[start] & 0b11010]) + raw[start + 1 : end]))
        elif name in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF"):
            chunks.append((name, raw[start:end]))
    if len(chunks) > 1 and chunks[0][0] != b"VP8X":  # then only the picture counts
        chunks = [chunk for chunk in chunks if chunk[0] in (b"VP8 ", b"VP8L")][:1]
    return _riff(chunks)


def webp_with_fewer_zeros(raw: bytes) -> bytes | None:
    """A WebP with some of the zeros at the end of its pixels removed; None without many.

    Compressed flat colour may be zeros, and all of them are needed. If the shorter one can be
    decoded, then the decoder did not come as far: they are no pixels.
    """
    chunks = []
    tail = 0
    for name, start, end in _riff_chunks(raw):
        content = raw[start:end]
        if name in (b"VP8 ", b"VP8L"):
            tail = len(content) - len(content.rstrip(b"\0"))
            content = content[: len(content) - max(ZEROS // 2, tail // 16)]
        chunks.append((name, content))
        if tail:
            break
    return _riff(chunks) if tail >= ZEROS else None


def _boxes(raw: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, start, start of the content, and end of each box at the top of a JP2 or AVIF."""
    at = 0
    while at + 8 <= len(raw):
        length, name = unpack_from(">I4s", raw, at)
        start = at + 8
        if length == 1 and at + 16 <= len(raw):
            length, start = unpack_from(">Q", raw, at + 8)[0], at + 16
        end = at + length if length else len(raw)
        if end < start:
            return
        yield name, at, start, min(end, len(raw))
        at = end


def _bare_jp2(raw: bytes) -> bytes:
    """A JP2 that ends with its pixels, and has no boxes that they do not need."""
    parts = []
    for name, at, start, end in _boxes(raw):
        if name == b"jp2h":
            inner = raw[start:end]
            kept = [inner[a:z] for box, a, _, z in _boxes(inner) if box != b"res "]
            content = b"".join(kept)
            parts.append(pack(">I4s", len(content) + 8, name) + content)
        elif name in (b"jP  ", b"ftyp", b"jp2c"):
            parts.append(raw[at:end])
        if name == b"jp2c":
            break
    return b"".join(parts)


def check_jpeg2000(raw: bytes) -> None:
    """Whether the codestream has all its tiles and its end, and no part was never written."""
    boxes = _boxes(raw) if raw.startswith(JP2) else [(b"jp2c", 0, 0, len(raw))]
    at, end = next(((start, end) for name, _, start, end in boxes if name == b"jp2c"), (0, 0))
    packets, precincts, first = 1, False, at
    at += 2
    while at + 4 <= end and raw[at + 1] != 0x90:  # up to the first tile
        if raw[at + 1] == 0x51:
            width, height, _, _, across, down, left, top, components = unpack_from(
                ">8IH", raw, at + 6
            )
            packets *= components * -((left - width) // across) * -((top - height) // down)
        elif raw[at + 1] == 0x52:
            precincts = bool(raw[at + 4] & 1)
            packets *= unpack_from(">H", raw, at + 6)[0] * (raw[at + 9] + 1)
        at += 2 + unpack_from(">H", raw, at + 2)[0]
    while at + 12 <= end and raw[at + 1] == 0x90:
        length = unpack_from(">I", raw, at + 6)[0]
        at = at + length if length else raw.rfind(b"\xff\xd9", at, end)
        if length in range(1, 12):
            break
    if at <= first or raw[at : at + 2] != b"\xff\xd9":
        raise ValueError("its end is missing")
    tail = at - first - len(raw[first:at].rstrip(b"\0"))
    if not precincts and tail > ZEROS + packets:  # an empty packet is one zero
        raise ValueError(f"its last {tail:,} bytes are zeros, as if they were never written")


def check_avif(raw: bytes) -> None:
    """Whether the end of the pixels was ever written: what AV1 compresses has no long zeros."""
    boxes = [(name, raw[start:end]) for name, _, start, end in _boxes(raw)]
    if any(name == b"meta" and b"Exif" in content for name, content in boxes):
        return  # Exif data may end with zeros, and lie behind the pixels
    for name, content in boxes:
        tail = len(content) - len(content.rstrip(b"\0"))
        if name == b"mdat" and tail > ZEROS:
            raise ValueError(f"its last {tail:,} bytes are zeros, as if they were never written")


def check_deflated(strip: bytes) -> None:
    """Whether a zlib stream is complete, where zeros in it may be pixels, or never written."""
    if bytes(ZEROS) not in strip:
        return  # the decoder has found what else can be wrong
    stream = zlib.decompressobj()
    while not stream.eof:
        try:
            content = stream.decompress(strip, 1 << 22)
        except zlib.error as error:
            raise ValueError(f"its compressed pixels are damaged: {error}") from None
        strip = stream.unconsumed_tail
        if not content and not strip and not stream.eof:
            raise ValueError("its compressed pixels end early")
