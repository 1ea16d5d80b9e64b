from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_embeddings

from rapipe import store
from rapipe.errors import UserError
from rapipe.records import Embeddings


def put(folder: Path, rows: Embeddings, encoder: str = "e") -> store.Manifest:
    return store.write(rows, encoder, folder / "store", folder / "store.json")


def get(folder: Path) -> tuple[Embeddings, store.Manifest]:
    return store.read(folder / "store", folder / "store.json")


def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BATCH", 7)
    rows = make_embeddings(30)
    made = put(tmp_path, rows)
    read, manifest = get(tmp_path)
    assert manifest == made
    assert (made.rows, made.dimension, made.splits) == (30, 8, {"train": 30})
    for name in ("ids", "vectors", "labels", "sources", "splits"):
        assert np.array_equal(getattr(read, name), getattr(rows, name)), name


def test_one_commit_is_one_version(tmp_path: Path) -> None:
    import lancedb

    put(tmp_path, make_embeddings(20))
    table = lancedb.connect(str(tmp_path / "store")).open_table(store.TABLE)
    assert len(table.list_versions()) == 1


def test_hash_is_of_the_content_not_of_the_order() -> None:
    rows = make_embeddings(30)
    order = np.random.default_rng(0).permutation(30)
    assert store.content_hash(rows) == store.content_hash(rows.take(order))
    moved = rows.vectors.copy()
    moved[3, 1] = np.nextafter(moved[3, 1], 1)
    for other in (
        Embeddings(rows.ids, moved, rows.labels, rows.sources, rows.splits),
        Embeddings(rows.ids, rows.vectors, rows.labels[::-1].copy(), rows.sources, rows.splits),
        Embeddings(rows.ids, rows.vectors, rows.labels, rows.splits, rows.splits),
        rows.take(np.arange(29)),
    ):
        assert store.content_hash(rows) != store.content_hash(other)


def test_writing_again_replaces(tmp_path: Path) -> None:
    put(tmp_path, make_embeddings(30))
    put(tmp_path, make_embeddings(12, seed=1), "other")
    rows, manifest = get(tmp_path)
    assert (len(rows), manifest.encoder) == (12, "other")
    assert {p.name for p in tmp_path.iterdir()} == {"store", "store.json"}


def test_interrupted_write_leaves_the_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_embeddings(30)
    put(tmp_path, old)
    with monkeypatch.context() as patch:
        patch.setattr(store, "content_hash", lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, make_embeddings(12, seed=1))
    assert np.array_equal(get(tmp_path)[0].ids, old.ids)
    put(tmp_path, make_embeddings(12, seed=1))
    assert len(get(tmp_path)[0]) == 12


def test_flipped_bytes_are_found(tmp_path: Path) -> None:
    """Lance itself reads them without a word."""
    put(tmp_path, make_embeddings(4000, d=16))
    file = max((tmp_path / "store").rglob("*.lance"), key=lambda p: p.stat().st_size * p.is_file())
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2] = bytes(b ^ 1 for b in data[middle : middle + 2])
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"store (does not match|is damaged).*run rapipe embed"):
        get(tmp_path)


def test_missing_parts_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"store\.json is missing: run rapipe embed"):
        get(tmp_path)
    put(tmp_path, make_embeddings(5))
    manifest = (tmp_path / "store.json").read_text()
    (tmp_path / "store.json").write_text(manifest[:40])
    with pytest.raises(UserError, match=r"store\.json is damaged"):
        get(tmp_path)
    (tmp_path / "store.json").write_text(manifest)
    (tmp_path / "store").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="store is missing"):
        get(tmp_path)
    put(tmp_path, make_embeddings(5, seed=1))
    (tmp_path / "store.json").write_text(manifest)
    with pytest.raises(UserError, match="does not match"):
        get(tmp_path)
