"""A memory of imported vectors, without an encoder: what works, and what says that it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_memory_edit import data, rapipe

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.records import Embeddings
from rapipe.retrieval.store import Store


@pytest.fixture
def project(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(tiny[0], folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.ci
def test_import_then_pretrain_embed_and_look_up(project: Path) -> None:
    before = data("neighbors", "7", "-k", "3")["neighbours"]
    rapipe("store", "export", "mine.parquet")
    exported = pq.read_table("mine.parquet")
    assert exported["origin"].to_pylist()[0].startswith("digit ")
    order = np.random.default_rng(0).permutation(len(exported))
    pq.write_table(exported.take(order).select(["origin", "vector"]), "mine.parquet")
    words = "--key is 'id', but mine.parquet has no column of integers"
    assert words in rapipe("store", "import", "mine.parquet", "--key", "id", code=2)
    assert not paths.VECTORS_CARD.exists()
    text = rapipe("store", "import", "mine.parquet")
    assert "data/vectors holds 5,000 vectors of 32 dimensions, joined by path; set pretrain" in text
    assert "run rapipe pretrain and rapipe embed, or dvc repro" in text
    card = json.loads(paths.VECTORS_CARD.read_text())
    assert (card["file"], card["key"], card["count"]) == ("mine.parquet", "path", 5000)
    assert (paths.VECTORS / ".gitkeep").exists()
    params = Path("params.yaml").read_text()
    for line in params.splitlines():
        name = line.strip().partition(":")[0]
        if name in ("objective", "encoder"):
            value = {"objective": "imported", "encoder": "none"}[name]
            params = params.replace(line, f"  {name}: {value}")
    Path("params.yaml").write_text(params)
    assert "set pretrain.objective" not in rapipe("store", "import", "mine.parquet")
    stored = Store.open(paths.STORE, paths.STORE_MANIFEST).manifest
    rapipe("pretrain")
    rapipe("embed")
    manifest = Store.open(paths.STORE, paths.STORE_MANIFEST).manifest
    assert manifest.sha256 == stored.sha256  # the same rows, to the last bit
    assert manifest.encoder != stored.encoder
    facts = data("store", "info")
    assert facts["encoder imported from"] == "mine.parquet, by path"
    assert facts["encoder is data/encoder"]
    assert "encoder backbone" not in facts
    rapipe("prefetch")
    assert len(Embeddings.read(paths.BANK)) == 3500
    shutil.rmtree(paths.MODELS)  # classifiers of the other memory
    rows = data("neighbors", "7", "-k", "3")["neighbours"]
    assert [row["id"] for row in rows] == [row["id"] for row in before]
    pixels = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("one.png")
    error = rapipe("neighbors", "one.png", code=2)
    assert "one.png has no imported vector, and no encoder is at hand that could embed it" in error
    error = rapipe("store", "add", "one.png", code=2)
    assert "no encoder is at hand that could embed one.png: name the one that made them" in error


def test_the_encoders_facts_are_shown(project: Path) -> None:
    facts = data("store", "info")
    card = json.loads((paths.ENCODER / "card.json").read_text())
    assert facts["encoder backbone"] == card["spec"]["backbone"]
    assert facts["encoder mean"] == card["spec"]["mean"]
    assert facts["encoder hash"] == card["hash"][:12]
    assert "encoder image size" in rapipe("store", "info")
