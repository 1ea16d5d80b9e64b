from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_embeddings, make_images

from rapipe import records
from rapipe.errors import UserError
from rapipe.io import arrow, memory_map
from rapipe.records import Embeddings, ImageRows, Images, Neighbours, Predictions, RecordError


def neighbours() -> Neighbours:
    return Neighbours(
        np.array([5, 7]),
        np.array([[0, 2], [1, 0]], np.int32),
        np.array([[0.5, 0.25], [1, -1]], np.float32),
    )


def test_images_round_trip(tmp_path: Path) -> None:
    images = make_images(7)
    images.write(tmp_path / "a.arrow")
    read = Images.read(tmp_path / "a.arrow")
    for name in ("ids", "pixels", "labels", "sources"):
        assert np.array_equal(getattr(read, name), getattr(images, name))
    assert read.classes == images.classes


def test_blocks_of_pixels_make_the_same_file(tmp_path: Path) -> None:
    images = make_images(50)
    images.write(tmp_path / "all")
    columns = (images.ids, images.labels, images.sources, images.classes, (16, 16, 3))
    blocks = (images.pixels[start : start + 7] for start in range(0, 50, 7))
    ImageRows(*columns).write(tmp_path / "blocks", blocks)
    assert (tmp_path / "all").read_bytes() == (tmp_path / "blocks").read_bytes()
    for wrong in ([images.pixels[1:]], [images.pixels, images.pixels]):
        with pytest.raises(RecordError, match="more or fewer pixels than rows"):
            ImageRows(*columns).write(tmp_path / "wrong", wrong)


def test_more_pixels_than_31_bits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STL-10 at 96 pixels has more; the file is sparse here, and no pixel is touched."""

    class Holes:
        """Stands for two billion zeros: what a file is asked to write, it skips."""

        def __init__(self, file: BinaryIO, size: int, blocks: object) -> None:
            self.file, self.size, self.closed = file, size, False

        def write(self, data: bytes) -> None:
            if len(data) == self.size:
                self.file.seek(self.size, 1)
            else:
                self.file.write(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def close(self) -> None:
            pass

    monkeypatch.setattr(records, "_Sink", Holes)
    n = 2**31 // (96 * 96 * 3) + 2
    numbers = np.zeros(n, np.int64)
    rows = ImageRows(numbers, numbers, np.full(n, "x"), ("a",), (96, 96, 3))
    rows.write(tmp_path / "big", [])
    assert Images.read(tmp_path / "big").pixels.shape == (n, 96, 96, 3)


def test_images_are_mapped_not_copied(tmp_path: Path) -> None:
    make_images(500, size=32).write(tmp_path / "a.arrow")
    before = pa.total_allocated_bytes()
    images = Images.read(tmp_path / "a.arrow")
    assert pa.total_allocated_bytes() - before < images.pixels.nbytes / 100
    assert not images.pixels.flags.owndata
    assert not images.pixels.flags.writeable


def test_arrow_schema_is_what_the_design_promises(tmp_path: Path) -> None:
    make_images(3).write(tmp_path / "a.arrow")
    schema = pa.ipc.open_file(pa.memory_map(str(tmp_path / "a.arrow"))).schema
    assert schema.names == ["id", "image", "label", "source"]
    assert schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), [16, 16, 3])


def test_embeddings_and_neighbours_round_trip(tmp_path: Path) -> None:
    embeddings = make_embeddings(9)
    embeddings.write(tmp_path / "bank")
    read = Embeddings.read(tmp_path / "bank")
    for name in ("ids", "vectors", "labels", "sources", "splits"):
        assert np.array_equal(getattr(read, name), getattr(embeddings, name))
    assert not read.vectors.flags.owndata
    neighbours().write(tmp_path / "n.arrow")
    table = Neighbours.read(tmp_path / "n.arrow")
    assert np.array_equal(table.indices, neighbours().indices)
    assert np.array_equal(table.similarities, neighbours().similarities)


@pytest.mark.parametrize("k", [0, 2])
def test_the_vectors_of_queries_are_a_file_beside_the_table(k: int, tmp_path: Path) -> None:
    rows, vectors = neighbours(), make_embeddings(2).vectors
    table = replace(
        rows,
        indices=rows.indices[:, :k],
        similarities=rows.similarities[:, :k],
        query_vectors=memory_map.lazy_rows(vectors[::-1].copy(), np.array([1, 0])),
    )
    assert (table.k, table.with_self) == (k, True)
    table.write(tmp_path / "n.arrow")
    read = Neighbours.read(tmp_path / "n.arrow")
    assert np.array_equal(read.indices, table.indices)
    assert read.indices.shape == read.similarities.shape == (2, k)
    assert np.array_equal(read.query_vectors, vectors)
    assert not read.query_vectors.flags.owndata  # type: ignore[union-attr]
    swapped = read.take(np.array([1, 0, 1]))
    assert np.array_equal(swapped.query_vectors, vectors[[1, 0, 1]])
    assert (swapped.k, swapped.query_ids.tolist()) == (k, [7, 5, 7])
    (tmp_path / "n.npy").unlink()
    with pytest.raises(UserError, match=r"n\.npy is missing: run rapipe prefetch"):
        Neighbours.read(tmp_path / "n.arrow")


def test_a_table_without_them_is_what_it_always_was(tmp_path: Path) -> None:
    """The layout of 0.10.0, spelled out: neither a key nor a file more."""
    table = neighbours()
    table.write(tmp_path / "now.arrow")
    flat = [pa.array(column.reshape(-1)) for column in (table.indices, table.similarities)]
    lists = [pa.FixedSizeListArray.from_arrays(column, 2) for column in flat]
    columns = {"query_id": pa.array(table.query_ids), "indices": lists[0], "similarities": lists[1]}
    arrow.write_columns(tmp_path / "then.arrow", columns, {"found_by": {}})
    assert (tmp_path / "now.arrow").read_bytes() == (tmp_path / "then.arrow").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"now.arrow", "then.arrow"}
    assert not Neighbours.read(tmp_path / "then.arrow").with_self


def test_same_record_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_images(5).write(tmp_path / f"{name}.images")
        make_embeddings(5).write(tmp_path / name)
    assert (tmp_path / "one.images").read_bytes() == (tmp_path / "two.images").read_bytes()
    for file in ("vectors.npy", "rows.arrow"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_contradictions_are_refused() -> None:
    images, embeddings = make_images(4), make_embeddings(4)
    for broken in (
        {"labels": np.array([0, 1, 2, 3])},
        {"labels": np.array([0, 1, 2, -2])},
        {"ids": np.array([1, 2])},
        {"pixels": images.pixels.astype(np.float32)},
        {"pixels": images.pixels[..., :1]},
    ):
        with pytest.raises(RecordError):
            replace(images, **broken)
    for broken in (
        {"vectors": 2 * embeddings.vectors},
        {"vectors": embeddings.vectors.astype(np.float64)},
        {"vectors": np.full_like(embeddings.vectors, np.nan)},
        {"labels": embeddings.labels[:2]},
    ):
        with pytest.raises(RecordError):
            replace(embeddings, **broken)
    for broken in (
        {"indices": np.array([[0, -1], [1, 0]], np.int32)},
        {"indices": np.array([[0, 1], [1, 0]], np.int64)},
        {"similarities": np.array([[0, np.inf], [1, 0]], np.float32)},
        {"query_ids": np.array([1])},
        {"indices": np.empty((2, 0), np.int32), "similarities": np.empty((2, 0), np.float32)},
        {"query_vectors": make_embeddings(3).vectors},
        {"query_vectors": make_embeddings(2).vectors.astype(np.float64)},
        {"query_vectors": make_embeddings(2).vectors[0]},
    ):
        with pytest.raises(RecordError):
            replace(neighbours(), **broken)


def test_neighbours_against_a_bank() -> None:
    neighbours().check_against(np.array([1, 2, 3]))
    with pytest.raises(RecordError, match="outside"):
        neighbours().check_against(np.array([1, 2]))
    with pytest.raises(RecordError, match="itself"):
        neighbours().check_against(np.array([1, 2, 5]))


def test_damage_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pytest.raises(UserError, match="is missing"):
        Images.read(path)
    make_images(5).write(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"a\.arrow is damaged"):
        Images.read(path)


def test_predictions_check_themselves() -> None:
    correct = np.ones((2, 3), bool)
    with pytest.raises(RecordError, match="first level is not clean"):
        Predictions(np.arange(3), (0.1, 0.2), correct, correct.astype(np.float32))
    with pytest.raises(RecordError, match="confidence has a wrong shape"):
        Predictions(np.arange(3), (0.0, 0.2), correct, correct[:1].astype(np.float32))
