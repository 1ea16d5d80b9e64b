"""Odd images, files and names, and the properties that must hold for each.

`PROPERTIES`: by name, a strategy, and a function that raises where the property is violated.
"""

from __future__ import annotations

import html
import io
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from rapipe.corpus.compose import Part, join_classes
from rapipe.corpus.decode import Decoding, decode
from rapipe.corpus.loading import FORMATS
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.corpus.sources.base import Source
from rapipe.errors import MAX_SENTENCE, UserError, unreadable
from rapipe.evaluation.results import VoteBaseline
from rapipe.report.accuracy import accuracy_table, edits_table
from rapipe.report.page import Block, Fold, figure, opening, page
from rapipe.report.verdicts import BETTER, Card, Finding

Shape = tuple[int, int]
SIDE = 8
SECONDS = 20
"""No small file may take longer, however slow the machine."""
MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"),
)
EXACT = {"PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "ICO", "JPEG2000"}
"""Formats that keep every pixel, as they are written here."""
NEAR = {"CMYK": 1, "YCbCr": 2, "RGBA": 1, "LA": 1}
"""How far rounding may go, by mode."""
SHAPES = ((SIDE, SIDE), (1, 1), (1, 97), (97, 1), (13, 9))
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
    "JPEG": ({}, {"progressive": True}),
    "WEBP": ({"lossless": True, "exact": True},),
    "JPEG2000": ({"irreversible": False},),
}
ODD = (
    *("<b>bold</b>", "<script>alert(1)</script>", "a&b", '"quoted"', "' onload='x", "$\\frac$"),
    *("$x$", "\\", "%s{0}", "日本語", "עברית", "😀", "e\u0301", "\u00e9", "[red]", "[/]", "-1", ""),
    *("new\nline", "tab\t", "nul\0", "\x1b[31m", "\u202eltr", "\ud800", "\u2028", "x" * 10_000),
    *(" ", "..", "CON", "a/b", "nan", "cat", "Cat", "CAT"),
)
NAMES = st.one_of(st.sampled_from(ODD), st.text(st.characters(), max_size=12))


def noise_image(mode: str, shape: Shape, seed: int) -> Image.Image:
    """An image of noise in any mode."""
    rng = np.random.default_rng(seed)
    width, height = shape
    if mode == "F":
        return Image.fromarray(rng.random((height, width), np.float32))
    if mode.startswith("I"):
        values = rng.integers(0, 65536, (height, width))
        if mode == "I":
            return Image.fromarray(values.astype(np.int32))
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, shape, values.astype(order).tobytes())
    plain = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    if mode in ("RGBA", "RGBa"):
        plain.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
    if mode == "LAB":
        return Image.frombytes("LAB", shape, plain.tobytes())
    if mode in ("La", "PA"):
        return plain.convert("LA" if mode == "La" else "P").convert(mode)
    return plain.convert(mode)


def expected(image: Image.Image) -> npt.NDArray[np.float64] | None:
    """RGB values (H, W, 3) on a white background; None for modes without a simple rule."""
    mode = image.mode
    if mode == "P":
        image = image.convert("RGB")
    if mode == "I;16B":
        raw = np.frombuffer(image.tobytes(), ">u2").reshape(image.size[::-1])
    else:
        raw = np.asarray(image)
    values = raw.astype(np.float64)
    if mode == "1":
        values = 255 * values
    elif mode.startswith("I"):
        values = np.rint(values / 257)
    elif mode == "F":
        values = np.rint(255 * values)
    elif mode in ("LA", "RGBA"):
        alpha = values[..., -1:] / 255
        values = values[..., :-1] * alpha + 255 * (1 - alpha)
        values = values[..., 0] if mode == "LA" else values
    elif mode == "CMYK":
        values = (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    elif mode == "YCbCr":
        y, cb, cr = np.moveaxis(values - (0, 128, 128), 2, 0)
        values = np.stack(
            [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2
        ).clip(0, 255)
    elif mode not in ("L", "P", "RGB"):
        return None
    return np.repeat(values[..., None], 3, 2) if values.ndim == 2 else values


def encoded(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes | None:
    """The file, or None if Pillow does not write this mode so."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except Exception:  # each writer refuses in its own way
        return None
    return buffer.getvalue()


def attempt(data: bytes, decoding: Decoding) -> npt.NDArray[np.uint8] | None:
    """The square, or None for one bounded sentence; nothing else may come of a file."""
    start = time.monotonic()
    try:
        square = decode(data, "x", decoding)
    except UserError as error:
        check_sentence(str(error), 400)
        return None
    finally:
        assert time.monotonic() - start < SECONDS
    assert square.shape == (decoding.size, decoding.size, 3)
    assert square.dtype == np.uint8
    return square


def check_sentence(sentence: str, most: int = MAX_SENTENCE) -> None:
    """Assert that this is one printable line of bounded length."""
    assert sentence.isprintable(), ascii(sentence)
    assert 0 < len(sentence) <= most, len(sentence)


def check_error(text: str) -> None:
    """Whatever an error quotes, it is one line."""
    check_sentence(str(UserError(text)))


Picture = tuple[str, Shape, str, int, str]


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Mode, size, format, seed, and how it becomes a square."""
    return (
        draw(st.sampled_from(MODES)),
        draw(st.sampled_from(SHAPES)),
        draw(st.sampled_from(FORMATS)),
        draw(st.integers(0, 99)),
        draw(st.sampled_from(("crop", "squash", "pad"))),
    )


def files_of(picture: Picture) -> list[tuple[Image.Image, bytes]]:
    """The picture in each way that its format may be written."""
    mode, shape, kind, seed, _ = picture
    image = noise_image(mode, shape, seed)
    files = [(image, encoded(image, kind, options)) for options in OPTIONS.get(kind, ({},))]
    return [(image, data) for image, data in files if data is not None]


def check_picture(picture: Picture) -> None:
    """Every file is a square; and where no pixel has to change, the obvious one."""
    _, shape, kind, _, resize = picture
    for image, data in files_of(picture):
        square = attempt(data, Decoding(SIDE, resize))
        pixels = expected(image) if kind in EXACT and shape == (SIDE, SIDE) else None
        if image.mode.startswith("I;16") and kind in ("JPEG2000", "PPM"):
            pixels = None  # these formats have another byte order
        with Image.open(io.BytesIO(data)) as written:
            if written.mode != image.mode:
                pixels = None  # Pillow converted it before writing
        if square is None or pixels is None:
            continue
        off = np.abs(square - pixels).max()
        assert off <= NEAR.get(image.mode, 0), (picture, off)


Damage = tuple[Picture, list[tuple[float, int]], float]
BYTES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)
DAMAGE: SearchStrategy[Damage] = st.tuples(pictures(), BYTES, st.floats(0, 1))


def damaged(data: bytes, bytes_at: list[tuple[float, int]], cut: float) -> bytes:
    """Some bytes replaced; cut off in the lower half of `cut`."""
    changed = bytearray(data)
    for position, value in bytes_at:
        changed[int(position * len(data))] = value
    return bytes(changed[: int(2 * cut * len(data))])


def check_damage(damage: Damage) -> None:
    """Any bytes are a square or a sentence."""
    picture, bytes_at, cut = damage
    for _, data in files_of(picture):
        attempt(damaged(data, bytes_at, cut), Decoding(SIDE, picture[-1]))


def check_cut(drawn: tuple[Picture, float]) -> None:
    """A truncated file is refused, or decodes to the same pixels."""
    picture, cut = drawn
    for _, data in files_of(picture):
        decoding = Decoding(SIDE, picture[-1])
        complete, truncated = (
            attempt(data, decoding),
            attempt(data[: int(cut * len(data))], decoding),
        )
        assert truncated is None or (
            complete is not None and np.array_equal(complete, truncated)
        ), picture


Tail = tuple[Picture, float, bytes]
TAILS: SearchStrategy[Tail] = st.tuples(
    pictures(), st.floats(0, 1), st.sampled_from((b"", b"\xff\xd9", b"\0;"))
)
CHECKED = ("PNG", "ICO")
"""Formats in which no damage to the end of the pixels can pass."""


def check_tail(tail: Tail) -> None:
    """A file that is cut, filled with zeros and closed again is refused, or the same picture."""
    picture, cut, end = tail
    if picture[2] not in (*CHECKED, "JPEG"):
        return
    decoding = Decoding(SIDE, picture[-1])
    for _, data in files_of(picture):
        kept = data[: int(cut * len(data))]
        zeros = bytes(max(0, len(data) - len(kept) - len(end)))
        closed = [kept + zeros + end] if picture[2] in CHECKED else []  # JPEG has no checksum
        for damaged_data in (kept + end, kept + zeros, *closed):
            check_same(attempt(damaged_data, decoding), attempt(data, decoding), picture)


Flip = tuple[Picture, float, int]
FLIPS: SearchStrategy[Flip] = st.tuples(
    pictures(), st.floats(0, 1, exclude_max=True), st.integers(0, 7)
)


def check_flip(flip: Flip) -> None:
    """No changed bit passes a checksum: those of PNG cover all its pixels."""
    (mode, shape, _, seed, resize), position, bit = flip
    picture = (mode, shape, "PNG", seed, resize)
    for _, data in files_of(picture):
        changed = bytearray(data)
        changed[int(position * len(data))] ^= 1 << bit
        decoding = Decoding(SIDE, resize)
        check_same(attempt(bytes(changed), decoding), attempt(data, decoding), picture)


def check_same(
    square: npt.NDArray[np.uint8] | None, intact: npt.NDArray[np.uint8] | None, picture: Picture
) -> None:
    """Assert that it was refused, or is as intact."""
    assert square is None or (intact is not None and np.array_equal(square, intact)), picture


BEHIND = st.one_of(
    st.binary(max_size=300),
    st.sampled_from((bytes(999), b"\xff" * 99, b"\n", b"\xff\xda" * 200, b"PK\3\4" + bytes(99))),
    st.sampled_from((b"\0\0\0\x18ftypmp42" + bytes(99), b"\xff\xd8\xff\xe0" + bytes(99))),
)


def check_behind(drawn: tuple[Picture, bytes]) -> None:
    """What lies behind the end of an image does not matter."""
    picture, behind = drawn
    for _, data in files_of(picture):
        decoding = Decoding(SIDE, picture[-1])
        check_equal(attempt(data + behind, decoding), attempt(data, decoding), picture)


Metadata = tuple[Picture, int, bytes, bytes, bool]
TEXTS = st.sampled_from((b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"eXIf", b"gAMA", b"pHYs", b"acTL"))
CHUNKS = st.one_of(TEXTS, st.sampled_from((b"fcTL", b"fdAT", b"cHRM", b"sRGB", b"abCd", b"tIME")))
HEADS = st.sampled_from(
    (b"", b"Exif\0\0", b"ICC_PROFILE\0", b"MPF\0", b"JFXX\0", b"Photoshop 3.0\0", b"x\0\0")
)
METADATA_OF_IMAGES: SearchStrategy[Metadata] = st.tuples(
    pictures(),
    st.one_of(st.integers(0xE1, 0xED), st.sampled_from((0xE0, 0xEF, 0xFE))),
    CHUNKS,
    st.builds(bytes.__add__, HEADS, st.binary(max_size=99)),
    st.booleans(),
)


def check_metadata(drawn: Metadata) -> None:
    """Whatever stands in metadata of a PNG or JPEG, the pixels are the same."""
    (mode, shape, _, seed, resize), marker, name, content, wrong = drawn
    decoding = Decoding(SIDE, resize)
    checksum = (zlib.crc32(name + content) + wrong) % 2**32
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    segment = bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content
    for kind, start, extra in (("PNG", 33, chunk), ("JPEG", 2, segment)):
        picture = (mode, shape, kind, seed, resize)
        for _, data in files_of(picture):
            odd = data[:start] + extra + data[start:]
            check_equal(attempt(odd, decoding), attempt(data, decoding), picture)


def check_equal(
    square: npt.NDArray[np.uint8] | None, intact: npt.NDArray[np.uint8] | None, picture: Picture
) -> None:
    """Assert that it is as intact, where that can be decoded."""
    assert intact is None or (square is not None and np.array_equal(square, intact)), picture


def png(value: int) -> bytes:
    """A small image."""
    return encoded(Image.new("L", (4, 4), value % 256), "PNG", {}) or b""


LABELS = st.one_of(
    st.none(),
    st.integers(-2, 4),
    st.sampled_from([2**31, 2**63 - 1, -(2**63), 255]),
)
METADATA = st.one_of(
    st.none(),
    st.just({"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}),
    st.lists(NAMES, max_size=5).map(
        lambda names: {"info": {"features": {"label": {"names": names}}}}
    ),
    st.recursive(
        st.none() | st.integers() | NAMES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["info", "{", "[" * 100_000, "\xff"]),
)
KINDS: tuple[Any, ...] = (
    *(pa.int64(), pa.int8(), pa.uint64(), pa.float64(), pa.string(), pa.bool_()),
    *(pa.dictionary(pa.int32(), pa.int64()), pa.list_(pa.int64())),
)
Rows = tuple[list[tuple[bool, int | None]], Any, Any, bool, str]
TABLES: SearchStrategy[Rows] = st.tuples(
    st.lists(st.tuples(st.booleans(), LABELS), max_size=8),
    METADATA,
    st.sampled_from(KINDS),
    st.booleans(),
    st.sampled_from(("label", "labels", "fine_label", "Label", "image")),
)


def table_of(rows: Rows) -> pa.Table | None:
    """The table, or None where its values do not fit into its type."""
    cells, facts, kind, nested, name = rows
    images: list[Any] = [
        png(row) if has_image else None for row, (has_image, _) in enumerate(cells)
    ]
    if nested:
        images = [None if data is None else {"bytes": data, "path": "x"} for data in images]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    try:
        labels = [label for _, label in cells]
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_list(kind):
            column = pa.array([None if label is None else [label] for label in labels], kind)
        elif pa.types.is_string(kind):
            column = pa.array([None if label is None else str(label) for label in labels], kind)
        else:
            column = pa.array(labels, plain)
            column = column.dictionary_encode() if plain != kind else column
    except (pa.ArrowException, OverflowError):
        return None
    columns = [pa.array(images, struct if nested else pa.binary()), column]
    table = pa.Table.from_arrays(columns, names=["image", name])
    if facts is not None:
        text = facts if isinstance(facts, str) else json.dumps(facts)
        data = text.encode("utf-8", "surrogatepass")
        table = table.replace_schema_metadata({"huggingface": data})
    return table


def walked(file: Path) -> tuple[tuple[str, ...], list[tuple[int, bool]]] | None:
    """Classes, and label and fate of each row of a Parquet file; None for a sentence."""
    try:
        source = SOURCES["parquet"](SourceRequest(str(file)))
        items = [item for split in source.splits.values() for item in split.items()]
    except UserError as error:
        check_sentence(str(error))
        return None
    for item in items:
        assert -1 <= item.label < len(source.classes)
        assert not item.error or item.error.isprintable()
    return source.classes, [(item.label, not item.error) for item in items]


def check_table(rows: Rows) -> None:
    """Labels are those of the table, and rows without image or class are reported one by one."""
    cells, _, kind, _, _ = rows
    table = table_of(rows)
    if table is None:
        return
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "a.parquet"
        pq.write_table(table, file)
        contents = walked(file)
    if contents is None:
        return
    classes, items = contents
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        assert classes == tuple(sorted({str(label) for _, label in cells if label is not None}))
        for (has_image, label), (item_label, usable) in zip(cells, items, strict=True):
            assert usable == (has_image and label is not None)
            assert not usable or classes[item_label] == str(label)
        return
    assert pa.types.is_integer(kind) or pa.types.is_dictionary(kind)  # which is kept as integers
    names = classes if all(name.isdecimal() for name in classes) else None
    present = sorted({label for _, label in cells if label is not None and label >= 0})
    for (has_image, label), (item_label, usable) in zip(cells, items, strict=True):
        fits = label == -1 or (label is not None and label >= 0)
        if names == tuple(map(str, present)) and names:
            true_label = -1 if label == -1 or label is None else label
            assert usable == (has_image and fits)
            assert not usable or item_label == (
                present.index(true_label) if true_label >= 0 else -1
            )
        else:
            assert usable == (has_image and fits and (label or 0) < len(classes))
            assert not usable or item_label == label


def check_damaged_table(drawn: tuple[int, list[tuple[float, int]], float]) -> None:
    """Any bytes are rows with labels of classes, or a sentence."""
    rows, bytes_at, cut = drawn
    cells: list[tuple[bool, int | None]] = [(True, row % 3) for row in range(rows)]
    facts = {"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}
    table = table_of((cells, facts, pa.int64(), bool(rows % 2), "label"))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=("snappy", "gzip", "zstd", "none")[rows % 4])
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "a.parquet"
        file.write_bytes(damaged(buffer.getvalue(), bytes_at, cut))
        contents = walked(file)
    assert contents is None or len(contents[1]) == rows


def check_names(drawn: tuple[list[str], list[str], bool]) -> None:
    """Accepted classes are readable and distinct."""
    one, two, merge = drawn
    parts = {
        name: Part(Source(tuple(labels), {}, ()), "task", 1.0, Path())
        for name, labels in (("one", one), ("two", two))
    }
    try:
        classes = join_classes(parts, merge)
    except UserError as error:
        check_sentence(str(error))
        return
    assert set(classes) == {*one, *two}
    assert len(set(classes)) == len(classes)
    for class_name in classes:
        assert not unreadable(class_name)
        class_name.encode()


Tree = dict[str, list[str]]
WORDS = st.one_of(
    st.sampled_from(
        (
            "train",
            "Train",
            "val",
            "test",
            "cat",
            "Cat",
            "dog",
            "caf\u00e9",
            "cafe\u0301",
            "new\nline",
        )
    ),
    st.sampled_from(("\udce9", "<b>", "$x$", "[red]", ".hidden", "x.png", "日本")),
)
TREES: SearchStrategy[Tree] = st.dictionaries(
    st.lists(WORDS, min_size=0, max_size=3).map("/".join),
    st.lists(st.sampled_from(("1.png", "2.JPG", "3.txt", "4.heic", ".5.png")), max_size=3),
    max_size=6,
)


def check_folder(tree: Tree) -> None:
    """Every visible image is listed once, under the class of its folder; or a sentence."""
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        for folder, names in tree.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for name in names:
                (root / folder / name).write_bytes(png(1))
            if names:
                os.mkfifo(root / folder / "6.png")
                (root / folder / "7.png").symlink_to("/dev/zero")
                (root / folder / "8").symlink_to(root / folder)
        try:
            source = SOURCES["folder"](SourceRequest(str(root)))
        except UserError as error:
            check_sentence(str(error))
            return
        items = [item for split in source.splits.values() for item in split.items()]
        assert len({item.location for item in items}) == len(items)
        for item in items:
            assert isinstance(item.data, Path) or item.error
            inside = Path(item.location).relative_to(root).parts
            assert item.label == -1 or source.classes[item.label] in inside
            assert not any(part.startswith(".") for part in inside)


class Reader(HTMLParser):
    """Tags, attributes and words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[tuple[str, tuple[str, ...]]] = set()
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def tags_of(text: str) -> set[tuple[str, tuple[str, ...]]]:
    """Every kind of tag of a page, with the names of its attributes."""
    reader = Reader()
    reader.feed(text)
    return reader.tags


def check_page(names: tuple[str, str, str]) -> None:
    """No name adds a tag or an attribute to a page."""

    def html_page(one: str, two: str, three: str) -> str:
        row = {"backbone": one, "retrieval": two, "memory": three, "bank_size": 9, "k": 2}
        rows = [{**row, "noise_std": 0.0, "top1": 0.5, "top3": 0.6}]
        baseline = VoteBaseline("rank", 3, {0.0: 0.5}, two)
        tables = (accuracy_table(rows, {}, [baseline]), edits_table(rows, {three: baseline}))
        parts = "".join(table.html() for table in tables)
        finding = Finding(three, BETTER, "+1.0", "+0.5, +1.5", one)
        cards = [Card(one, two, 3, [finding], [three])]
        picture = Fold(two, html.escape(one), figure(three, b"png", b"narrow"))
        top = opening(one, two, picture, cards, [three])
        folds = [Fold(three, html.escape(two), parts)]
        return page(one, top, [Block("Label", two, figure(three, b"png"), one, folds)])

    assert tags_of(html_page(*names)) <= tags_of(html_page("a", "b", "c"))


Property = tuple[SearchStrategy[Any], Callable[[Any], None]]
PROPERTIES: dict[str, Property] = {
    "pictures": (pictures(), check_picture),
    "damage": (DAMAGE, check_damage),
    "cut": (st.tuples(pictures(), st.floats(0, 1)), check_cut),
    "tails": (TAILS, check_tail),
    "flips": (FLIPS, check_flip),
    "behind": (st.tuples(pictures(), BEHIND), check_behind),
    "metadata": (METADATA_OF_IMAGES, check_metadata),
    "tables": (TABLES, check_table),
    "damaged-tables": (st.tuples(st.integers(1, 9), BYTES, st.floats(0, 1)), check_damaged_table),
    "names": (
        st.tuples(st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4), st.booleans()),
        check_names,
    ),
    "folders": (TREES, check_folder),
    "page": (st.tuples(NAMES, NAMES, NAMES), check_page),
    "sentences": (st.text(st.characters(), min_size=1), check_error),
}
