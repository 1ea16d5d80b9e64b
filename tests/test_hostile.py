"""Files that try: to run code, to write outside, to fill the memory, to never end."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import tarfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import load
from rapipe.corpus.contact_sheet import contact_sheet
from rapipe.corpus.decode import Decoding, decode
from rapipe.corpus.decode_cache import ROWS, DecodedSplit, Workers, decode_split
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.corpus.sources.archives import unpack
from rapipe.corpus.sources.base import Item, Split
from rapipe.corpus.sources.download import md5_of
from rapipe.corpus.sources.trees import file_tree
from rapipe.encoder.backbones import build
from rapipe.encoder.checkpoints import fill, read
from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.io.checksums import write_checksums
from rapipe.pipeline.running.whole import run_all
from rapipe.records import Embeddings, Images
from rapipe.report import pictures, style
from tests.faults.images import tags_of

cifar, svhn, trees = (
    import_module(f"rapipe.corpus.sources.{n}") for n in ("cifar", "svhn", "trees")
)
EIGHT = Decoding(8)
BOMB_BYTES = 1 << 27


class Exploit:
    """Unpickling it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.trace}",))


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    """A file that is written if code of a file runs."""
    path = tmp_path / "code-has-run"
    yield path
    assert not path.exists()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@cache
def inflating() -> bytes:
    """A zlib stream of zeros, a thousandth of their size."""
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(1 << 20)) for _ in range(BOMB_BYTES >> 20)]
    return b"".join(blocks) + packer.flush()


def tiff(*tags: tuple[int, int], data: bytes = b"") -> bytes:
    """Greyscale of 8 bits; each tag has one number of 32 bits."""
    packed = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in sorted(tags))
    return struct.pack("<2sHLH", b"II", 42, 8, len(tags)) + packed + bytes(4) + data


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def icon() -> bytes:
    """An icon of 16 by 16 that holds a PNG of 20,000 by 9,000."""
    inside = png(20_000, 9_000, zlib.compress(b""))
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


def scans() -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    jpeg = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    return jpeg[:-2] + 5000 * last + jpeg[-2:]


GREY = ((258, 8), (262, 1), (277, 1))
TINY = zlib.compress(bytes(200))
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "claims 50,000 x 50,000": (lambda: png(50_000, 50_000, TINY), "`max_pixels`"),
    "icon": (icon, "`max_pixels`"),
    "scans": (scans, "more than 100 scans"),
    "huge tiles": (
        lambda: tiff(
            *((256, 8), (257, 8), (259, 8), *GREY),
            *((322, 16384), (323, 65536), (324, 200), (325, 12)),
            data=bytes(99),
        ),
        "has tiles of more pixels",
    ),
    "huge strips": (
        lambda: tiff(
            *((256, 8), (257, 8), (259, 8), *GREY),
            *((273, 122), (278, 2**32 - 1), (279, 2**32 - 16)),
            data=bytes(99),
        ),
        "is no image that can be read",
    ),
    "strips that are not there": (
        lambda: tiff(
            *((256, 13), (257, 8_000_000), (259, 1), *GREY, (273, 122), (278, 9), (279, 117)),
            data=bytes(200),
        ),
        "parts of it are missing",
    ),
    "GIF": (
        lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80" + bytes(8) + b",;",
        "is no image|`max_pixels`",
    ),
}


@pytest.mark.parametrize("head", [b"iCCPx\0\0", b"zTXtx\0\0", b"zTXtRaw profile type exif\0\0"])
def test_bombs_in_metadata_are_not_unpacked(head: bytes) -> None:
    data = png(8, 8, TINY, chunk(head[:4], head[4:] + inflating()))
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    assert not decode(data, "x", EIGHT).any()
    assert time.monotonic() - start < 5
    assert psutil.Process().memory_info().rss - before < BOMB_BYTES // 2


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_neither_memory_nor_time(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, reason = BOMBS[name]
    data = make()
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(UserError, match=rf"^x .*({reason})"):
        decode(data, "x", EIGHT)
    assert time.monotonic() - start < 5
    assert psutil.Process().memory_info().rss - before < BOMB_BYTES // 2
    assert capfd.readouterr().err == ""


def test_more_data_than_the_picture_needs() -> None:
    data = png(8, 8, inflating())
    assert len(data) < BOMB_BYTES // 100
    assert not decode(data, "x", EIGHT).any()


def test_jpeg2000_without_its_end() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    jpeg = encoded(Image.fromarray(noise), "JPEG2000", irreversible=False)
    assert np.array_equal(decode(jpeg, "x", EIGHT), noise)
    for end in range(len(jpeg) - 2):
        with pytest.raises(UserError):
            decode(jpeg[:end], "x", EIGHT)


NOT_READ = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%id) (w) file\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(99),
    "ICNS": b"icns" + struct.pack(">I", 99) + bytes(91),
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  = 8".ljust(80),
    "PDF": b"%PDF-1.4\n",
    "pickle": pickle.dumps([1, 2, 3]),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(99),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_formats_that_are_not_read(name: str, tmp_path: Path) -> None:
    """Whatever the file is called."""
    (tmp_path / "a.png").write_bytes(NOT_READ[name])
    with pytest.raises(UserError, match="is no image that can be read: it is none of JPEG"):
        decode(tmp_path / "a.png", "x", EIGHT)


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    with socket.socket(socket.AF_UNIX) as unix_socket:
        unix_socket.bind(os.path.relpath(tmp_path / "s.png"))
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("fifo.png", "zero.png", "folder.png", "huge.png", "s.png", "loop.png"):
        with pytest.raises(UserError, match=r"^x (cannot be read: |has 1,099,511,627,776 bytes)"):
            decode(tmp_path / name, "x", EIGHT)
    (tmp_path / "huge.png").unlink()
    items = SOURCES["folder"](SourceRequest(str(tmp_path))).splits["all"].items()
    assert {Path(item.location).name: item.error for item in items} == {
        "fifo.png": "is no regular file",
        "loop.png": "is a link to 'loop.png', which cannot be read: "
        "Too many levels of symbolic links",
        "s.png": "is no regular file",
        "zero.png": "is a link to '/dev/zero', which is no regular file",
    }
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet is no regular file"):
        SOURCES["parquet"](SourceRequest(str(tmp_path)))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


ESCAPES = {
    "up": [member("../out")],
    "up and down": [member("top/../../out")],
    "link, then through it": [member("top/l", tarfile.SYMTYPE, "../.."), member("top/l/out")],
    "link to the root": [member("top/l", tarfile.SYMTYPE, "/"), member("top/l/tmp/out")],
    "hard link": [member("top/l", tarfile.LNKTYPE, "../../secret")],
    "link inside": [member("top/l", tarfile.SYMTYPE, "x")],
    "device": [member("top/d", tarfile.CHRTYPE)],
    "pipe": [member("top/p", tarfile.FIFOTYPE)],
    "bomb": [member("top/b", size=1 << 35)],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_tar_files_stay_inside(name: str, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(root / "a.tar", "w") as packed:
        packed.addfile(member("top/x"))
        for info in ESCAPES[name]:
            packed.fileobj.write(info.tobuf())  # type: ignore[union-attr]
    archive = replace(cifar.CIFAR10, name="a.tar", md5=md5_of(root / "a.tar"))
    with pytest.raises(UserError, match=r"a\.tar cannot be unpacked: ") as caught:
        unpack("cifar10", SourceRequest(str(root)), archive, "top")
    assert str(caught.value).isprintable()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "secret"]
    assert [p.name for p in root.iterdir()] == ["a.tar"]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_zip_files_stay_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("../out", "/tmp/rapipe-out", "good"):
            packed.writestr(name, b"x")
        packed.writestr("bomb", bytes(1 << 20))
    files = file_tree(path)
    assert files.read("../out") == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    assert not Path("/tmp/rapipe-out").exists()
    monkeypatch.setattr(trees.loading, "MAX_BYTES", 1 << 19)
    with pytest.raises(UserError, match=r"a\.zip: bomb has 1,048,576 bytes, more than any image"):
        files.read("bomb")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # encrypted, it says
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no zip file that can be read"):
        files.read("../out")


def test_batches_of_cifar_with_code_or_without_sense(tmp_path: Path, trace: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
    for content in (Exploit(trace), {b"labels": Exploit(trace)}, [Exploit(trace)] * 9):
        for name in names:
            (folder / name).write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="names no classes"):
            SOURCES["cifar10"](SourceRequest(str(tmp_path)))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"\xff\xfe"]}))
    with pytest.raises(UserError, match=r"batches\.meta is no text"):
        SOURCES["cifar10"](SourceRequest(str(tmp_path)))


def test_matlab_files_with_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    images = np.zeros((32, 32, 3, 2), np.uint8)
    hostile: list[dict[str, Any]] = [
        {"X": images, "y": np.array([{"a": 1}, "b"], object)},
        {"X": images, "y": np.array([[1], [11]])},
        {"X": images, "y": np.array([[1.0], [np.nan]])},
        {"X": images.astype(object), "y": np.array([[1], [2]])},
        {"X": images.astype(float), "y": np.array([[1], [2]])},
        {"X": {"a": 1}, "y": np.array([[1], [2]])},
        {"X": images, "y": "text"},
    ]
    for content in hostile:
        archives_by_split = {}
        for split, archive in svhn.ARCHIVES.items():
            savemat(tmp_path / archive.name, content)
            archives_by_split[split] = replace(archive, md5=md5_of(tmp_path / archive.name))
        monkeypatch.setattr(svhn, "ARCHIVES", archives_by_split)
        with pytest.raises(UserError, match=r"_32x32\.mat (holds|is no MATLAB file)"):
            list(SOURCES["svhn"](SourceRequest(str(tmp_path))).splits["train"].items())


STATE = {"conv1.weight": torch.ones(2)}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".tar"])
def test_checkpoints_with_code(suffix: str, tmp_path: Path, trace: Path) -> None:
    path = tmp_path / f"a{suffix}"
    torch.save({**STATE, "more": Exploit(trace)}, path)
    with pytest.raises(UserError, match=r"more than tensors \(posix\.system\) and could run code"):
        read(str(path))
    torch.save([Exploit(trace)], path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="more than tensors"):
        read(str(path))
    path.write_bytes(pickle.dumps(Exploit(trace)))
    with pytest.raises(UserError, match="more than tensors"):
        read(str(path))
    with tarfile.open(path, "w") as packed:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Exploit(trace))
            packed.addfile(member(name, size=len(content)), io.BytesIO(content))
    with pytest.raises(UserError, match=r"more than tensors|does not load"):
        read(str(path))


def test_checkpoints_that_are_no_plain_numbers(tmp_path: Path) -> None:
    backbone = build("alexnet", 4, "half", 16)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    name = next(key for key, tensor in before.items() if tensor.ndim == 4)
    tensor, path = before[name], str(tmp_path / "a.pt")
    for odd, message in (
        (tensor.to_sparse(), "no plain array of numbers"),
        (torch.empty(tensor.shape, device="meta"), "no plain array of numbers"),
        (tensor.to(torch.complex64), "no plain array of numbers"),
        (tensor * float("nan"), "not finite"),
        (tensor.double() + 1e300, "not finite"),
    ):
        torch.save({**before, name: odd}, path)
        with pytest.raises(UserError, match=message):
            fill(backbone, read(path), path)
        assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())


def test_checkpoints_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    circle: dict[str, Any] = dict(STATE)
    circle["self"] = circle
    torch.save(circle, path)
    assert list(read(str(path))) == ["conv1.weight"]
    doubled: dict[str, Any] = {}
    for _ in range(60):
        doubled = {"a": doubled, "b": doubled}
    torch.save({**STATE, "more": doubled}, path)
    assert list(read(str(path))) == ["conv1.weight"]
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "b.pt") as old, zipfile.ZipFile(path, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match=r"unpacks to 4,.* bytes, more than it has"):
        read(str(path))


HEADERS: dict[str, tuple[bytes, int | None]] = {
    "length beyond all": (b"{}", 2**63),
    "length beyond the file": (b"{}", 90_000_000),
    "nested": (b"[" * 100_000, None),
    "overlap": (
        json.dumps(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            }
        ).encode(),
        None,
    ),
    "overflow": (
        b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}}',
        None,
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors_with_hostile_headers(name: str, tmp_path: Path) -> None:
    header, length = HEADERS[name]
    size = struct.pack("<Q", len(header) if length is None else length)
    (tmp_path / "a.safetensors").write_bytes(size + header + bytes(12))
    with pytest.raises(UserError, match="does not load"):
        read(str(tmp_path / "a.safetensors"))


def test_arrays_with_code_or_without_end(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "vectors.npy"
    np.save(path, np.array([Exploit(trace)], object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        memory_map.map_array(path)
    for shape in ("(4294967296, 4294967296)", "(-1, 4)", "(3, 4)"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(16))
        with pytest.raises(ValueError):  # noqa: PT011
            memory_map.map_array(path)
    from conftest import make_embeddings

    make_embeddings(4).write(tmp_path / "bank")
    np.save(tmp_path / "bank/vectors.npy", np.array([Exploit(trace)], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"vectors\.npy is damaged \(it holds objects"):
        Embeddings.read(tmp_path / "bank")


def test_cached_rows_with_code(tmp_path: Path, trace: Path) -> None:
    folder = tmp_path / "key" / "all"
    split = Split(1, lambda: iter([Item(np.zeros((8, 8), np.uint8), 0, "row 0")]))
    with Workers() as workers:
        decode_split(split, "s", EIGHT, False, folder, workers)
        names = ("positions", "ids", "labels", "sizes", "count")
        objects = {name: np.array([Exploit(trace)], object) for name in names}
        np.savez(folder / ROWS, **objects)  # type: ignore[arg-type]
        write_checksums(folder)
        assert DecodedSplit.read(folder, 8) is None
        decode_split(split, "s", EIGHT, False, folder, workers)


NAMES = (
    *("$\\frac$", "$", "a\\b", "日本語", "שלום", "😀", "x" * 500, "<b>&", "e\u0301", "%s", "[red]"),
    *("line\nline", "a" + 40 * "\u0301"),
)


def test_figures_stand_any_name(tmp_path: Path) -> None:
    """Warnings are errors here."""
    image = np.zeros((8, 8, 3), np.uint8)
    row = {"similarity": 0.5, "attention": 0.1, "effect": 0.0}
    half, others = NAMES[:7], NAMES[7:]
    rows = [{**row, "class": name} for name in half]
    many = np.repeat(image[None], len(NAMES), 0)
    example = pictures.Neighbourhood(image, NAMES[0], many, others, (0.5,) * len(others))
    title = f"net says {NAMES[6]}"
    for figure in (
        pictures.gallery([example]),
        pictures.query_and_neighbours(image, title, many, rows, NAMES[0], NAMES[1]),
    ):
        data = style.png(figure)
        with Image.open(io.BytesIO(data)) as drawn:
            assert max(drawn.size) < 3000
    images = Images(
        np.arange(len(NAMES)),
        np.zeros((len(NAMES), 8, 8, 3), np.uint8),
        np.arange(len(NAMES)),
        np.array(NAMES),
        NAMES,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contact_sheet(images, tmp_path / "b.png", 0)


@pytest.mark.slow
def test_a_report_on_classes_with_names_that_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage runs; no name adds a tag or an attribute to the page."""
    names = [
        "<script>alert(1)</script>",
        "$\\frac$ & \"q\" onload='x'",
        "日本語 שלום 😀",
        "x" * 400,
    ]
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 16)):
        noise = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        cells = [encoded(Image.fromarray(pixels), "PNG") for pixels in noise]
        metadata = {"info": {"features": {"label": {"names": names}}}}
        table = pa.table({"image": pa.array(cells), "label": [i % 4 for i in range(count)]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
        Path("d").mkdir(exist_ok=True)
        pq.write_table(table, f"d/{split}.parquet")
    presets.write("tiny", Path("params.yaml"))
    params = load(Path("params.yaml"))
    source = SourceParams(kind="parquet", path="d", name="<i>src$frac$ [red]")
    params = replace(
        params,
        corpus=replace(params.corpus, sources=(source,)),
        classifiers=replace(params.classifiers, backbones=("alexnet",)),
    )
    run_all(params)
    page = Path("results/index.html").read_text("utf-8")
    assert "&lt;script&gt;" in page
    kinds = {tag for tag, _ in tags_of(page)}
    assert not kinds & {"i", "iframe", "object"}
    assert page.count("<script>") == page.count("<link ") == 1
    attributes = {name for _, names in tags_of(page) for name in names}
    known = {"lang", "charset", "name", "content", "http-equiv", "alt", "src", "srcset", "media"}
    assert attributes <= known | {"aria-label", "class", "href", "id", "rel", "scope"}
