"""Every kind of image becomes the right square, or a sentence."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from rapipe.corpus.decode import Decoding, decode, decode_into, decode_many, pixel_hash
from rapipe.errors import UserError

EIGHT = Decoding(8)
GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(data: bytes, decoding: Decoding = EIGHT) -> np.ndarray:
    return decode(data, "x", decoding).astype(int)


def test_exact_pixels_stay() -> None:
    exact = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for data in (exact, encoded(Image.fromarray(exact)), encoded(Image.fromarray(exact), "BMP")):
        assert np.array_equal(decode(data, "x", EIGHT), exact)
    grey = decode(GRADIENT, "x", EIGHT)
    assert np.array_equal(grey, np.repeat(GRADIENT[..., None], 3, 2))


MODES = {
    "L": ("PNG", Image.fromarray(GRADIENT)),
    "P": ("PNG", Image.fromarray(GRADIENT).convert("P")),
    "LA": ("PNG", Image.fromarray(GRADIENT).convert("LA")),
    "RGBA": ("PNG", Image.fromarray(GRADIENT).convert("RGBA")),
    "CMYK": ("TIFF", Image.fromarray(GRADIENT).convert("CMYK")),
    "YCbCr": ("TIFF", Image.fromarray(GRADIENT).convert("YCbCr")),
    "I;16": ("PNG", Image.fromarray(GRADIENT.astype(np.uint16) * 257)),
    "I;16 TIFF": ("TIFF", Image.fromarray(GRADIENT.astype(np.uint16) * 257)),
    "I": ("TIFF", Image.fromarray(GRADIENT.astype(np.int32) * 257)),
    "F": ("TIFF", Image.fromarray(GRADIENT.astype(np.float32) / 255)),
    "GIF": ("GIF", Image.fromarray(GRADIENT)),
    "WEBP": ("WEBP", Image.fromarray(GRADIENT).convert("RGB")),
    "PGM": ("PPM", Image.fromarray(GRADIENT)),
    "TGA": ("TGA", Image.fromarray(GRADIENT)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_shows_the_same_picture(name: str) -> None:
    kind, image = MODES[name]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = square(encoded(image, kind, **options))
    assert np.abs(pixels - GRADIENT[..., None].astype(int)).max() <= 2


def test_one_bit() -> None:
    bits = Image.fromarray(GRADIENT > 100)
    assert bits.mode == "1"
    assert np.array_equal(square(encoded(bits))[..., 0], (GRADIENT > 100) * 255)


def test_cmyk_jpeg() -> None:
    red = Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK")
    pixels = square(encoded(red, "JPEG", quality=95))
    assert np.abs(pixels - (200, 30, 30)).max() <= 6


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("grey", 128), ("black", 0)])
def test_transparency_stands_on_the_background(background: str, value: int) -> None:
    decoding = Decoding(8, background=background)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 4, 8))
    palette = clear.quantize(8)
    keyed = Image.new("RGB", (8, 8), (1, 2, 3))
    for data in (encoded(clear), encoded(palette), encoded(clear, "GIF")):
        pixels = square(data, decoding)
        assert (pixels[:, 4:] == value).all()
        assert np.abs(pixels[:, :4] - (10, 20, 30)).max() <= 4
    pixels = square(encoded(keyed, transparency=(1, 2, 3)), decoding)
    assert (pixels == value).all()


def test_half_transparent() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert np.abs(square(encoded(half)) - 127).max() <= 1


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("TIFF", "tiff")]
)
def test_exif_says_which_side_is_up(kind: str, name: str) -> None:
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # white at the top left
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = square(encoded(image, kind, exif=exif))
    assert pixels[7, 7, 0] > 240
    assert pixels[0, 0, 0] < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int) -> None:
    """Against Pillow's own, and with EXIF so odd that Pillow's own fails."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(square(data), np.asarray(expected))
    head = struct.pack("<2sHLH", b"II", 42, 8, 2)
    turn = struct.pack("<HHLHH", 0x0112, 3, 1, orientation, 0)
    odd = struct.pack("<HHL4sL", 0x011A, 2, 4, b"abc", 0)  # a resolution that is a text
    data = encoded(image, exif=b"Exif\0\0" + head + turn + odd)
    assert np.array_equal(square(data), np.asarray(expected))


def test_the_first_frame_of_what_moves() -> None:
    frames = [Image.new("RGB", (8, 8), (v, v, v)) for v in (40, 120, 200)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(square(data) - 40).max() <= 3


def test_resizing() -> None:
    wide = Image.new("RGB", (40, 20), (0, 0, 0))
    wide.paste((200, 200, 200), (10, 0, 30, 20))  # the centre that cropping keeps
    data = encoded(wide)
    ten = {name: square(data, Decoding(10, name, "grey")) for name in ("crop", "squash", "pad")}
    assert (ten["crop"][:, 3:7] == 200).all()
    assert ten["crop"].min() > 180
    assert (ten["squash"][:, [0, 9]] == 0).all()
    assert (ten["squash"][:, 4:6] == 200).all()
    assert (ten["pad"][[0, 1, 8, 9]] == 128).all()
    assert (ten["pad"][4:6, 4:6] == 200).all()
    assert (ten["pad"][4:6, 0] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (3, 7), (500, 400)])
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_any_size_and_aspect(size: tuple[int, int], resize: str) -> None:
    plain = Image.new("RGB", size, (90, 90, 90))
    for kind in ("PNG", "JPEG"):
        pixels = square(encoded(plain, kind), Decoding(16, resize))
        assert pixels.shape == (16, 16, 3)
        assert (np.abs(pixels - 90) <= 2).any()


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_large_jpegs_look_as_if_decoded_whole(resize: str) -> None:
    """Decoding at a fraction must not shift or blur what is seen."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    large = smooth.resize((1200, 900), Image.Resampling.BICUBIC)
    jpeg = square(encoded(large, "JPEG", quality=95), Decoding(32, resize))
    full = square(encoded(large), Decoding(32, resize))
    assert np.abs(jpeg - full).mean() < 2


BROKEN = {
    "nothing": (b"", "it is empty"),
    "text": (b"no image at all", "it is none of JPEG, PNG"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "none of"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_reported_with_its_location(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(UserError, match=rf"^row 7 is no image that can be read: .*{reason}"):
        decode(data, "row 7", EIGHT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_never_half_a_picture(kind: str) -> None:
    """Cut anywhere, it is an error; or nothing of the picture was cut."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    full = encoded(Image.fromarray(noise), kind)
    picture = square(full)
    refused = 0
    for end in range(0, len(full), 3):
        pixels, result = decode_many([full[:end]], EIGHT)
        refused += len(result.errors)
        assert result.errors or np.array_equal(pixels[0], picture)
    assert refused > len(full) / 6


def test_values_outside_the_range_of_the_mode_are_refused() -> None:
    deep = Image.fromarray(np.full((8, 8), 70000, np.int32))
    with pytest.raises(UserError, match="holds values from 70000 to 70000; a greyscale image of m"):
        decode(encoded(deep, "TIFF"), "x", EIGHT)
    for value in (1.5, -0.1, np.nan):
        real = Image.fromarray(np.full((8, 8), value, np.float32))
        with pytest.raises(UserError, match=r"mode F must hold 0 to 1$"):
            decode(encoded(real, "TIFF"), "x", EIGHT)


@pytest.mark.parametrize("mode", ["PNG", "TIFF"])
def test_greyscale_of_twelve_bits(mode: str) -> None:
    deep = encoded(Image.fromarray((GRADIENT / 255 * 4095).astype(np.uint16)), mode)
    expected = np.rint((GRADIENT / 255 * 4095).astype(np.uint16) * np.float32(255 / 4095))
    assert np.array_equal(square(deep, Decoding(8, depth=12))[..., 0], expected)
    assert square(deep).max() <= 16
    with pytest.raises(UserError, match=r"must hold 0 to 1023 \(`depth` is 10\)$"):
        decode(deep, "x", Decoding(8, depth=10))
    shallow = encoded(Image.fromarray(GRADIENT))
    assert np.array_equal(square(shallow, Decoding(8, depth=10))[..., 0], GRADIENT)


def test_the_range_of_values_is_told() -> None:
    deep = encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 10))
    real = encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF")
    _, result = decode_many([encoded(Image.fromarray(GRADIENT)), deep, b"", real, deep], EIGHT)
    assert result.peaks.tolist() == [-1, 630, -1, -1, 630]
    assert result.extremes.tolist() == [[0, 252], [0, 2], [0, 0], [128, 128], [0, 2]]


def test_too_many_pixels_are_not_decoded() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"exceeds limit|more than `max_pixels`"):
            decode(bomb, "x", EIGHT)
    small = Decoding(8, max_pixels=63)
    with pytest.raises(UserError, match=r"has 8 x 8 = 64 pixels, more than `max_pixels`, 63"):
        decode(encoded(Image.fromarray(GRADIENT)), "x", small)


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(GRADIENT)))
    assert np.array_equal(decode(tmp_path / "a.png", "x", EIGHT)[..., 0], GRADIENT)
    with pytest.raises(UserError, match="x cannot be read: No such file"):
        decode(tmp_path / "b.png", "x", EIGHT)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="x cannot be read: Is a directory"):
        decode(tmp_path / "folder.png", "x", EIGHT)


def test_many_at_once_and_into_a_file(tmp_path: Path) -> None:
    good = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    items = [good[0], b"broken", good[1], good[2]]
    pixels, result = decode_many(items, EIGHT)
    assert list(result.errors) == [1]
    assert (pixels[1] == 0).all()
    assert [pixel_hash(image) for image in good] == result.ids[[0, 2, 3]].tolist()
    assert result.sizes[[0, 2, 3]].tolist() == [[8, 8]] * 3
    path = tmp_path / "pixels"
    path.touch()
    decode_into(path, 2, items, EIGHT)  # out of order, as processes do
    decode_into(path, 0, [good[0], good[0]], EIGHT)
    assert path.stat().st_size == 6 * 192
    assert np.array_equal(np.fromfile(path, np.uint8).reshape(6, 8, 8, 3)[2:], pixels)
