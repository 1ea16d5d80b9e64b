"""Rows that others wrote are in the store once each, or the store stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_embeddings

from rapipe.errors import UserError
from rapipe.records import Embeddings
from rapipe.retrieval import store
from rapipe.retrieval.store import Fragment, Store, StoreSpec
from rapipe.retrieval.store.fragments import write_fragment
from rapipe.retrieval.store.rows import blocks_of, record_batch

pytest.importorskip("lance")

SPEC = StoreSpec(8, ("a", "b", "c"), "encoder")
PARTS = (slice(0, 7), slice(7, 20), slice(20, 30))
Written = tuple[list[Fragment], dict[str, bytes]]


@pytest.fixture
def rows() -> Embeddings:
    return make_embeddings(30)


@pytest.fixture
def written(rows: Embeddings, tmp_path: Path) -> Written:
    """Fragments of the rows, and their contents."""
    fragments, contents = [], {}
    for part in PARTS:
        some = rows.take(np.arange(30)[part])
        origins = map(str, range(part.start, part.stop))
        (block,) = blocks_of([some], SPEC.classes, origins)
        fragment, content = write_fragment(record_batch(block), tmp_path / "elsewhere")
        fragments.append(Fragment.parse(fragment.to_json()))
        contents[fragment.file] = content
    return fragments, contents


def write(written: Written, rows: Embeddings, folder: Path) -> store.Manifest:
    expected = {name: getattr(rows, name) for name in ("ids", "labels", "sources", "splits")}
    fragments, contents = written
    where = (folder / "store", folder / "store.json")
    return store.write_fragments(fragments, lambda f: contents[f.file], expected, SPEC, *where)


def test_the_store_is_the_same(written: Written, rows: Embeddings, tmp_path: Path) -> None:
    origins = map(str, range(30))
    where = (tmp_path / "local", tmp_path / "local.json")
    expected = store.write([rows], SPEC, *where, origins)
    assert write(written, rows, tmp_path) == expected
    ours = Store.open(tmp_path / "store", tmp_path / "store.json")
    ours.verify("encoder")
    assert ours.table.to_arrow() == Store.open(*where).table.to_arrow()
    assert write(written, rows, tmp_path) == expected  # is left as it is


def test_it_can_be_edited(written: Written, rows: Embeddings, tmp_path: Path) -> None:
    """LanceDB reads, appends to and rewrites what pylance wrote."""
    write(written, rows, tmp_path)
    where = (tmp_path / "store", tmp_path / "store.json")
    more = make_embeddings(5, seed=1)
    store.add([more], SPEC.classes, "add", Store.open(*where))
    store.remove(lambda _, rows: np.arange(len(rows)) < 3, "remove", *where)
    assert store.compact(*where).rows == 32
    Store.open(*where).verify("encoder")


def harmed(written: Written, kind: str) -> Written:
    fragments, contents = written
    if kind == "lost":
        return fragments[:-1], contents
    if kind == "double":
        return [*fragments, fragments[0]], contents
    if kind == "in another order":
        return fragments[::-1], contents
    if kind == "swapped":
        return fragments, dict(zip(contents, reversed(contents.values()), strict=True))
    raw = contents[fragments[0].file]
    return fragments, {**contents, fragments[0].file: raw[:-100]}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("lost", "20 rows were written of 30 images"),
        ("double", "37 rows were written of 30 images"),
        ("in another order", "have other ids than the images"),
        ("swapped", "is not what was written"),
        ("cut", "is not what was written"),
    ],
)
def test_what_is_wrong_is_not_in_the_store(
    kind: str, sentence: str, written: Written, rows: Embeddings, tmp_path: Path
) -> None:
    before = store.write([make_embeddings(4)], SPEC, tmp_path / "store", tmp_path / "store.json")
    with pytest.raises(UserError, match=sentence):
        write(harmed(written, kind), rows, tmp_path)
    kept = Store.open(tmp_path / "store", tmp_path / "store.json")
    kept.verify("encoder")
    assert kept.manifest == before
    assert not (tmp_path / "store/new.part").exists()


def test_a_row_whose_vector_changed_is_refused(
    written: Written, rows: Embeddings, tmp_path: Path
) -> None:
    (block,) = blocks_of([rows], SPEC.classes, map(str, range(30)))
    block.vectors[9] = -block.vectors[9]  # after its digest was computed
    fragment, content = write_fragment(record_batch(block), tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"image {rows.ids[9]} is not what was embedded"):
        write(([fragment], {fragment.file: content}), rows, tmp_path)
    assert "rows" in json.loads(fragment.to_json())
