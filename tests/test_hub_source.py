"""Parquet sources on the hub: the same images as from a file, of one commit, and one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import COMMIT, FakeHub, serving
from PIL import Image
from test_sources import write_parquet

from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import load
from rapipe.corpus.sources import SOURCES, Source, SourceRequest
from rapipe.errors import ArgumentError
from rapipe.pipeline import corpus as stage

DATA = "hf://datasets/org/digits"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A data set of two splits, and a README beside it."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    root = tmp_path / "hub"
    folder = root / "datasets/org/digits"
    write_parquet(folder / "data/train-00000-of-00002.parquet", [0, 1])
    write_parquet(folder / "data/train-00001-of-00002.parquet", [1])
    write_parquet(folder / "data/test-00000-of-00001.parquet", [0])
    (folder / "README.md").write_text("digits")
    fake = FakeHub(root)
    with serving(fake, tmp_path / "cache", monkeypatch):
        yield fake


def opened(path: str) -> Source:
    return SOURCES["parquet"](SourceRequest(path))


@pytest.mark.parametrize("path", ["", "/", "/data", "/data/*.parquet", "@main/data"])
def test_a_data_set_is_read_as_its_folder_is(path: str, hub: FakeHub) -> None:
    source = opened(DATA + path)
    local = opened(str(hub.root / "datasets/org/digits"))
    assert source.classes == local.classes
    assert list(source.splits) == list(local.splits) == ["train", "test"]
    for split in source.splits:
        ours, theirs = ([*read.splits[split].items()] for read in (source, local))
        assert [item[:2] for item in ours] == [item[:2] for item in theirs]
    last = [*source.splits["train"].items()][-1]
    assert last.location == f"{DATA}@{COMMIT}/data/train-00001-of-00002.parquet row 0"
    assert source.revision == COMMIT
    assert "write that to read it again" in source.hints[0]
    assert not any("README" in request for request in hub.requests)


def test_one_file_is_not_divided_by_its_name(hub: FakeHub) -> None:
    source = opened(f"{DATA}/data/test-00000-of-00001.parquet")
    assert list(source.splits) == ["all"]
    assert sum("resolve" in request for request in hub.requests) <= 2


def test_a_commit_in_the_cache_needs_no_network(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    first = opened(f"{DATA}@{COMMIT}/data")
    assert not first.hints
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert opened(f"{DATA}@{COMMIT}/data").files == first.files
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://org/digits", "is no data set on the hub: write hf://datasets/OWNER/NAME"),
        ("hf://datasets/org/none/x", r"the hub has no https://\S+/datasets/org/none, or hides"),
        (f"{DATA}@v2/data", r"has no such revision: name a branch, a tag or a commit"),
        (f"{DATA}/data/val-*.parquet", r"names no file .*; the data set has data/test-00000"),
        (f"{DATA}/other", r"names no file that ends in .parquet; the data set has"),
    ],
)
def test_what_is_not_there_is_told(path: str, message: str, hub: FakeHub) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        opened(path)
    assert str(caught.value).startswith(f"`path`: {path!r} ")


@pytest.mark.parametrize("status", [401, 403])
def test_a_private_or_gated_data_set(status: int, hub: FakeHub) -> None:
    hub.gated["datasets/org/digits"] = status
    with pytest.raises(ArgumentError, match=r"ask for access on .*, and log in by hf auth login"):
        opened(DATA)


def test_a_broken_download_and_no_network(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.cut.add("test-00000-of-00001.parquet")
    with pytest.raises(ArgumentError, match=r"cannot be read: the hub did not do it .*again"):
        opened(DATA)
    hub.cut.clear()
    assert opened(DATA).splits
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ArgumentError, match="the hub is out of reach: mend the network"):
        opened(DATA)


def test_the_corpus_card_records_the_commit(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.root / "datasets/org/photos"
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for label in [0, 1] * 8:
        buffer = BytesIO()
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue()}, "label": label})
    pq.write_table(pa.Table.from_pylist(rows), folder / "photos.parquet")
    monkeypatch.chdir(tmp_path)
    presets.write("tiny", Path("params.yaml"))
    path = "hf://datasets/org/photos/photos.parquet"
    params = load(Path("params.yaml"))
    source = SourceParams(kind="parquet", path=path)
    corpus = replace(params.corpus, sources=(source,), image_size=16)
    stage.run(replace(params, corpus=corpus))
    card = json.loads(Path("data/corpus/card.json").read_text())
    assert card["sources"]["parquet"]["revision"] == COMMIT
    locations = Path("data/corpus/locations.csv").read_text()
    assert f"hf://datasets/org/photos@{COMMIT}/photos.parquet row 0" in locations
    assert str(tmp_path) not in locations
