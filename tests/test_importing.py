"""Vectors that another program made, joined to the corpus's images; the inverse of export."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_embeddings
from test_store import SMALL, Home

from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.records import Embeddings
from rapipe.retrieval import store
from rapipe.retrieval.store import importing, vector_files
from rapipe.retrieval.store.importing import CorpusImages, Imported, import_vectors, unit_vectors

N, D = 30, 8


class Corpus:
    """Thirty images of a folder, two of them of the same pixels, and their vectors."""

    def __init__(self) -> None:
        made = make_embeddings(N, D)
        self.ids, self.vectors = made.ids.copy(), made.vectors
        self.ids[20] = self.ids[3]
        self.vectors[20] = self.vectors[3]
        self.locations = [f"photos/{'cat' if row % 2 else 'dog'}/{row}.png" for row in range(N)]
        self.images = CorpusImages(self.ids, lambda: self.locations)

    def embeddings(self) -> Embeddings:
        made = make_embeddings(N, D)
        return Embeddings(self.ids, self.vectors, made.labels, made.sources, made.splits)


@pytest.fixture
def corpus() -> Corpus:
    return Corpus()


def take(path: Path, corpus: Corpus, key: str = "") -> Imported:
    """Import a file, and check that every image has its vector."""
    out = path.with_name("out")
    out.mkdir(exist_ok=True)
    imported = import_vectors(path, key, corpus.images, out)
    ids, vectors = np.load(out / "ids.npy"), memory_map.map_array(out / "vectors.npy")
    assert ids.tolist() == sorted(set(corpus.ids.tolist()))
    assert np.array_equal(vectors[np.searchsorted(ids, corpus.ids)], corpus.vectors)
    assert (imported.images, imported.dimension) == (N - 1, D)
    return imported


def refused(path: Path, corpus: Corpus, key: str = "") -> str:
    out = path.with_name("out")
    out.mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        import_vectors(path, key, corpus.images, out)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def table(vectors: Sequence[Any], type_: pa.DataType | None = None, **columns: Any) -> pa.Table:
    lists = pa.array([None if v is None else list(v) for v in vectors], type_)
    return pa.table({"vector": lists, **columns})


def parquet(folder: Path, *args: Any, **columns: Any) -> Path:
    path = folder / "in.parquet"
    pq.write_table(table(*args, **columns), path, row_group_size=7)
    return path


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "memory.lance", "memory"])
@pytest.mark.parametrize("key", ["", "id", "path", "row"])
def test_import_is_the_inverse_of_export(
    name: str, key: str, tmp_path: Path, corpus: Corpus
) -> None:
    home = Home(tmp_path)
    store.write([corpus.embeddings()], SMALL, *home.location, corpus.locations)
    path = home.path / "store" / name
    if name.startswith("out"):
        path = store.export(home.open(), tmp_path / name)[0]
    imported = take(path, corpus, key)
    assert (imported.key, imported.others, imported.scaled) == (key or "id", 0, 0)


@pytest.mark.parametrize("key", ["id", "path", "row"])
def test_npz(key: str, tmp_path: Path, corpus: Corpus) -> None:
    order = np.arange(N) if key == "row" else np.random.default_rng(0).permutation(N)
    names = {"id": {"ids": corpus.ids[order]}, "row": {}}
    names["path"] = {"paths": np.array(corpus.locations)[order]}
    np.savez(tmp_path / "in.npz", vectors=corpus.vectors[order], **names[key])
    assert take(tmp_path / "in.npz", corpus).key == key


def test_rows_alone_are_in_the_order_of_the_corpus(tmp_path: Path, corpus: Corpus) -> None:
    np.save(tmp_path / "in.npy", corpus.vectors)
    assert take(tmp_path / "in.npy", corpus).key == "row"
    np.save(tmp_path / "in.npy", corpus.vectors[1:])
    assert "FILE holds 29 vectors, but the corpus has 30 images" in refused(
        tmp_path / "in.npy", corpus
    )


@pytest.mark.parametrize("batch", [1, 4, 1000])
@pytest.mark.parametrize(
    "type_", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), D)]
)
def test_lists_of_any_type_in_any_order_and_block(
    batch: int, type_: pa.DataType, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "BATCH", batch)
    order = np.random.default_rng(batch).permutation(N)
    path = parquet(tmp_path, corpus.vectors[order], type_, id=corpus.ids[order])
    assert take(path, corpus).scaled == 0


def test_vectors_are_brought_to_unit_length(tmp_path: Path, corpus: Corpus) -> None:
    lengths = np.logspace(-30, 30, N)[:, None]
    path = parquet(tmp_path, corpus.vectors * lengths, pa.list_(pa.float64()), id=corpus.ids)
    out = tmp_path / "out"
    out.mkdir()
    assert import_vectors(path, "", corpus.images, out).scaled >= N - 1
    vectors = np.load(out / "vectors.npy")[np.searchsorted(np.load(out / "ids.npy"), corpus.ids)]
    rows = [row for row in range(N) if row not in (3, 20)]  # which share a vector
    assert np.allclose(vectors[rows], corpus.vectors[rows], atol=1e-6)
    half = corpus.vectors.astype(np.float16)
    np.save(tmp_path / "half.npy", half)
    import_vectors(tmp_path / "half.npy", "", corpus.images, out)
    assert np.allclose(np.linalg.norm(np.load(out / "vectors.npy"), axis=1), 1, atol=1e-6)
    huge = np.full((1, 4), 1e300)
    assert np.allclose(unit_vectors(huge)[0], 0.5)
    assert unit_vectors(huge)[1][0] == pytest.approx(2e300)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.removeprefix("photos/"),
        lambda text: text.rpartition("/")[2],
        lambda text: f"/home/user/{text}",
        lambda text: f"./{text}",
        lambda text: text.replace("/", "\\"),
    ],
)
def test_a_path_may_be_the_end_of_a_location_or_the_other_way_round(
    change: Any, tmp_path: Path, corpus: Corpus
) -> None:
    order = random.Random(0).sample(range(N), N)
    paths = [change(corpus.locations[row]) for row in order]
    assert take(parquet(tmp_path, corpus.vectors[order], path=paths), corpus).key == "path"


def test_images_in_archives_are_named_by_what_is_in_them(tmp_path: Path, corpus: Corpus) -> None:
    paths = list(corpus.locations)
    corpus.locations = [f"pets.zip: {text}" for text in paths]
    assert take(parquet(tmp_path, corpus.vectors, path=paths), corpus).key == "path"


def test_a_path_that_is_the_end_of_several_locations_names_two(
    tmp_path: Path, corpus: Corpus
) -> None:
    corpus.locations[4:6] = ["photos/dog/x.png", "photos/cat/x.png"]
    paths = [text.rpartition("/")[2] for text in corpus.locations]
    words = refused(parquet(tmp_path, corpus.vectors, path=paths), corpus)
    assert "FILE: row 4 (x.png) is named by a path that fits photos/" in words
    assert "photos/cat/x.png" in words
    assert "photos/dog/x.png" in words
    assert "(2 such rows)" in words


def changed(vectors: np.ndarray, rows: Iterable[int], value: Any) -> list[Any]:
    lists: list[Any] = vectors.tolist()
    for row in rows:
        lists[row] = value
    return lists


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([np.nan] * D, "has a value that is not finite"),
        ([np.inf] * D, "has a value that is not finite"),
        ([None] * D, "has a value that is not finite"),
        ([0.0] * D, "is of length zero"),
        ([1.0] * (D - 1), "is not as long as the first"),
        ([], "is not as long as the first"),
        (None, "is not as long as the first"),
    ],
)
def test_rows_that_are_no_use_are_refused(
    value: Any, words: str, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "BATCH", 7)
    lists = changed(corpus.vectors, (12, 25), value)
    path = parquet(tmp_path, lists, pa.list_(pa.float32()), id=corpus.ids)
    expected = f"FILE: row 12 ({corpus.ids[12]}) {words} (2 such rows); every image needs one"
    assert refused(path, corpus).startswith(expected)


def test_missing_and_double_rows_are_refused(tmp_path: Path, corpus: Corpus) -> None:
    rows = np.delete(np.arange(N), [12, 25])
    path = parquet(tmp_path, corpus.vectors[rows], id=corpus.ids[rows])
    words = f"FILE has no vector for photos/dog/12.png (id {corpus.ids[12]}) (2 such images of 30)"
    assert refused(path, corpus).startswith(words)
    rows = np.append(np.arange(N), [12, 3])
    path = parquet(tmp_path, corpus.vectors[rows], id=corpus.ids[rows])
    words = f"FILE: row 30 ({corpus.ids[12]}) is one too many for its image (2 such rows)"
    assert refused(path, corpus).startswith(words)


def test_images_of_the_same_pixels_may_share_a_row(tmp_path: Path, corpus: Corpus) -> None:
    rows = np.delete(np.arange(N), 20)
    take(parquet(tmp_path, corpus.vectors[rows], id=corpus.ids[rows]), corpus)


def test_rows_of_other_images_are_left_out(tmp_path: Path, corpus: Corpus) -> None:
    others = make_embeddings(5, D, seed=1)
    vectors = np.concatenate([others.vectors * np.nan, corpus.vectors])
    path = parquet(tmp_path, vectors, id=np.concatenate([others.ids + 10**9, corpus.ids]))
    assert take(path, corpus).others == 5
    path = parquet(tmp_path, others.vectors, id=np.arange(5) + 10**9)
    words = refused(path, corpus)
    assert "`key` is 'id', but no row of FILE belongs to an image of the corpus, such as" in words
    assert "photos/dog/0.png (id " in words
    assert words.endswith("choose another of id, path, row")


def test_files_that_are_no_use_are_refused(tmp_path: Path, corpus: Corpus) -> None:
    lists = corpus.vectors.tolist()
    cases: list[tuple[str, Any, str]] = [
        ("a.csv", lambda path: path.write_text("1"), "must be NAME.npy, NAME.npz, NAME.parquet"),
        ("b.npy", lambda path: path.write_bytes(b""), "FILE: "),
        ("c.npy", lambda path: np.save(path, corpus.ids), "must be (images, dimensions) of float"),
        (
            "d.npy",
            lambda path: np.save(path, np.asfortranarray(corpus.vectors)),
            "column by column",
        ),
        ("e.npz", lambda path: np.savez(path, a=lists, b=lists), "it has 2 (a, b), and none is"),
        ("f.npz", lambda path: np.savez(path, ids=corpus.ids), "it has none"),
        ("g.npz", lambda path: path.write_bytes(b"PK"), "FILE"),
        ("h.parquet", lambda path: path.write_bytes(b"PAR1"), "FILE: "),
        ("i.parquet", lambda path: pq.write_table(pa.table({"id": [1]}), path), "it has none"),
        (
            "j.parquet",
            lambda path: pq.write_table(table([[1, 2]] * N), path),
            "vector holds int64; its numbers must be float16, float32 or float64",
        ),
        ("k", lambda path: None, "FILE is missing: there is no such file, and no such table"),
    ]
    for name, write, words in cases:
        write(tmp_path / name)
        assert words in refused(tmp_path / name, corpus), name
    path = parquet(tmp_path, corpus.vectors, other=corpus.ids)
    assert "`key` is 'id', but FILE has no column of integers that is called id or ids" in refused(
        path, corpus, "id"
    )
    assert "`key` is 'name'; choose from id, path, row" in refused(path, corpus, "name")


def test_a_truncated_file_is_one_sentence(tmp_path: Path, corpus: Corpus) -> None:
    np.save(tmp_path / "in.npy", corpus.vectors)
    data = (tmp_path / "in.npy").read_bytes()
    (tmp_path / "in.npy").write_bytes(data[:-9])
    assert "FILE: it holds less than its header promises" in refused(tmp_path / "in.npy", corpus)
    files = lancedb.connect(tmp_path / "db")
    files.create_table("v", table(corpus.vectors, pa.list_(pa.float32(), D), id=corpus.ids))
    for file in (tmp_path / "db/v.lance/data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert refused(tmp_path / "db/v", corpus).startswith("FILE: ")


def test_rows_beside_an_npy_file_that_are_not_its_own_are_refused(
    tmp_path: Path, corpus: Corpus
) -> None:
    np.save(tmp_path / "in.npy", corpus.vectors)
    pq.write_table(pa.table({"id": corpus.ids[1:]}), tmp_path / "in.rows.parquet")
    assert "FILE holds 30 vectors, but" in refused(tmp_path / "in.npy", corpus)


def test_the_header_is_numpys(tmp_path: Path) -> None:
    for shape in ((1, 1), (10**9, 4096)):
        (tmp_path / "x").write_bytes(importing._header(shape))
        with (tmp_path / "x").open("rb") as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype("<f4"))
            assert file.tell() == importing.HEADER
