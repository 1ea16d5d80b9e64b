"""Images in storage that speaks S3 are those of a folder, even where requests break."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_images
from faulty_s3 import FaultyS3
from PIL import Image

from rapipe import paths
from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import load
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import cache_key
from rapipe.corpus.sources import SOURCES, Source, SourceRequest
from rapipe.errors import ArgumentError
from rapipe.io import storage
from rapipe.pipeline import corpus
from rapipe.pipeline.inputs import corpus_card
from rapipe.records import Images

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0.01)
    with FaultyS3("images") as running:
        yield running


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def files(count: int) -> dict[str, bytes]:
    """Images in folders by class, one without a suffix, notes, litter, and Parquet."""
    pixels = make_images(count).pixels
    names = [f"{'abc'[i % 3]}/{'deep/' * (i % 2)}{i}{'.png' * (i > 0)}" for i in range(count)]
    contents = dict(zip(names, map(png, pixels), strict=True))
    return {**contents, "a/notes.txt": b"text", "b/.hidden/x.png": b"", "readme": b"hello"}


def table(count: int) -> bytes:
    cells = [{"bytes": png(pixels)} for pixels in make_images(count, seed=1).pixels]
    stream = io.BytesIO()
    columns = {"image": cells, "label": [f"class {i % 3}" for i in range(count)]}
    pq.write_table(pa.table(columns), stream, row_group_size=7)
    return stream.getvalue()


def place(contents: dict[str, bytes], folder: Path, server: FaultyS3) -> None:
    """The same files in a folder and under a prefix."""
    for name, content in contents.items():
        file = folder / "some" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        server.put(f"some/{name}", content)


def contents(source: Source) -> dict[str, list[tuple[bytes, int, str]]]:
    """Image, label and error of each item."""
    return {
        name: [
            (item.data.read_bytes() if isinstance(item.data, Path) else item.data, *item[1::2])
            for item in split.items()
        ]
        for name, split in source.splits.items()
    }


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_source_is_the_same(kind: str, server: FaultyS3, tmp_path: Path) -> None:
    made = (
        files(60) if kind == "folder" else {f"{s}-0.parquet": table(40) for s in ("train", "test")}
    )
    place(made, tmp_path, server)
    local = SOURCES[kind](SourceRequest(str(tmp_path / "some")))
    with server.faults():
        remote = SOURCES[kind](SourceRequest("s3://images/some"))
        assert contents(remote) == contents(local)
    assert min(server.harmed.values()) > 0
    assert remote.classes == local.classes
    assert remote.passed_over == local.passed_over
    assert not remote.files
    first = next(iter(remote.splits.values())).items().__next__()
    assert first.location.startswith("s3://images/some/")
    request, decoding = SourceRequest("s3://images/some"), Decoding(16)
    before = cache_key(kind, request, remote, decoding)
    assert cache_key(kind, request, SOURCES[kind](request), decoding) == before
    server.put(f"some/{next(iter(made))}", table(41) if kind == "parquet" else b"other")
    assert cache_key(kind, request, SOURCES[kind](request), decoding) != before


def test_one_parquet_file(server: FaultyS3, tmp_path: Path) -> None:
    place({"x.parquet": table(9)}, tmp_path, server)
    local = SOURCES["parquet"](SourceRequest(str(tmp_path / "some/x.parquet")))
    remote = SOURCES["parquet"](SourceRequest("s3://images/some/x.parquet"))
    assert contents(remote) == contents(local)


def test_a_corpus_is_the_same(
    server: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place({name: raw for name, raw in files(60).items() if "/" in name}, tmp_path, server)
    presets.write("tiny", paths.PARAMS)
    params = load(paths.PARAMS)
    hashes, locations = [], []
    for path in ("some", "s3://images/some"):
        sources = (SourceParams(kind="folder", path=path),)
        with server.faults():
            corpus.run(
                dataclasses.replace(
                    params, corpus=dataclasses.replace(params.corpus, sources=sources)
                )
            )
        hashes.append(corpus_card()["hash"])
        locations.append(paths.LOCATIONS.read_text())
    assert hashes[0] == hashes[1]
    assert locations[0].replace("some/", "s3://images/some/") == locations[1]
    assert len(Images.read(paths.split("train"))) > 30


@pytest.mark.parametrize(
    ("kind", "path", "sentence"),
    [
        ("folder", "s3://images/none", "there is no file below s3://images/none"),
        ("parquet", "s3://images/none", "no Parquet file at or below s3://images/none"),
        ("cifar10", "s3://images/none", "read by the kinds folder and parquet"),
    ],
)
def test_what_is_not_there(kind: str, path: str, sentence: str, server: FaultyS3) -> None:
    with pytest.raises(ArgumentError, match=f"`path`.*{sentence}"):
        SOURCES[kind](SourceRequest(path))
