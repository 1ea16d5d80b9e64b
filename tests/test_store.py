from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_embeddings
from victim import EDITS, LIKE, first_half, index, rows

from rapipe.errors import UserError
from rapipe.io.tables import checksummed_json, parse_checksummed
from rapipe.records import Embeddings
from rapipe.retrieval import store
from rapipe.retrieval.store import Store
from rapipe.retrieval.store import rows as store_rows

SMALL = store.Embedded(8, ("a", "b", "c"), "encoder")


class Home:
    """A folder with a store in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.place = (folder / "store", folder / "store.json")

    def write(self, made: Embeddings, like: store.Embedded = SMALL) -> store.Manifest:
        return store.write([made], like, *self.place)

    def open(self) -> Store:
        return Store.open(*self.place)

    def read(self) -> Embeddings:
        """All rows of the current version, in id order."""
        parts = list(self.open().blocks())
        facts = store_rows.joined([own for own, _ in parts])
        vectors = np.concatenate([own for _, own in parts])
        order = facts.in_id_order()
        facts = facts.take(order)
        return Embeddings(facts.ids, vectors[order], facts.labels, facts.sources, facts.splits)

    def holds(self, made: Embeddings) -> bool:
        read, made = self.read(), made.take(np.argsort(made.ids))
        names = ("ids", "vectors", "labels", "sources", "splits")
        return all(np.array_equal(getattr(read, own), getattr(made, own)) for own in names)

    def files(self) -> set[str]:
        """What lies in the folder, but for what is inside Lance's tables."""
        found = [p.relative_to(self.path) for p in self.path.rglob("*")]
        return {str(p) for p in found if not any(q.endswith(".lance") for q in p.parts[:-1])}

    def sound(self) -> Store:
        """The store, verified, with no file in it that nothing refers to after `compact`."""
        store.compact(*self.place)
        memory = self.open()
        memory.verify(None)
        table, numbers = memory.manifest.table, memory.history.manifests()
        inside = {f"store/{table}.versions/{n}.{kind}" for n in numbers for kind in ("json", "npy")}
        inside |= {"store", f"store/{table}.lance", f"store/{table}.versions"}
        inside |= {f"store/{table}.versions/tags.json"}
        extra = {own for own in self.files() if own.startswith("store/") or own == "store"} - inside
        assert not extra
        data = list((self.path / "store" / f"{table}.lance" / "data").iterdir())
        assert all(path.suffix == ".lance" for path in data)
        assert len(data) == 1
        return memory


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_round_trip_in_one_commit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import lancedb

    monkeypatch.setattr("rapipe.retrieval.store.reading.BATCH", 7)
    monkeypatch.setattr(store_rows, "BATCH", 7)
    made = make_embeddings(30)
    manifest = store.write(
        [made.take(np.arange(20)), made.take(np.arange(20, 30))], SMALL, *home.place
    )
    assert home.holds(made)
    assert (manifest.rows, manifest.dimension, manifest.splits) == (30, 8, {"train": 30})
    assert (manifest.version, manifest.encoder) == (1, "encoder")
    assert manifest == home.open().manifest
    table = lancedb.connect(str(home.path / "store")).open_table(manifest.table)
    assert len(table.list_versions()) == 1


def test_the_same_rows_give_the_same_manifest_in_any_order(tmp_path: Path) -> None:
    made = make_embeddings(30)
    order = np.random.default_rng(0).permutation(30)
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    one.write(made)
    other.write(made.take(order))
    assert (tmp_path / "one/store.json").read_bytes() == (
        tmp_path / "other/store.json"
    ).read_bytes()


def test_the_hash_is_of_everything(tmp_path: Path) -> None:
    made = make_embeddings(30)
    moved = made.vectors.copy()
    moved[3, 1] = np.nextafter(moved[3, 1], 1)
    other_labels = np.append(made.labels[:-1], 0)
    others = [
        (made, SMALL),
        (Embeddings(made.ids, moved, made.labels, made.sources, made.splits), SMALL),
        (Embeddings(made.ids, made.vectors, other_labels, made.sources, made.splits), SMALL),
        (Embeddings(made.ids, made.vectors, made.labels, made.splits, made.splits), SMALL),
        (Embeddings(made.ids + 1, made.vectors, made.labels, made.sources, made.splits), SMALL),
        (made.take(np.arange(29)), SMALL),
        (made, store.Embedded(8, ("a", "b", "d"), "encoder")),
    ]
    hashes = [
        Home(tmp_path / str(i)).write(own, like).sha256 for i, (own, like) in enumerate(others)
    ]
    assert len(set(hashes)) == len(others)


def test_an_image_is_not_added_twice_though_its_vector_differs_in_the_last_bit(home: Home) -> None:
    made = make_embeddings(30)
    home.write(made)
    store.remove(lambda own, rows: rows.ids == made.ids[3], "one", *home.place)
    moved = Embeddings(
        made.ids, np.nextafter(made.vectors, 0), made.labels, made.sources, made.splits
    )
    twice = moved.take(np.append(np.arange(30), 3))
    manifest, new = store.add([twice], SMALL.classes, "add", home.open())
    assert (manifest.rows, new) == (30, 1)


def test_adding_to_a_store_that_was_changed_meanwhile_is_refused(home: Home) -> None:
    """Two who add classes at once would give them the same number."""
    home.write(make_embeddings(30))
    seen = home.open()
    other = make_embeddings(5, seed=1)
    store.add([other], (*SMALL.classes, "ship"), "add", seen)
    with pytest.raises(UserError, match="was changed meanwhile: run the same again"):
        store.add([make_embeddings(5, seed=2)], (*SMALL.classes, "cross"), "add", seen)
    assert home.open().manifest.classes == (*SMALL.classes, "ship")


@pytest.mark.parametrize("edit", [store.compact, store.purge])
@pytest.mark.parametrize("damaged", ["1.npy", "2.npy", "1.json", "tags.json"])
def test_damaged_members_are_not_copied_as_if_they_were_right(
    home: Home, edit: object, damaged: str
) -> None:
    home.write(make_embeddings(64))
    store.tag("whole", *home.place)
    store.remove(lambda own, rows: rows.labels == 1, "remove", *home.place)
    path = home.open().history.folder / damaged
    data = bytearray(path.read_bytes())
    if damaged.endswith("npy"):
        data[-3] ^= 4
    elif damaged == "1.json":
        data = data.replace(b'"a"', b'"x"')
    else:
        data = data.replace(b"1", b"5")
    path.write_bytes(data)
    files = {own: own.read_bytes() for own in home.path.rglob("*") if own.is_file()}
    words = () if edit is store.compact else (lambda own, rows: rows.ids == rows.ids[0], "purge")
    with pytest.raises(UserError, match=r"should have .* rows|(tags|1)\.json is damaged"):
        edit(*words, *home.place)  # type: ignore[operator]
    with pytest.raises(UserError):
        home.open().verify(None)
    assert {own: own.read_bytes() for own in files} == files


def test_purge_reaches_rows_that_only_a_tag_still_has(home: Home) -> None:
    made = make_embeddings(60, d=16)
    home.write(made, LIKE)
    store.tag("before", *home.place)
    store.remove(lambda own, rows: rows.labels == 1, "remove", *home.place)
    made_of_them = home.path / "derived"
    made_of_them.mkdir()
    _, gone = store.purge(
        lambda own, rows: rows.labels == 1, "purge", *home.place, derived=[made_of_them]
    )
    assert gone == 20
    assert not made_of_them.exists()
    assert holding(home.path, made.vectors[made.labels == 1]) == 0
    assert holding(home.path, made.vectors[made.labels != 1]) == 40


def test_digests_are_sha256_of_the_row() -> None:
    import hashlib

    made = make_embeddings(3)
    found = store_rows.of(made)
    for row in range(3):
        raw = made.ids[row].tobytes() + made.labels[row].tobytes() + b"made\0train\0"
        expected = hashlib.sha256(raw + made.vectors[row].tobytes()).digest()
        assert found.digests[row].tobytes() == expected


def test_writing_again_replaces_and_the_same_changes_nothing(home: Home) -> None:
    made = make_embeddings(30)
    home.write(made)
    store.tag("mine", *home.place)
    before = {path: path.stat().st_mtime_ns for path in home.path.rglob("*.lance")}
    home.write(made)
    assert {path: path.stat().st_mtime_ns for path in home.path.rglob("*.lance")} == before
    assert home.open().history.tags() == {"mine": 1}
    other = make_embeddings(12, seed=1)
    home.write(other)
    assert home.holds(other)
    assert len(list((home.path / "store").iterdir())) == 2
    assert home.open().history.tags() == {}


def test_a_damaged_store_is_mended_by_writing_again(home: Home) -> None:
    made = make_embeddings(30)
    home.write(made)
    flip(home)
    home.write(made)
    assert home.holds(made)
    home.sound()


def test_edits_versions_and_tags(home: Home) -> None:
    made, more = make_embeddings(30), make_embeddings(10, seed=1)
    more = Embeddings(more.ids + 1000, more.vectors, more.labels, more.sources, more.splits)
    home.write(made)
    store.tag("all", *home.place)
    second, gone = store.remove(lambda own, rows: rows.labels == 1, "remove 1", *home.place)
    assert (second.version, second.rows, gone) == (2, 20, 10)
    assert home.holds(made.take(made.labels != 1))
    third, new = store.add(
        [more, made.take(np.arange(5))], ("a", "b", "c", "new"), "add", home.open()
    )
    known = int((made.labels[:5] != 1).sum())
    assert (third.version, new, third.rows) == (3, 10 + 5 - known, 35 - known)
    assert third.classes == ("a", "b", "c", "new")
    assert third.splits == {"train": third.rows}
    assert store.checkout("all", *home.place).version == 1
    assert home.holds(made)
    fourth, _ = store.remove(lambda own, rows: rows.ids == made.ids[0], "one", *home.place)
    assert (fourth.version, fourth.rows) == (4, 29)
    assert store.checkout("3", *home.place) == third
    history = home.open().history.manifests()
    assert [own.edit for own in history.values()] == ["embed", "remove 1", "add", "one"]
    with pytest.raises(UserError, match="no version 'x'; it has all, 1, 2, 3, 4"):
        store.checkout("x", *home.place)
    for bad in ("", "1st", "a b", "../x", "v2"):
        with pytest.raises(UserError, match="cannot be a tag"):
            store.tag(bad, *home.place)
    store.compact(*home.place)
    assert sorted(home.open().history.manifests()) == [1, 3]
    assert home.open().manifest.sha256 == third.sha256
    store.checkout("all", *home.place)
    assert home.holds(made)
    home.sound()


def test_difference_is_by_content(home: Home) -> None:
    made = make_embeddings(30)
    home.write(made)
    store.remove(lambda own, rows: rows.labels == 1, "remove", *home.place)
    moved = np.roll(made.vectors, 1, axis=0)
    again = Embeddings(made.ids, moved, made.labels, made.sources, made.splits)
    one = np.flatnonzero(made.labels == 1)
    store.add([made.take(one[1:]), again.take(one[:1])], SMALL.classes, "add", home.open())
    memory = home.open()
    first, second = memory.difference(*(memory.history.resolve(own) for own in "13"))
    assert first.ids.tolist() == second.ids.tolist() == made.ids[one[:1]].tolist()
    assert (first.digests != second.digests).any()


@pytest.mark.parametrize("edit", [store.remove, store.purge])
def test_edits_that_mean_nothing_or_everything_are_refused(home: Home, edit: object) -> None:
    home.write(make_embeddings(30))
    for value, message in ((False, "no row of"), (True, "all (30 )?rows of")):
        with pytest.raises(UserError, match=message):
            edit(lambda own, rows, v=value: np.full(len(rows), v), "", *home.place)  # type: ignore[operator]
    with pytest.raises(UserError, match="nothing that the memory does not have"):
        store.add([make_embeddings(30)], SMALL.classes, "add", home.open())
    with pytest.raises(UserError, match="vectors of 8 dimensions, not of 5"):
        store.add([make_embeddings(3, d=5)], SMALL.classes, "add", home.open())
    assert home.open().manifest.version == 1
    assert len(home.sound().history.manifests()) == 1


def holding(folder: Path, vectors: np.ndarray) -> int:
    """How many of the vectors are somewhere in the files of a folder, byte for byte."""
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return sum(vector.tobytes() in data for vector in vectors)


def test_purge_leaves_no_byte_of_the_vectors_behind(home: Home) -> None:
    made = make_embeddings(200, d=16)
    home.write(made, store.Embedded(16, ("a", "b", "c"), "encoder"))
    store.tag("before", *home.place)
    chosen = made.labels == 1
    assert holding(home.path, made.vectors) == 200
    store.remove(lambda own, rows: rows.labels == 1, "remove", *home.place)
    store.tag("removed", *home.place)
    assert holding(home.path, made.vectors[chosen]) == chosen.sum()
    store.checkout("before", *home.place)
    now, gone = store.purge(lambda own, rows: rows.labels == 1, "purge", *home.place)
    assert gone == chosen.sum()
    assert holding(home.path, made.vectors[chosen]) == 0
    assert holding(home.path, made.vectors[~chosen]) == (~chosen).sum()
    halves = np.concatenate([made.vectors[chosen, :8], made.vectors[chosen, 8:]])
    assert holding(home.path, halves) == 0
    assert now.sha256 == home.open().history.resolve("removed").sha256
    for name in ("before", "removed", str(now.version)):
        store.checkout(name, *home.place)
        assert home.holds(made.take(~chosen))
    home.sound()


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
    made = make_embeddings(4000, d=16)
    home.write(made, LIKE)
    data = data_file(home).read_bytes()
    row = 1234
    at = data.index(made.vectors[row].tobytes())
    data_file(home).write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 64]) + data[at + 6 :])
    named = rf"row 1234 of .*store \(id {made.ids[row]}, source 'made', split train\) is not what"
    with pytest.raises(UserError, match=named):
        home.open().verify(None)
    with pytest.raises(UserError, match=named):
        home.read()
    with pytest.raises(UserError, match="is not what was stored"):
        store.compact(*home.place)  # which would copy it
    store.remove(lambda own, rows: rows.ids == made.ids[row], "the damaged one", *home.place)
    assert home.holds(made.take(np.arange(4000) != row))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_damage_anywhere_is_one_sentence(home: Home, share: float) -> None:
    home.write(make_embeddings(4000, d=16), LIKE)
    flip(home, share)
    with pytest.raises(UserError) as caught:
        home.open().verify(None)
    assert "\n" not in str(caught.value)
    assert "store" in str(caught.value)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_sentence(home: Home, left: float) -> None:
    home.write(make_embeddings(4000, d=16), LIKE)
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
    made = make_embeddings(30)
    made.vectors[7] *= 3  # after the record has checked itself
    home.write(made)
    for use in (lambda: home.open().verify(None), home.read):
        with pytest.raises(UserError, match=rf"row 7 .*id {made.ids[7]}.* is not of unit length"):
            use()
    made.vectors[7, 2] = np.inf
    Home(home.path / "other").write(made)
    with pytest.raises(UserError, match=r"row 7 .* is not finite"):
        Home(home.path / "other").open().verify(None)
    made.vectors[7, 2] = np.nan
    with pytest.raises(UserError, match="has NaNs"):
        Home(home.path / "third").write(made)


def test_what_goes_wrong_while_embedding_is_told_as_it_is(home: Home) -> None:
    made = make_embeddings(30)
    home.write(made)

    def blocks() -> Iterator[Embeddings]:
        yield make_embeddings(20, seed=1)
        raise UserError("the encoder has collapsed")

    with pytest.raises(UserError, match=r"^the encoder has collapsed$"):
        store.write(blocks(), SMALL, *home.place)
    with pytest.raises(UserError, match=r"^the encoder has collapsed$"):
        store.add(blocks(), SMALL.classes, "add", home.open())
    assert home.holds(made)
    home.sound()


def test_missing_parts_are_told_and_checkout_mends_a_manifest(home: Home) -> None:
    with pytest.raises(UserError, match=r"store\.json is missing: run rapipe embed"):
        home.open()
    made = make_embeddings(30)
    home.write(made)
    store.remove(lambda own, rows: rows.labels == 1, "remove", *home.place)
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        damage(home.path / "store.json")
        with pytest.raises(UserError, match=r"store\.json is (missing|damaged).*checkout VERSION"):
            home.open()
        assert store.checkout("2", *home.place).version == 2
        assert home.holds(made.take(made.labels != 1))
    shutil.rmtree(home.path / "store")
    with pytest.raises(UserError, match=r"lacks rows-.*\.lance, which .*run rapipe embed"):
        home.open()


def test_export(home: Home) -> None:
    made = make_embeddings(30)
    labels = np.where(np.arange(30) == 4, -1, made.labels)
    made = Embeddings(made.ids, made.vectors, labels, made.sources, made.splits)
    home.write(made)
    memory = home.open()
    assert store.export(memory, home.path / "out/a.parquet") == [home.path / "out/a.parquet"]
    table = pq.read_table(home.path / "out/a.parquet")
    assert table["id"].to_pylist() == made.ids.tolist()
    assert np.array_equal(np.stack(table["vector"].to_numpy()), made.vectors)
    assert table["class"].to_pylist()[:5] == ["a", "b", "c", "a", None]
    files = store.export(memory, home.path / "out/b.npy")
    assert np.array_equal(np.load(files[0], allow_pickle=False), made.vectors)
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
    store.write(rows(1), LIKE, *home.place)
    store.tag("kept", *home.place)
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
    now = memory.manifest.sha256
    if edit != "write" or now == before:
        assert memory.history.tags()["kept"] == 1
    expected = after(edit, folder.with_name(folder.name + "-undisturbed"))
    assert now in (before, expected)
    home.sound()
    EDITS.get(edit, EDITS["compact"])(*home.place) if now == before else None
    assert home.sound().manifest.sha256 == expected
    return "done" if "done" in out else "old" if now == before else "new"


def after(edit: str, folder: Path) -> str:
    """Hash of what the edit makes when nobody disturbs it."""
    home = Home(folder)
    if not folder.exists():
        store.write(rows(1), LIKE, *home.place)
        EDITS.get(edit, EDITS["compact"])(*home.place)
    return home.open().manifest.sha256


@pytest.mark.parametrize("edit", [*EDITS, "index"])
def test_killed_edits_leave_the_old_version_or_the_new(edit: str, tmp_path: Path) -> None:
    kill_once(edit, tmp_path / "home", random.Random(edit).uniform(0, 0.05))


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

    for place in (
        "rapipe.retrieval.store.edits.atomic_write",
        "rapipe.retrieval.store.versions.atomic_write",
    ):
        patch.setattr(place, guard(store.versions.atomic_write))
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
        before = store.write(rows(1), LIKE, *home.place).sha256
        with monkeypatch.context() as patch:
            left = dying_at(step, patch)
            try:
                EDITS[edit](*home.place)
            except Killed:
                pass
            else:
                assert left[0] >= 0
                break
        memory = home.open()
        memory.verify(None)
        assert memory.manifest.sha256 in (before, expected)
        states.append(memory.manifest.sha256 == expected)
        assert home.sound().manifest.sha256 == memory.manifest.sha256
        assert memory.manifest.version in home.open().history.manifests()
    assert states == sorted(states)  # once it is new it stays new
    assert len(states) > 1


@pytest.mark.slow
@pytest.mark.parametrize("edit", [*EDITS, "index"])
def test_killed_again_and_again(edit: str, tmp_path: Path) -> None:
    rng = random.Random(edit)
    seen = []
    for turn in range(int(os.environ.get("RAPIPE_KILLS", "10"))):
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        seen.append(kill_once(edit, tmp_path / "home", rng.uniform(0, 0.12)))
        print(edit, turn, seen[-1])
    print(edit, {own: seen.count(own) for own in sorted(set(seen))})


def test_two_writers_take_turns(tmp_path: Path) -> None:
    home = Home(tmp_path)
    store.write(rows(1), LIKE, *home.place)
    pair = [start("add", tmp_path), start("remove", tmp_path)]
    for process in pair:
        go(process)
    assert [process.communicate()[0] for process in pair] == ["done\n", "done\n"]
    assert [process.returncode for process in pair] == [0, 0]
    history = home.open().history.manifests()
    assert sorted(own.edit for own in history.values()) == ["add", "embed", "remove"]
    assert home.open().manifest.version == 3
    home.sound()


def test_readers_see_one_version_while_others_write(tmp_path: Path) -> None:
    home = Home(tmp_path)
    whole = store.write(rows(1), LIKE, *home.place).rows
    store.tag("whole", *home.place)
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
        store.remove(first_half, "remove", *home.place)
        store.add(rows(3, 500), LIKE.classes, "add", home.open())
        store.compact(*home.place)
        store.checkout("whole", *home.place)
    stop.set()
    reader.join()
    assert len(counts) > 3
    assert set(counts) <= {whole, whole // 2, whole // 2 + 500}
    others = [own for own in refused if "was rewritten while it was read" not in own]
    assert not others


def test_a_reader_whose_version_is_dropped_is_told(home: Home) -> None:
    home.write(make_embeddings(30))
    reader = home.open()
    store.remove(lambda own, rows: rows.labels == 1, "remove", *home.place)
    store.compact(*home.place)
    with pytest.raises(UserError, match="was rewritten while it was read: run the same again"):
        list(reader.blocks())


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of two megabytes, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield folder  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("edit", EDITS)
def test_a_full_disk(edit: str, small_disk: Path) -> None:
    home = Home(small_disk)
    before = store.write(rows(1), LIKE, *home.place)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises((UserError, OSError), match=r"(?i)no space"):
        EDITS[edit](*home.place)
    assert home.open().manifest == before
    home.open().verify(None)
    filler.unlink()
    home.sound()
    assert home.open().manifest.sha256 == before.sha256


@pytest.mark.parametrize("edit", ["write", "add"])
def test_a_full_disk_for_who_may_not_mount_one(edit: str, tmp_path: Path) -> None:
    """The same by a limit on the size of files, which the system sets for any process."""
    import resource

    home = Home(tmp_path)
    before = store.write(rows(1), LIKE, *home.place)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    process = start(edit, tmp_path, preexec_fn=limit)
    go(process)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "File too large" in errors.splitlines()[-1]
    assert home.open().manifest == before
    assert home.sound().manifest.sha256 == before.sha256


def test_a_read_only_folder_can_be_read(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    made = rows(1)
    store.write(made, LIKE, *home.place)
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
                edit(*home.place)
    finally:
        subprocess.run(["umount", "-l", str(home.path)], check=True)
    home.sound()


def test_rows_are_made_in_the_callers_thread_and_lance_may_fail_at_any_time() -> None:
    """Who embeds would compute at a third of the speed in a thread of Lance's."""
    makers: set[int] = set()

    def pairs(count: int, stop: int = -1) -> Iterator[Any]:
        for number in range(count):
            makers.add(threading.get_ident())
            if number == stop:
                raise ValueError("the encoder stumbles")
            made = make_embeddings(4, seed=number)
            yield store_rows.of(made), made.vectors

    taken: list[int] = []

    def takes(most: int) -> Callable[[Any], None]:
        def into(reader: Any) -> None:
            for number, part in enumerate(reader):
                if number == most:
                    raise RuntimeError("Lance stumbles")
                taken.append(len(part))

        return into

    seen = store_rows.insert(pairs(9), 8, takes(99), Path("store"))
    assert len(seen) == len(taken) == 9
    assert makers == {threading.get_ident()}
    for most in (0, 1, 5):
        with pytest.raises(UserError, match="store: Lance stumbles"):
            store_rows.insert(pairs(1000), 8, takes(most), Path("store"))
    for stop in (0, 1, 5):
        with pytest.raises(ValueError, match="the encoder stumbles"):
            store_rows.insert(pairs(9, stop), 8, takes(99), Path("store"))


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
        yield rows.of(made), made.vectors
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
