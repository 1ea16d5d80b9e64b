"""Damaged pixels are refused, in every format; damage to anything else is no reason to refuse."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rapipe.corpus.decode import Decoding, decode, decode_many
from rapipe.errors import UserError

SIDE = 64
DECODING = Decoding(SIDE)
RANDOM = np.random.default_rng(7).bytes(200)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(side: int = SIDE) -> Image.Image:
    """Coarse colours with a white bottom, as of a product before a wall."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    image = coarse.resize((side, side), Image.Resampling.BICUBIC)
    image.paste((255, 255, 255), (0, 7 * side // 8, side, side))
    return image


FILES: dict[str, tuple[str, dict[str, object]]] = {
    "PNG": ("PNG", {}),
    "PNG interlaced": ("PNG", {"interlace": 1}),
    "JPEG": ("JPEG", {}),
    "JPEG progressive": ("JPEG", {"progressive": True}),
    "JPEG restarts": ("JPEG", {"restart_marker_blocks": 4, "subsampling": 0, "quality": 95}),
    "GIF": ("GIF", {}),
    "WebP": ("WEBP", {"quality": 95}),
    "WebP lossless": ("WEBP", {"lossless": True}),
    "TIFF deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF JPEG": ("TIFF", {"compression": "jpeg"}),
    "AVIF": ("AVIF", {"quality": 95}),
    "JPEG 2000": ("JPEG2000", {"irreversible": False}),
    "JPEG 2000 stream": ("JPEG2000", {"no_jp2": True}),
    "TGA": ("TGA", {}),
    "BMP": ("BMP", {}),
    "PPM": ("PPM", {}),
    "ICO": ("ICO", {}),
}
UNCOMPRESSED = ("TGA", "BMP", "PPM")
ENDS = {"JPEG": b"\xff\xd9", "JPEG2000": b"\xff\xd9", "GIF": b"\0;"}


def file(name: str) -> bytes:
    kind, options = FILES[name]
    return encoded(photo(), kind, **options)


def assert_refused_or_equal(data: bytes, intact: np.ndarray) -> bool:
    """Whether it was refused."""
    pixels, result = decode_many([data], DECODING)
    assert result.errors or np.array_equal(pixels[0], intact)
    return bool(result.errors)


@pytest.mark.parametrize("name", FILES)
def test_no_file_that_is_cut_becomes_a_picture(name: str) -> None:
    """Cut; cut and closed; cut and filled with zeros, as an interrupted download leaves it."""
    data = file(name)
    intact = decode(data, "x", DECODING)
    refused = 0
    for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        head = data[: int(share * len(data))]
        zeros = bytes(len(data) - len(head))
        end = ENDS.get(FILES[name][0], b"")
        damaged = [head] if name in UNCOMPRESSED else [head, head + zeros]
        if end:
            damaged += [head + end, head + zeros[len(end) :] + end]
        refused += sum(assert_refused_or_equal(each, intact) for each in damaged)
    assert refused >= 5


def test_checksums_of_png() -> None:
    data = file("PNG")
    for at in range(0, len(data) - 12, max(1, len(data) // 97)):
        flipped = bytearray(data)
        flipped[at] ^= 4
        with pytest.raises(UserError):
            decode(bytes(flipped), "x", DECODING)
    flipped[at] ^= 4
    content = data.index(b"IDAT") + 4
    flipped = bytearray(data)
    flipped[content + 50] ^= 4
    with pytest.raises(UserError, match="the checksum of its IDAT chunk is wrong"):
        decode(bytes(flipped), "x", DECODING)


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(stream: bytes, pieces: int = 1, before: bytes = b"", interlaced: int = 0) -> bytes:
    """8 by 8 of greyscale; chunk checksums are right whatever the stream is."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, interlaced))
    step = -(-len(stream) // pieces)
    parts = [chunk(b"IDAT", stream[at : at + step]) for at in range(0, len(stream), step)]
    return b"\x89PNG\r\n\x1a\n" + head + before + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("value", [0, 90, 255])
@pytest.mark.parametrize("pieces", [1, 7, 40])
def test_streams_of_png(value: int, pieces: int) -> None:
    """The checksum behind the pixels counts, however they are divided, and so do missing rows."""
    rows = 8 * (b"\0" + bytes([value]) * 8)
    stream = zlib.compress(rows)
    assert (decode(png(stream, pieces), "x", Decoding(8)) == value).all()
    with pytest.raises(UserError):
        decode(png(stream[:-1] + bytes([stream[-1] ^ 1]), pieces), "x", Decoding(8))
    with pytest.raises(UserError, match="end early, after 63 of 72 bytes"):
        decode(png(zlib.compress(rows[:-9]), pieces), "x", Decoding(8))
    with pytest.raises(UserError):
        decode(png(stream, pieces, interlaced=1), "x", Decoding(8))


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (8, 2), (8, 4), (8, 6), (16, 0), (16, 2)])
def test_missing_rows_of_png_in_every_mode(depth: int, colour: int) -> None:
    values = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = b"\0" + b"\xff" * (depth * values)  # of 8 pixels
    for rows in range(9):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0))
        stream = chunk(b"IDAT", zlib.compress(row * rows))
        data = b"\x89PNG\r\n\x1a\n" + head + stream + chunk(b"IEND", b"")
        _, result = decode_many([data], Decoding(8))
        assert bool(result.errors) == (rows < 8)


def test_scans_of_a_progressive_jpeg() -> None:
    """Cut between two scans, it is a coarser picture, and the decoder warns of nothing."""
    data = file("JPEG progressive")
    starts = [at for at in range(len(data)) if data[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    for start in starts[3:]:
        with pytest.raises(UserError):
            decode(data[:start] + b"\xff\xd9", "x", DECODING)


def test_what_jpeg_decoders_only_warn_about() -> None:
    data = file("JPEG")
    with pytest.raises(UserError, match=r"x is no image .*premature end of data segment"):
        decode(data[:-200] + data[-2:], "x", DECODING)
    with pytest.raises(UserError, match="extraneous bytes before marker"):
        decode(data[:-2] + RANDOM + data[-2:], "x", DECODING)


def intact_images() -> Iterator[tuple[str, Image.Image, str, dict[str, object]]]:
    """Images that look as if something were missing."""
    side = 96
    black = Image.new("RGB", (side, side))
    shape = black.copy()
    ImageDraw.Draw(shape).ellipse((20, 5, 60, 40), fill=(255, 255, 255))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    half = noise.copy()
    half.paste((128, 128, 128), (0, 40, side, side))
    clear = noise.copy()
    clear.putalpha(shape.convert("L"))
    images = {"black": black, "shape": shape, "half grey": half, "photo": photo(side)}
    options: dict[str, tuple[dict[str, object], ...]] = {
        "PNG": ({}, {"compress_level": 0}),
        "JPEG": (
            *({}, {"progressive": True}, {"optimize": True, "quality": 97}, {"subsampling": 0}),
            {"restart_marker_rows": 1},
        ),
        "GIF": ({},),
        "WEBP": ({}, {"lossless": True}, {"lossless": True, "quality": 0, "method": 0}),
        "TIFF": ({"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}),
        "AVIF": ({"speed": 9},),
        "JPEG2000": ({}, {"quality_layers": [40, 20, 5], "irreversible": True}),
        "BMP": ({},),
        "TGA": ({}, {"compression": "tga_rle"}),
    }
    for kind, ways in options.items():
        for way in ways:
            for name, image in images.items():
                yield f"{kind} {way} {name}", image, kind, way
    for mode in ("L", "CMYK"):
        yield mode, half.convert(mode), "JPEG", {}
        yield f"{mode} progressive", half.convert(mode), "JPEG", {"progressive": True}
    for kind in ("PNG", "WEBP"):
        yield f"clear {kind}", clear, kind, {"lossless": True} if kind == "WEBP" else {}
    yield "MPO", half, "MPO", {"save_all": True, "append_images": [black]}


def test_intact_images_are_not_refused() -> None:
    for name, image, kind, options in intact_images():
        data = encoded(image, kind, **options)
        with Image.open(io.BytesIO(data)) as opened:
            expected = opened.convert("RGBA" if "clear" in name else "RGB")
        ground = Image.new("RGBA", expected.size, "white")
        if expected.mode == "RGBA":
            expected = Image.alpha_composite(ground, expected).convert("RGB")
        pixels = decode(data, name, Decoding(96))
        assert np.array_equal(pixels, np.asarray(expected)), name


# What lies behind the end, and metadata


def behind_the_end() -> dict[str, bytes]:
    return {
        "zeros": bytes(1000),
        "a line": b"\n",
        "zip": b"PK\3\4" + RANDOM + b"PK\5\6" + bytes(18),
        "another image": encoded(Image.new("RGB", (90, 90)), "JPEG"),
        "a video": b"\0\0\0\x18ftypmp42" + RANDOM * 30,
        "scans": b"\xff\xda" * 300,
    }


def segment(marker: int, content: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content


def odd_jpegs(data: bytes) -> dict[str, bytes]:
    start, rest = data[:2], data[20:]
    segments = {
        "EXIF": segment(0xE1, b"Exif\0\0" + RANDOM),
        "EXIF far away": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + RANDOM),
        "profile": segment(0xE2, b"ICC_PROFILE\0\5\2" + RANDOM),
        "profile without number": segment(0xE2, b"ICC_PROFILE\0"),
        "index of images": segment(0xE2, b"MPF\0" + RANDOM),
        "Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
        "Adobe": segment(0xEE, b"Adobe"),
        "thumbnail": segment(0xE0, b"JFXX\0\x10\xff\xd8" + RANDOM),
        "scans in a comment": segment(0xFE, b"\xff\xda" * 200),
        "a reserved marker": segment(0xF0, RANDOM),
        "bytes between": b"abc",
    }
    return {
        **{name: start + data[2:20] + extra + rest for name, extra in segments.items()},
        "short JFIF": start + segment(0xE0, b"JFIF\0") + rest,
        "JFIF 0.0": start + segment(0xE0, b"JFIF\0\0\0\0\0\1\0\1\0\0") + rest,
        "no JFIF": start + rest,
    }


def odd_pngs(data: bytes) -> dict[str, bytes]:
    large = zlib.compress(bytes(3 << 20))
    chunks = {
        "large text": chunk(b"zTXt", b"x\0\0" + large),
        "large text of Unicode": chunk(b"iTXt", b"x\0\1\0\0\0" + large),
        "large profile": chunk(b"iCCP", b"x\0\0" + large),
        "empty profile": chunk(b"iCCP", b""),
        "text of unknown compression": chunk(b"zTXt", b"x\0\7" + RANDOM),
        "large EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + large),
        "EXIF": chunk(b"eXIf", RANDOM),
        "density": chunk(b"pHYs", b"a"),
        "gamma": chunk(b"gAMA", b""),
        "colours": chunk(b"cHRM", b"abc"),
        "animation": chunk(b"acTL", b"abc"),
        "frame": chunk(b"fcTL", bytes(26)),
        "frame of pixels": chunk(b"fdAT", b"\0\0\0\0abc"),
        "wrong checksum": chunk(b"tEXt", b"x\0abc", 7),
        "odd name": chunk(b"a1.d", b"abc"),
        "unknown": chunk(b"abCd", RANDOM),
    }
    odd = {name: data[:33] + extra + data[33:] for name, extra in chunks.items()}
    after = {f"{name}, last": data[:-12] + extra + data[-12:] for name, extra in chunks.items()}
    return {**odd, **after, "no end": data[:-12], "wrong end": data[:-4] + b"abcd"}


def riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def odd_webps(data: bytes) -> dict[str, bytes]:
    def piece(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    size = struct.pack("<I", SIDE - 1)[:3] * 2
    body = data[12:]
    extended = {
        flags: piece(b"VP8X", struct.pack("<I", flags) + size) + body for flags in (0, 8, 44)
    }
    cut = extended[8] + piece(b"EXIF", RANDOM)[:-60]
    return {
        "EXIF": riff(extended[8] + piece(b"EXIF", RANDOM)),
        "XMP": riff(piece(b"VP8X", struct.pack("<I", 4) + size) + body + piece(b"XMP ", RANDOM)),
        "EXIF that is cut": riff(cut),
        "metadata that are not there": riff(extended[44]),
        "unknown": riff(extended[0] + piece(b"ABCD", RANDOM)),
        "a size too large": data[:4] + struct.pack("<I", len(data) + 800) + data[8:],
    }


def odd_gifs(data: bytes) -> dict[str, bytes]:
    start = 13 + 3 * (2 << (data[10] & 7))
    extras = {
        "comment": b"\x21\xfe\5abcde\0",
        "loop without a count": b"\x21\xff\x0bNETSCAPE2.0\0",
        "short control": b"\x21\xf9\1a\0",
        "unknown": b"\x21\x77\3abc\0",
    }
    odd = {name: data[:start] + extra + data[start:] for name, extra in extras.items()}
    second = data[:-1] + data[start:-20]
    return {**odd, "no trailer": data[:-1], "a second frame that is cut": second}


def odd_jp2s(data: bytes) -> dict[str, bytes]:
    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + name + content

    start = data.index(b"jp2h") - 4
    length = struct.unpack_from(">I", data, start)[0]
    end = start + length
    resolution = box(b"res ", RANDOM[:10])
    longer = struct.pack(">I", length + len(resolution))
    return {
        "unknown box": data[:end] + box(b"uuid", RANDOM) + data[end:],
        "resolution": data[:start] + longer + data[start + 4 : end] + resolution + data[end:],
    }


ODD: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    **dict.fromkeys(("JPEG", "JPEG progressive", "JPEG restarts"), odd_jpegs),
    **{"PNG": odd_pngs, "PNG interlaced": odd_pngs, "GIF": odd_gifs},
    **{"WebP": odd_webps, "WebP lossless": odd_webps},
    "JPEG 2000": odd_jp2s,
}


@pytest.mark.parametrize("name", FILES)
def test_odd_metadata_and_bytes_behind_the_end_are_no_matter(name: str) -> None:
    data = file(name)
    intact = decode(data, "x", DECODING)
    odd = {kind: data + extra for kind, extra in behind_the_end().items()}
    if name in ODD:
        odd |= ODD[name](data)
    for kind, each in odd.items():
        assert np.array_equal(decode(each, f"{name}: {kind}", DECODING), intact), (name, kind)


def test_damaged_metadata_do_not_turn_a_picture() -> None:
    """What is left out may not be what says which side is up."""
    exif = Image.Exif()
    exif[0x0112] = 3
    upright = decode(np.asarray(photo())[::-1, ::-1], "x", DECODING)
    data = encoded(photo(), "PNG", exif=exif)
    broken = data[:33] + chunk(b"gAMA", b"") + data[33:]
    assert np.array_equal(decode(broken, "x", DECODING), upright)
    data = encoded(photo(), "JPEG", exif=exif)
    broken = data[:2] + segment(0xEE, b"Adobe") + data[2:]
    assert np.array_equal(decode(broken, "x", DECODING), decode(data, "x", DECODING))


def test_transparency_is_a_part_of_the_pixels() -> None:
    data = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    at = data.index(b"tRNS")
    with pytest.raises(UserError, match="checksum of its tRNS chunk is wrong"):
        decode(data[: at + 5] + b"\7" + data[at + 6 :], "x", DECODING)
