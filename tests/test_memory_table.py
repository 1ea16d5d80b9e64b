"""`data/store/memory.lance`, which users of LanceDB open: the rows of the memory, and no others."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import lancedb
import numpy as np
import pytest
from conftest import make_embeddings
from test_store import SMALL, Home, holding

from rapipe.errors import UserError
from rapipe.records import Embeddings
from rapipe.retrieval import store
from rapipe.retrieval.store import memory_table
from rapipe.retrieval.store.rows import connect


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def two_splits() -> Embeddings:
    """Thirty rows of train, one of them unlabelled, and ten of test."""
    train, test = make_embeddings(30), make_embeddings(10, seed=1, split="test")
    return Embeddings(
        np.concatenate([train.ids, test.ids + 10**6]),
        np.concatenate([train.vectors, test.vectors]),
        np.where(np.arange(40) == 4, -1, np.concatenate([train.labels, test.labels])),
        np.concatenate([train.sources, test.sources]),
        np.concatenate([train.splits, test.splits]),
    )


def origins(count: int) -> list[str]:
    return [f"photos/{number}.png" for number in range(count)]


def open_memory(home: Home) -> lancedb.table.Table:
    return lancedb.connect(home.path / "store").open_table("memory")


def ids_of(home: Home) -> list[int]:
    return sorted(open_memory(home).to_arrow()["id"].to_pylist())


def test_lancedb_finds_an_ordinary_table(home: Home) -> None:
    embeddings = two_splits()
    store.write([embeddings], SMALL, *home.location, origins(40))
    table = open_memory(home)
    columns = ["id", "vector", "label", "source", "split", "class", "origin"]
    assert table.schema.names == columns
    rows = table.to_arrow()
    assert rows["id"].to_pylist() == embeddings.ids[:30].tolist()
    assert np.array_equal(np.stack(rows["vector"].to_numpy()), embeddings.vectors[:30])
    names = [["a", "b", "c"][row % 3] if row != 4 else None for row in range(30)]
    assert rows["class"].to_pylist() == names
    assert rows["origin"].to_pylist() == origins(30)
    found = table.search(embeddings.vectors[7]).where("class = 'b'").limit(3).to_pandas()
    assert found["id"][0] == embeddings.ids[7]
    assert set(found["class"]) == {"b"}
    assert found["_distance"][0] == 0
    by_path = table.search().where("origin LIKE '%/12.png'").to_list()
    assert [row["id"] for row in by_path] == [embeddings.ids[12]]
    names = lancedb.connect(home.path / "store").list_tables().tables
    assert names == ["memory", home.open().manifest.table]


def test_it_follows_every_edit(home: Home) -> None:
    embeddings = two_splits()
    train = embeddings.ids[:30]
    store.write([embeddings], SMALL, *home.location, origins(40))
    store.tag("all", *home.location)
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    labels = embeddings.labels[:30]
    assert ids_of(home) == sorted(train[labels != 1])
    again = embeddings.take(np.flatnonzero(embeddings.labels == 1)[:3])
    store.add([again], ("a", "b", "c"), "add", home.open(), ["x", "y", "z"])
    assert ids_of(home) == sorted([*train[labels != 1], *again.ids])  # once, though stored twice
    added = open_memory(home).search().where("label = 1").to_list()
    assert sorted(row["origin"] for row in added) == ["x", "y", "z"]
    store.checkout("all", *home.location)
    assert ids_of(home) == sorted(train)
    store.compact(*home.location)
    assert ids_of(home) == sorted(train)
    rows = open_memory(home).to_arrow()
    assert dict(zip(rows["id"].to_pylist(), rows["origin"].to_pylist(), strict=True)) == dict(
        zip(train.tolist(), origins(30), strict=True)
    )
    store.purge(lambda _, rows: rows.ids == train[0], "purge", *home.location)
    assert ids_of(home) == sorted(train[1:])
    assert holding(home.path, embeddings.vectors[:1]) == 0


def test_no_vector_is_stored_twice(home: Home) -> None:
    store.write([two_splits()], SMALL, *home.location)
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    for file in (home.path / "store/memory.lance/data").iterdir():
        assert file.samefile(home.open().table.uri + f"/data/{file.name}")


def test_it_is_copied_where_files_cannot_be_linked(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    embeddings = two_splits()
    store.write([embeddings], SMALL, *home.location)
    assert ids_of(home) == sorted(embeddings.ids[:30])
    store.purge(lambda _, rows: rows.ids == embeddings.ids[3], "purge", *home.location)
    assert holding(home.path, embeddings.vectors[3:4]) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: shutil.rmtree(table),
        lambda table: (table / "rapipe.json").write_text("{}"),
        lambda table: [file.unlink() for file in (table / "_deletions").iterdir()],
        lambda table: [file.write_bytes(b"") for file in (table / "_versions").iterdir()],
        lambda table: lancedb.connect(table.parent).open_table("memory").delete("label = 2"),
    ],
)
def test_verify_builds_it_anew(home: Home, damage: object) -> None:
    embeddings = two_splits()
    store.write([embeddings], SMALL, *home.location)
    assert not store.restore_memory(*home.location)
    damage(home.path / "store/memory.lance")  # type: ignore[operator]
    assert store.restore_memory(*home.location)
    assert ids_of(home) == sorted(embeddings.ids[:30])
    assert not store.restore_memory(*home.location)
    home.intact()


def test_a_failed_edit_leaves_it_and_the_next_one_builds_what_is_missing(home: Home) -> None:
    store.write([two_splits()], SMALL, *home.location)
    with pytest.raises(UserError, match="no row of"):
        store.remove(lambda _, rows: rows.labels == 9, "remove", *home.location)
    assert len(ids_of(home)) == 30
    shutil.rmtree(home.path / "store/memory.lance")
    store.tag("mine", *home.location)
    assert len(ids_of(home)) == 30
    shutil.rmtree(home.path / "store/memory.lance")
    store.write([two_splits()], SMALL, *home.location)
    assert len(ids_of(home)) == 30
    assert home.open().history.tags() == {"mine": 1}


def test_that_it_cannot_be_built_is_no_failure_of_the_edit(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write([two_splits()], SMALL, *home.location)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(memory_table, "_clone", fail)
        store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    assert (
        "could not be built ([Errno 28] No space left on device): rapipe store verify builds"
        in (capsys.readouterr().err)
    )
    assert home.open().manifest.version == 2
    assert {path.name for path in (home.path / "store").iterdir()} == {
        f"{home.open().manifest.table}{end}" for end in (".lance", ".versions")
    }
    home.intact()


def test_many_rows_are_left_out_by_several_statements(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_table, "DELETED_AT_ONCE", 4)
    embeddings = two_splits()
    store.write([embeddings.take(np.arange(20))], SMALL, *home.location)
    store.add([embeddings.take(np.arange(20, 40))], SMALL.classes, "add", home.open())
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    assert ids_of(home) == sorted(embeddings.ids[:30][embeddings.labels[:30] != 1])


def test_a_store_without_these_columns_can_be_read_and_says_what_to_do(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings = two_splits()
    manifest = store.write([embeddings], SMALL, *home.location, origins(40))
    connect(home.path / "store").open_table(manifest.table).drop_columns(["class", "origin"])
    home.open().verify(None)
    assert home.holds(embeddings)
    words = "was written by an older rapipe, without the columns class and origin: run rapipe embed"
    more = make_embeddings(5, seed=3)
    for edit in (
        lambda: store.add([more], SMALL.classes, "add", home.open()),
        lambda: store.compact(*home.location),
        lambda: store.purge(lambda _, rows: rows.labels == 1, "purge", *home.location),
        lambda: store.export(home.open(), home.path / "out.parquet"),
    ):
        with pytest.raises(UserError, match=words):
            edit()
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    assert words in capsys.readouterr().err
    store.write([embeddings], SMALL, *home.location, origins(40))
    assert open_memory(home).to_arrow()["origin"].to_pylist() == origins(30)
    home.intact()


def test_a_class_that_is_not_the_labels_is_damage(home: Home) -> None:
    store.write([two_splits()], SMALL, *home.location)
    table = connect(home.path / "store").open_table(home.open().manifest.table)
    table.update(where="label = 1", values={"class": "c"})
    with pytest.raises(
        UserError, match=r"row .* has another class than its label: run rapipe embed"
    ):
        home.open().verify(None)


def test_images_that_were_moved_have_new_origins_unless_history_would_be_lost(home: Home) -> None:
    embeddings = two_splits()
    first = store.write([embeddings], SMALL, *home.location, origins(40))
    moved = [f"/new/{text}" for text in origins(40)]
    assert store.write([embeddings], SMALL, *home.location, moved).sha256 == first.sha256
    assert open_memory(home).to_arrow()["origin"].to_pylist() == moved[:30]
    store.tag("mine", *home.location)
    store.write([embeddings], SMALL, *home.location, origins(40))
    assert open_memory(home).to_arrow()["origin"].to_pylist() == moved[:30]
    assert home.open().history.tags() == {"mine": 1}


def test_origins_that_are_too_few_are_refused(home: Home) -> None:
    with pytest.raises(ValueError, match="39 vs 40"):
        store.write([two_splits()], SMALL, *home.location, origins(39))
    with pytest.raises(UserError, match="missing"):
        home.open()
