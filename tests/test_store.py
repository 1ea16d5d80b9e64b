from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_embeddings
from victim import EDITS, SPEC, first_half, index, rows

from rapipe.errors import UserError
from rapipe.io.tables import checksummed_json, parse_checksummed
from rapipe.records import Embeddings
from rapipe.retrieval import store
from rapipe.retrieval.store import Store
from rapipe.retrieval.store import rows as store_rows

SMALL = store.StoreSpec(8, ("a", "b", "c"), "encoder")


class Home:
    """A folder with a store in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.location = (folder / "store", folder / "store.json")

    def write(self, embeddings: Embeddings, like: store.StoreSpec = SMALL) -> store.Manifest:
        return store.write([embeddings], like, *self.location)

    def open(self) -> Store:
        return Store.open(*self.location)

    def read(self) -> Embeddings:
        """All rows of the current version, in id order."""
        parts = list(self.open().blocks())
        facts = store_rows.concatenate([rows for rows, _ in parts])
        vectors = np.concatenate([block for _, block in parts])
        order = facts.in_id_order()
        facts = facts.take(order)
        return Embeddings(facts.ids, vectors[order], facts.labels, facts.sources, facts.splits)

    def holds(self, embeddings: Embeddings) -> bool:
        read, embeddings = self.read(), embeddings.take(np.argsort(embeddings.ids))
        names = ("ids", "vectors", "labels", "sources", "splits")
        return all(np.array_equal(getattr(read, name), getattr(embeddings, name)) for name in names)

    def files(self) -> set[str]:
        """What lies in the folder, but for what is inside Lance's tables."""
        files = [p.relative_to(self.path) for p in self.path.rglob("*")]
        return {str(p) for p in files if not any(q.endswith(".lance") for q in p.parts[:-1])}

    def intact(self) -> Store:
        """The store, verified, with no file in it that nothing refers to after `compact`."""
        store.compact(*self.location)
        memory = self.open()
        memory.verify(None)
        table, numbers = memory.manifest.table, memory.history.manifests()
        inside = {f"store/{table}.versions/{n}.{kind}" for n in numbers for kind in ("json", "npy")}
        inside |= {"store", f"store/{table}.lance", f"store/{table}.versions"}
        inside |= {f"store/{table}.versions/tags.json", "store/memory.lance"}
        extra = {
            path for path in self.files() if path.startswith("store/") or path == "store"
        } - inside
        assert not extra
        data = list((self.path / "store" / f"{table}.lance" / "data").iterdir())
        assert all(path.suffix == ".lance" for path in data)
        assert len(data) == 1
        self.check_memory(required=True)
        return memory

    def check_memory(self, required: bool = False) -> None:
        """The table for LanceDB is of the current version, or missing."""
        path, memory = self.path / "store/memory.lance", self.open()
        assert path.exists() or not required
        if path.exists():
            rows = memory.rows.take(memory.rows.splits == "train")
            table = lancedb.connect(str(path.parent)).open_table("memory").to_arrow()
            names = [(*memory.manifest.classes, None)[label] for label in rows.labels]
            pairs = zip(table["id"].to_pylist(), table["class"].to_pylist(), strict=True)
            assert Counter(pairs) == Counter(zip(rows.ids.tolist(), names, strict=True))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_round_trip_in_one_commit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapipe.retrieval.store.reading.BATCH", 7)
    monkeypatch.setattr(store_rows, "BATCH", 7)
    embeddings = make_embeddings(30)
    manifest = store.write(
        [embeddings.take(np.arange(20)), embeddings.take(np.arange(20, 30))], SMALL, *home.location
    )
    assert home.holds(embeddings)
    assert (manifest.rows, manifest.dimension, manifest.splits) == (30, 8, {"train": 30})
    assert (manifest.version, manifest.encoder) == (1, "encoder")
    assert manifest == home.open().manifest
    table = lancedb.connect(str(home.path / "store")).open_table(manifest.table)
    assert len(table.list_versions()) == 1


def test_the_same_rows_give_the_same_manifest_in_any_order(tmp_path: Path) -> None:
    embeddings = make_embeddings(30)
    order = np.random.default_rng(0).permutation(30)
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    one.write(embeddings)
    other.write(embeddings.take(order))
    assert (tmp_path / "one/store.json").read_bytes() == (
        tmp_path / "other/store.json"
    ).read_bytes()


def test_the_hash_is_of_everything(tmp_path: Path) -> None:
    embeddings = make_embeddings(30)
    changed = embeddings.vectors.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 1)
    other_labels = np.append(embeddings.labels[:-1], 0)
    others = [
        (embeddings, SMALL),
        (replace(embeddings, vectors=changed), SMALL),
        (replace(embeddings, labels=other_labels), SMALL),
        (replace(embeddings, sources=embeddings.splits), SMALL),
        (replace(embeddings, ids=embeddings.ids + 1), SMALL),
        (embeddings.take(np.arange(29)), SMALL),
        (embeddings, store.StoreSpec(8, ("a", "b", "d"), "encoder")),
    ]
    hashes = [
        Home(tmp_path / str(i)).write(rows, spec).sha256 for i, (rows, spec) in enumerate(others)
    ]
    assert len(set(hashes)) == len(others)


def test_an_image_is_not_added_twice_though_its_vector_differs_in_the_last_bit(home: Home) -> None:
    embeddings = make_embeddings(30)
    home.write(embeddings)
    store.remove(lambda _, rows: rows.ids == embeddings.ids[3], "one", *home.location)
    changed = replace(embeddings, vectors=np.nextafter(embeddings.vectors, 0))
    twice = changed.take(np.append(np.arange(30), 3))
    manifest, new = store.add([twice], SMALL.classes, "add", home.open())
    assert (manifest.rows, new) == (30, 1)


def test_adding_to_a_store_that_was_changed_meanwhile_is_refused(home: Home) -> None:
    """Two who add classes at once would give them the same number."""
    home.write(make_embeddings(30))
    stale = home.open()
    other = make_embeddings(5, seed=1)
    store.add([other], (*SMALL.classes, "ship"), "add", stale)
    with pytest.raises(UserError, match="was changed meanwhile: run the same again"):
        store.add([make_embeddings(5, seed=2)], (*SMALL.classes, "cross"), "add", stale)
    assert home.open().manifest.classes == (*SMALL.classes, "ship")


@pytest.mark.parametrize("edit", [store.compact, store.purge])
@pytest.mark.parametrize("damaged", ["1.npy", "2.npy", "1.json", "tags.json"])
def test_damaged_members_are_not_copied_as_if_they_were_right(
    home: Home, edit: object, damaged: str
) -> None:
    home.write(make_embeddings(64))
    store.tag("whole", *home.location)
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    path = home.open().history.folder / damaged
    data = bytearray(path.read_bytes())
    if damaged.endswith("npy"):
        data[-3] ^= 4
    elif damaged == "1.json":
        data = data.replace(b'"a"', b'"x"')
    else:
        data = data.replace(b"1", b"5")
    path.write_bytes(data)
    files = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    words = () if edit is store.compact else (lambda _, rows: rows.ids == rows.ids[0], "purge")
    with pytest.raises(UserError, match=r"should have .* rows|(tags|1)\.json is damaged"):
        edit(*words, *home.location)  # type: ignore[operator]
    with pytest.raises(UserError):
        home.open().verify(None)
    assert {path: path.read_bytes() for path in files} == files


def test_purge_reaches_rows_that_only_a_tag_still_has(home: Home) -> None:
    embeddings = make_embeddings(60, d=16)
    home.write(embeddings, SPEC)
    store.tag("before", *home.location)
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    derived = home.path / "derived"
    derived.mkdir()
    _, removed = store.purge(
        lambda _, rows: rows.labels == 1, "purge", *home.location, derived=[derived]
    )
    assert removed == 20
    assert not derived.exists()
    assert holding(home.path, embeddings.vectors[embeddings.labels == 1]) == 0
    assert holding(home.path, embeddings.vectors[embeddings.labels != 1]) == 40


def test_digests_are_sha256_of_the_row() -> None:
    import hashlib

    embeddings = make_embeddings(3)
    (block,) = store_rows.blocks_of([embeddings], SMALL.classes, ["x", "y", "z"])
    rows = block.rows
    for row in range(3):
        raw = embeddings.ids[row].tobytes() + embeddings.labels[row].tobytes() + b"made\0train\0"
        expected = hashlib.sha256(raw + embeddings.vectors[row].tobytes()).digest()
        assert rows.digests[row].tobytes() == expected


def test_writing_again_replaces_and_the_same_changes_nothing(home: Home) -> None:
    embeddings = make_embeddings(30)
    home.write(embeddings)
    store.tag("mine", *home.location)
    before = {path: path.stat().st_mtime_ns for path in home.path.rglob("*.lance")}
    home.write(embeddings)
    assert {path: path.stat().st_mtime_ns for path in home.path.rglob("*.lance")} == before
    assert home.open().history.tags() == {"mine": 1}
    other = make_embeddings(12, seed=1)
    home.write(other)
    assert home.holds(other)
    assert len(list((home.path / "store").iterdir())) == 3
    assert home.open().history.tags() == {}


def test_a_damaged_store_is_mended_by_writing_again(home: Home) -> None:
    embeddings = make_embeddings(30)
    home.write(embeddings)
    flip(home)
    home.write(embeddings)
    assert home.holds(embeddings)
    home.intact()


def test_edits_versions_and_tags(home: Home) -> None:
    embeddings, more = make_embeddings(30), make_embeddings(10, seed=1)
    more = replace(more, ids=more.ids + 1000)
    home.write(embeddings)
    store.tag("all", *home.location)
    second, removed = store.remove(lambda _, rows: rows.labels == 1, "remove 1", *home.location)
    assert (second.version, second.rows, removed) == (2, 20, 10)
    assert home.holds(embeddings.take(embeddings.labels != 1))
    third, new = store.add(
        [more, embeddings.take(np.arange(5))], ("a", "b", "c", "new"), "add", home.open()
    )
    present = int((embeddings.labels[:5] != 1).sum())
    assert (third.version, new, third.rows) == (3, 10 + 5 - present, 35 - present)
    assert third.classes == ("a", "b", "c", "new")
    assert third.splits == {"train": third.rows}
    assert store.checkout("all", *home.location).version == 1
    assert home.holds(embeddings)
    fourth, _ = store.remove(lambda _, rows: rows.ids == embeddings.ids[0], "one", *home.location)
    assert (fourth.version, fourth.rows) == (4, 29)
    assert store.checkout("3", *home.location) == third
    history = home.open().history.manifests()
    assert [manifest.edit for manifest in history.values()] == ["embed", "remove 1", "add", "one"]
    with pytest.raises(UserError, match="no version 'x'; it has all, 1, 2, 3, 4"):
        store.checkout("x", *home.location)
    for bad in ("", "1st", "a b", "../x", "v2"):
        with pytest.raises(UserError, match="cannot be a tag"):
            store.tag(bad, *home.location)
    store.compact(*home.location)
    assert sorted(home.open().history.manifests()) == [1, 3]
    assert home.open().manifest.sha256 == third.sha256
    store.checkout("all", *home.location)
    assert home.holds(embeddings)
    home.intact()


def test_difference_is_by_content(home: Home) -> None:
    embeddings = make_embeddings(30)
    home.write(embeddings)
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    changed = np.roll(embeddings.vectors, 1, axis=0)
    again = replace(embeddings, vectors=changed)
    one = np.flatnonzero(embeddings.labels == 1)
    store.add([embeddings.take(one[1:]), again.take(one[:1])], SMALL.classes, "add", home.open())
    memory = home.open()
    first, second = memory.difference(*(memory.history.resolve(version) for version in "13"))
    assert first.ids.tolist() == second.ids.tolist() == embeddings.ids[one[:1]].tolist()
    assert (first.digests != second.digests).any()


@pytest.mark.parametrize("edit", [store.remove, store.purge])
def test_edits_that_mean_nothing_or_everything_are_refused(home: Home, edit: object) -> None:
    home.write(make_embeddings(30))
    for value, message in ((False, "no row of"), (True, "all (30 )?rows of")):
        with pytest.raises(UserError, match=message):
            edit(lambda _, rows, v=value: np.full(len(rows), v), "", *home.location)  # type: ignore[operator]
    with pytest.raises(UserError, match="nothing that the store does not have"):
        store.add([make_embeddings(30)], SMALL.classes, "add", home.open())
    with pytest.raises(UserError, match="vectors of 8 dimensions, not of 5"):
        store.add([make_embeddings(3, d=5)], SMALL.classes, "add", home.open())
    assert home.open().manifest.version == 1
    assert len(home.intact().history.manifests()) == 1


def holding(folder: Path, vectors: np.ndarray) -> int:
    """How many of the vectors are somewhere in the files of a folder, byte for byte."""
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return sum(vector.tobytes() in data for vector in vectors)


def test_purge_leaves_no_byte_of_the_vectors_behind(home: Home) -> None:
    embeddings = make_embeddings(200, d=16)
    home.write(embeddings, store.StoreSpec(16, ("a", "b", "c"), "encoder"))
    store.tag("before", *home.location)
    mask = embeddings.labels == 1
    assert holding(home.path, embeddings.vectors) == 200
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    store.tag("removed", *home.location)
    assert holding(home.path, embeddings.vectors[mask]) == mask.sum()
    store.checkout("before", *home.location)
    now, removed = store.purge(lambda _, rows: rows.labels == 1, "purge", *home.location)
    assert removed == mask.sum()
    assert holding(home.path, embeddings.vectors[mask]) == 0
    assert holding(home.path, embeddings.vectors[~mask]) == (~mask).sum()
    halves = np.concatenate([embeddings.vectors[mask, :8], embeddings.vectors[mask, 8:]])
    assert holding(home.path, halves) == 0
    assert now.sha256 == home.open().history.resolve("removed").sha256
    for name in ("before", "removed", str(now.version)):
        store.checkout(name, *home.location)
        assert home.holds(embeddings.take(~mask))
    home.intact()


def data_file(home: Home) -> Path:
    return max((home.path / "store").rglob("data/*.lance"), key=lambda path: path.stat().st_size)


def flip(home: Home, share: float = 0.5) -> None:
    """Invert two bytes in the middle of the data."""
    file = data_file(home)
    data = bytearray(file.read_bytes())
    middle = int(share * len(data))
    data[middle : middle + 2] = bytes(b ^ 1 for b in data[middle : middle + 2])
    file.write_bytes(data)


def test_flipped_bytes_are_found_and_the_first_row_is_named(home: Home) -> None:
    """Lance itself reads them without a word."""
    embeddings = make_embeddings(4000, d=16)
    home.write(embeddings, SPEC)
    data = data_file(home).read_bytes()
    row = 1234
    at = data.index(embeddings.vectors[row].tobytes())
    data_file(home).write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 64]) + data[at + 6 :])
    message = (
        rf"row 1234 of .*store \(id {embeddings.ids[row]}, source 'made', split train\) is not what"
    )
    with pytest.raises(UserError, match=message):
        home.open().verify(None)
    with pytest.raises(UserError, match=message):
        home.read()
    with pytest.raises(UserError, match="is not what was stored"):
        store.compact(*home.location)  # which would copy it
    store.remove(lambda _, rows: rows.ids == embeddings.ids[row], "the damaged one", *home.location)
    assert home.holds(embeddings.take(np.arange(4000) != row))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_damage_anywhere_is_one_sentence(home: Home, share: float) -> None:
    home.write(make_embeddings(4000, d=16), SPEC)
    flip(home, share)
    with pytest.raises(UserError) as caught:
        home.open().verify(None)
    assert "\n" not in str(caught.value)
    assert "store" in str(caught.value)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_sentence(home: Home, left: float) -> None:
    home.write(make_embeddings(4000, d=16), SPEC)
    with data_file(home).open("r+b") as file:
        file.truncate(int(left * data_file(home).stat().st_size))
    for use in (lambda: home.open().verify(None), home.read, lambda: home.open().rows):
        with pytest.raises(UserError) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_verify_checks_what_a_forger_would_change(home: Home) -> None:
    home.write(make_embeddings(30))
    pointer = home.path / "store.json"
    good = parse_checksummed(pointer.read_text())
    home.open().verify("encoder")
    pointer.write_text(pointer.read_text().replace('"embed"', '"embep"'))
    with pytest.raises(UserError, match="is damaged"):
        home.open()
    changes = {
        "rows": (29, "version 1 of .* should have 29"),
        "sha256": ("0" * 64, "should have 30 rows with hash 000000000000"),
        "classes": (["a", "b", "x"], "version 1 of .* should have"),
        "dimension": (9, "holds vectors of 8 dimensions, but .* says 9"),
        "normalisation": ("none", "only l2 can be searched"),
        "encoder": ("other", "was embedded by encoder other, but the encoder at hand is encoder"),
        "splits": ({"train": 29, "test": 1}, "version 1 of .* should have"),
        "table": ("rows-0", r"lacks rows-0\.lance"),
    }
    for key, (value, message) in changes.items():
        pointer.write_text(checksummed_json({**good, key: value}))
        with pytest.raises(UserError, match=message):
            home.open().verify("encoder")


def test_rows_of_another_length_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = make_embeddings(30)
    embeddings.vectors[7] *= 3  # after the record has checked itself
    home.write(embeddings)
    for use in (lambda: home.open().verify(None), home.read):
        with pytest.raises(
            UserError, match=rf"row 7 .*id {embeddings.ids[7]}.* is not of unit length"
        ):
            use()
    embeddings.vectors[7, 2] = np.inf
    Home(home.path / "other").write(embeddings)
    with pytest.raises(UserError, match=r"row 7 .* is not finite"):
        Home(home.path / "other").open().verify(None)
    embeddings.vectors[7, 2] = np.nan
    with pytest.raises(UserError, match="has NaNs"):
        Home(home.path / "third").write(embeddings)


def test_what_goes_wrong_while_embedding_is_told_as_it_is(home: Home) -> None:
    embeddings = make_embeddings(30)
    home.write(embeddings)

    def blocks() -> Iterator[Embeddings]:
        yield make_embeddings(20, seed=1)
        raise UserError("the encoder has collapsed")

    with pytest.raises(UserError, match=r"^the encoder has collapsed$"):
        store.write(blocks(), SMALL, *home.location)
    with pytest.raises(UserError, match=r"^the encoder has collapsed$"):
        store.add(blocks(), SMALL.classes, "add", home.open())
    assert home.holds(embeddings)
    home.intact()


def test_missing_parts_are_told_and_checkout_mends_a_manifest(home: Home) -> None:
    with pytest.raises(UserError, match=r"store\.json is missing: run rapipe embed"):
        home.open()
    embeddings = make_embeddings(30)
    home.write(embeddings)
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        damage(home.path / "store.json")
        with pytest.raises(UserError, match=r"store\.json is (missing|damaged).*checkout VERSION"):
            home.open()
        assert store.checkout("2", *home.location).version == 2
        assert home.holds(embeddings.take(embeddings.labels != 1))
    shutil.rmtree(home.path / "store")
    with pytest.raises(UserError, match=r"lacks rows-.*\.lance, which .*run rapipe embed"):
        home.open()


def test_export(home: Home) -> None:
    embeddings = make_embeddings(30)
    labels = np.where(np.arange(30) == 4, -1, embeddings.labels)
    embeddings = replace(embeddings, labels=labels)
    home.write(embeddings)
    memory = home.open()
    assert store.export(memory, home.path / "out/a.parquet") == [home.path / "out/a.parquet"]
    table = pq.read_table(home.path / "out/a.parquet")
    assert table["id"].to_pylist() == embeddings.ids.tolist()
    assert np.array_equal(np.stack(table["vector"].to_numpy()), embeddings.vectors)
    assert table["class"].to_pylist()[:5] == ["a", "b", "c", "a", None]
    files = store.export(memory, home.path / "out/b.npy")
    assert np.array_equal(np.load(files[0], allow_pickle=False), embeddings.vectors)
    assert pq.read_table(files[1])["label"].to_pylist() == labels.tolist()
    with pytest.raises(UserError, match=r"must end in \.parquet or \.npy"):
        store.export(memory, home.path / "c.csv")
    flip(home)
    with pytest.raises(UserError):
        store.export(memory, home.path / "out/d.parquet")
    assert {path.name for path in (home.path / "out").iterdir()} == {
        "a.parquet",
        "b.npy",
        "b.rows.parquet",
    }


def start(edit: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    """A process that waits for a line before it edits."""
    script = Path(__file__).parent / "victim.py"
    process = subprocess.Popen(
        [sys.executable, str(script), edit, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def kill_once(edit: str, folder: Path, delay: float) -> str:
    """Kill -9 an edit after `delay` seconds: `old`, `new` or `done` is what the store is then."""
    home = Home(folder)
    store.write(rows(1), SPEC, *home.location)
    store.tag("kept", *home.location)
    before = home.open().manifest.sha256
    process = start(edit, folder)
    go(process)
    time.sleep(delay)
    process.kill()
    out, errors = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), errors
    if edit == "index":
        index(folder / "index")
        assert len(list((folder / "index").iterdir())) == 1
    memory = home.open()
    memory.verify(None)
    home.check_memory()
    now = memory.manifest.sha256
    if edit != "write" or now == before:
        assert memory.history.tags()["kept"] == 1
    expected = after(edit, folder.with_name(folder.name + "-undisturbed"))
    assert now in (before, expected)
    home.intact()
    EDITS.get(edit, EDITS["compact"])(*home.location) if now == before else None
    assert home.intact().manifest.sha256 == expected
    return "done" if "done" in out else "old" if now == before else "new"


def after(edit: str, folder: Path) -> str:
    """Hash of what the edit makes when nobody disturbs it."""
    home = Home(folder)
    if not folder.exists():
        store.write(rows(1), SPEC, *home.location)
        EDITS.get(edit, EDITS["compact"])(*home.location)
    return home.open().manifest.sha256


def test_a_killed_edit_leaves_the_old_version_or_the_new(tmp_path: Path) -> None:
    kill_once("remove", tmp_path / "home", random.Random(0).uniform(0, 0.05))


class Killed(BaseException):
    """Stands for the end of the process."""


def dying_at(step: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Let the process end before the `step`-th change of the disk that is not Lance's."""
    left = [step]

    def guard(change: Callable[..., object]) -> Callable[..., object]:
        def guarded(*words: object, **more: object) -> object:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return change(*words, **more)

        return guarded

    for name in (
        "rapipe.retrieval.store.edits.atomic_write",
        "rapipe.retrieval.store.versions.atomic_write",
    ):
        patch.setattr(name, guard(store.versions.atomic_write))
    patch.setattr("rapipe.retrieval.store.edits.shutil.rmtree", guard(shutil.rmtree))
    patch.setattr(Path, "rename", guard(Path.rename))
    return left


@pytest.mark.parametrize("edit", EDITS)
def test_every_step_of_an_edit_may_be_the_last(
    edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = after(edit, tmp_path / "undisturbed")
    states = []
    for step in range(100):
        home = Home(tmp_path / str(step))
        before = store.write(rows(1), SPEC, *home.location).sha256
        with monkeypatch.context() as patch:
            left = dying_at(step, patch)
            try:
                EDITS[edit](*home.location)
            except Killed:
                pass
            else:
                assert left[0] >= 0
                break
        memory = home.open()
        memory.verify(None)
        home.check_memory()
        assert memory.manifest.sha256 in (before, expected)
        states.append(memory.manifest.sha256 == expected)
        assert home.intact().manifest.sha256 == memory.manifest.sha256
        assert memory.manifest.version in home.open().history.manifests()
    assert states == sorted(states)  # once it is new it stays new
    assert len(states) > 1


@pytest.mark.slow
@pytest.mark.parametrize("edit", [*EDITS, "index"])
def test_killed_again_and_again(edit: str, tmp_path: Path) -> None:
    rng = random.Random(edit)
    outcomes = []
    for turn in range(int(os.environ.get("RAPIPE_KILLS", "10"))):
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        outcomes.append(kill_once(edit, tmp_path / "home", rng.uniform(0, 0.12)))
        print(edit, turn, outcomes[-1])
    print(edit, {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})


def test_two_writers_take_turns(tmp_path: Path) -> None:
    home = Home(tmp_path)
    store.write(rows(1), SPEC, *home.location)
    pair = [start("add", tmp_path), start("remove", tmp_path)]
    for process in pair:
        go(process)
    assert [process.communicate()[0] for process in pair] == ["done\n", "done\n"]
    assert [process.returncode for process in pair] == [0, 0]
    history = home.open().history.manifests()
    assert sorted(manifest.edit for manifest in history.values()) == ["add", "embed", "remove"]
    assert home.open().manifest.version == 3
    home.intact()


def test_readers_see_one_version_while_others_write(tmp_path: Path) -> None:
    home = Home(tmp_path)
    count = store.write(rows(1), SPEC, *home.location).rows
    store.tag("whole", *home.location)
    stop = threading.Event()
    counts: list[int] = []
    refused: list[str] = []

    def read() -> None:
        while not stop.is_set():
            try:
                memory = home.open()
                counts.append(sum(len(facts) for facts, _ in memory.blocks()))
                assert counts[-1] == memory.manifest.rows
            except UserError as error:
                refused.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(6):
        store.remove(first_half, "remove", *home.location)
        store.add(rows(3, 500), SPEC.classes, "add", home.open())
        store.compact(*home.location)
        store.checkout("whole", *home.location)
    stop.set()
    reader.join()
    assert len(counts) > 3
    assert set(counts) <= {count, count // 2, count // 2 + 500}
    others = [message for message in refused if "was rewritten while it was read" not in message]
    assert not others


def test_a_reader_whose_version_is_dropped_is_told(home: Home) -> None:
    home.write(make_embeddings(30))
    reader = home.open()
    store.remove(lambda _, rows: rows.labels == 1, "remove", *home.location)
    store.compact(*home.location)
    with pytest.raises(UserError, match="was rewritten while it was read: run the same again"):
        list(reader.blocks())


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of two megabytes, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield folder  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("edit", EDITS)
def test_a_full_disk(edit: str, small_disk: Path) -> None:
    home = Home(small_disk)
    before = store.write(rows(1), SPEC, *home.location)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises((UserError, OSError), match=r"(?i)no space"):
        EDITS[edit](*home.location)
    assert home.open().manifest == before
    home.open().verify(None)
    filler.unlink()
    home.intact()
    assert home.open().manifest.sha256 == before.sha256


@pytest.mark.parametrize("edit", ["write", pytest.param("add", marks=pytest.mark.slow)])
def test_a_full_disk_for_who_may_not_mount_one(edit: str, tmp_path: Path) -> None:
    """The same by a limit on the size of files, which the system sets for any process."""
    import resource

    home = Home(tmp_path)
    before = store.write(rows(1), SPEC, *home.location)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    process = start(edit, tmp_path, preexec_fn=limit)
    go(process)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "File too large" in errors.splitlines()[-1]
    assert home.open().manifest == before
    assert home.intact().manifest.sha256 == before.sha256


def test_a_read_only_folder_can_be_read(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    store.write(rows(1), SPEC, *home.location)
    bound = subprocess.run(
        ["mount", "--bind", "-o", "ro", str(home.path), str(home.path)], capture_output=True
    )
    if bound.returncode:
        pytest.skip("no right to mount")
    try:
        remounted = ["mount", "-o", "remount,ro,bind", str(home.path)]
        subprocess.run(remounted, check=True, capture_output=True)
        home.open().verify(None)
        assert len(home.read()) == home.open().manifest.rows
        for edit in EDITS.values():
            with pytest.raises((UserError, OSError), match="Read-only"):
                edit(*home.location)
    finally:
        subprocess.run(["umount", "-l", str(home.path)], check=True)
    home.intact()


def test_rows_are_made_in_the_callers_thread_and_lance_may_fail_at_any_time() -> None:
    """Who embeds would compute at a third of the speed in a thread of Lance's."""
    makers: set[int] = set()

    def pairs(count: int, stop: int = -1) -> Iterator[Any]:
        for number in range(count):
            makers.add(threading.get_ident())
            if number == stop:
                raise ValueError("the encoder stumbles")
            embeddings = make_embeddings(4, seed=number)
            yield from store_rows.blocks_of([embeddings], SMALL.classes, ["file"] * 4)

    taken: list[int] = []

    def takes(most: int) -> Callable[[Any], None]:
        def into(reader: Any) -> None:
            for number, part in enumerate(reader):
                if number == most:
                    raise RuntimeError("Lance stumbles")
                taken.append(len(part))

        return into

    inserted = store_rows.insert(pairs(9), 8, takes(99), Path("store"))
    assert len(inserted) == len(taken) == 9
    assert makers == {threading.get_ident()}
    for most in (0, 1, 5):
        with pytest.raises(UserError, match="store: Lance stumbles"):
            store_rows.insert(pairs(1000), 8, takes(most), Path("store"))
    for stop in (0, 1, 5):
        with pytest.raises(ValueError, match="the encoder stumbles"):
            store_rows.insert(pairs(9, stop), 8, takes(99), Path("store"))


@pytest.mark.timeout(20)
def test_an_interrupt_while_the_thread_of_lance_starts_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit, errors = ThreadPoolExecutor.submit, []

    def into(reader: Any) -> None:
        try:
            list(reader)
        except Exception as error:
            errors.append(str(error))

    def interrupted(pool: ThreadPoolExecutor, *args: Any) -> None:
        submit(pool, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store_rows.insert(iter(()), 8, into, Path("store"))
    assert "the rows ended early" in errors[0]


def test_an_interrupt_while_lance_is_slow_ends_at_once(interruptible: None) -> None:
    """The queue is full, so the caller waits; Ctrl-C there must not leave Lance waiting."""
    code = """
import threading, _thread, time
from pathlib import Path
from conftest import make_embeddings
from rapipe.retrieval.store import rows
def pairs():
    for number in range(COUNT):
        made = make_embeddings(4, seed=number)
        yield from rows.blocks_of([made], "abc", ["file"] * 4)
taken = []
def into(reader):
    for part in reader:
        taken.append(part)
        time.sleep(0.5)
threading.Timer(0.4, _thread.interrupt_main).start()
try:
    rows.insert(pairs(), 8, into, Path("store"))
except KeyboardInterrupt:
    print("interrupted", len(taken))
"""
    for count in (3, 100):  # waits to say that all is there; waits with a row in hand
        done = subprocess.run(
            [sys.executable, "-c", code.replace("COUNT", str(count))],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.stdout.startswith("interrupted"), done.stderr
