"""The records that flow from step to step; each validates itself and owns its file format.

Letters: N images or bank rows, Q queries, K neighbours, D embedding, H height, W width.

All files are Arrow IPC or .npy: deterministic bytes, memory-mapped when read,
and nothing in them can run code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io import arrow, memory_map

Ids = npt.NDArray[np.int64]  # (N,)
Labels = npt.NDArray[np.int64]  # (N,), -1 = none
Names = npt.NDArray[np.str_]  # (N,)
Pixels = npt.NDArray[np.uint8]  # (N, H, W, 3)
Vectors = npt.NDArray[np.float32]  # (N, D), unit length
Indices = npt.NDArray[np.int32]  # (Q, K), rows of the bank
Similarities = npt.NDArray[np.float32]  # (Q, K), cosine

Facts = dict[str, Any]

VECTORS, IDS = "vectors.npy", "ids.npy"
BLOCK = 8192
"""Vectors checked or written at once."""
UNLABELLED = -1
SPLITS = ("train", "validation", "test")


class RecordError(ValueError):
    """A record whose parts contradict each other: a defect in the code that made it."""


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise RecordError(message)


@dataclass(frozen=True)
class Images:
    """Images of one split, with stable ids: equal pixels have equal ids."""

    ids: Ids
    pixels: Pixels
    labels: Labels
    sources: Names
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.ids)
        _require(self.pixels.ndim == 4 and self.pixels.shape[3] == 3, "pixels are not (N, H, W, 3)")
        _require(self.pixels.dtype == np.uint8, "pixels are not uint8")
        _require(len(self.pixels) == len(self.labels) == len(self.sources) == n, "lengths differ")
        inside = (self.labels >= UNLABELLED) & (self.labels < len(self.classes))
        _require(inside.all(), "a label is out of range")

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Images:
        """The images of a range of rows; nothing is copied."""
        return Images(
            self.ids[rows], self.pixels[rows], self.labels[rows], self.sources[rows], self.classes
        )

    def take(self, rows: npt.NDArray[np.int64]) -> Images:
        """The images of these rows, in their order."""
        return Images(
            self.ids[rows], self.pixels[rows], self.labels[rows], self.sources[rows], self.classes
        )

    def write(self, path: Path) -> None:
        """Write one Arrow IPC file: id, image (uint8 tensor HWC), label, source."""
        rows = ImageRows(self.ids, self.labels, self.sources, self.classes, self.pixels.shape[1:])
        rows.write(path, [self.pixels])

    @classmethod
    def read(cls, path: Path) -> Images:
        """Map the file into memory; pixels are not copied."""
        table, facts = arrow.read_table(path)
        shape = table.schema.field("image").type.shape
        pixels = arrow.column(table, "image").storage.flatten().to_numpy().reshape(-1, *shape)
        return cls(
            ids=arrow.column(table, "id").to_numpy(),
            pixels=pixels,
            labels=arrow.column(table, "label").to_numpy(),
            sources=np.array(arrow.column(table, "source").to_pylist(), dtype=np.str_),
            classes=tuple(facts["classes"]),
        )


def channel_moments(counts: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel on [0, 1], exact, from counts (3, 256)."""
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.maximum(variance**0.5, 1 / 255).tolist()


@dataclass(frozen=True)
class ImageRows:
    """All of `Images` but the pixels, which `write` takes block by block."""

    ids: Ids
    labels: Labels
    sources: Names
    classes: tuple[str, ...]
    shape: tuple[int, ...]  # (H, W, 3)

    def write(self, path: Path, blocks: Iterable[Pixels]) -> None:
        """Write the file that `Images.read` reads, without all pixels in memory."""
        # Zeros stand for the pixels: pages that are only read cost no memory, and `_Sink`
        # writes the blocks instead.
        blank = pa.array(np.zeros(len(self.ids) * math.prod(self.shape), np.uint8))
        storage = pa.FixedSizeListArray.from_arrays(blank, math.prod(self.shape))
        image_type = pa.fixed_shape_tensor(pa.uint8(), list(self.shape))
        columns = {
            "id": pa.array(self.ids),
            "image": pa.ExtensionArray.from_storage(image_type, storage),
            "label": pa.array(self.labels),
            "source": pa.array(self.sources.tolist(), pa.string()),
        }
        facts: Facts = {"classes": list(self.classes)}
        arrow.write_columns(path, columns, facts, lambda file: _Sink(file, len(blank), blocks))


class _Sink:
    """A file for pyarrow to write to, which writes `blocks` when it is given `size` bytes."""

    def __init__(self, file: BinaryIO, size: int, blocks: Iterable[Pixels]) -> None:
        self.file = file
        self.size = size
        self.blocks = iter(blocks)
        self.closed = False

    def write(self, data: bytes | pa.Buffer) -> None:
        if len(data) != self.size:
            self.file.write(data)
            return
        end = self.file.tell() + self.size
        for block in self.blocks:
            self.file.write(np.ascontiguousarray(block).data)
        _require(self.file.tell() == end, "there are more or fewer pixels than rows")

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """The file is closed by who opened it."""
        _require(next(self.blocks, None) is None, "pyarrow wrote the pixels in another way")


@dataclass(frozen=True)
class Embeddings:
    """Vectors of images, and what the images are; a bank is one of these."""

    ids: Ids
    vectors: Vectors
    labels: Labels
    sources: Names
    splits: Names

    def __post_init__(self) -> None:
        n = len(self.ids)
        _require(self.vectors.ndim == 2, "vectors are not (N, D)")
        _require(self.vectors.dtype == np.float32, "vectors are not float32")
        _require(
            len(self.vectors) == len(self.labels) == len(self.sources) == len(self.splits) == n,
            "lengths differ",
        )
        for start in range(0, n, BLOCK):
            block = self.vectors[start : start + BLOCK]
            squares = np.einsum("nd,nd->n", block, block)
            _require(np.allclose(squares, 1, atol=1e-3), "a vector is not of unit length")
            memory_map.release_pages()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Embeddings:
        """The embeddings of these rows."""
        return Embeddings(
            self.ids[rows],
            self.vectors[rows],
            self.labels[rows],
            self.sources[rows],
            self.splits[rows],
        )

    def write(self, folder: Path) -> None:
        """Write `vectors.npy` (for memory maps) and `rows.arrow` (everything else)."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_vectors(folder / VECTORS, self.vectors)
        columns = {
            "id": pa.array(self.ids),
            "label": pa.array(self.labels),
            "source": pa.array(self.sources.tolist(), pa.string()),
            "split": pa.array(self.splits.tolist(), pa.string()),
        }
        arrow.write_columns(folder / "rows.arrow", columns, {})

    @classmethod
    def read(cls, folder: Path) -> Embeddings:
        """Read what `write` wrote; vectors stay on disk, memory-mapped."""
        table, _ = arrow.read_table(folder / "rows.arrow")
        return cls(
            ids=arrow.column(table, "id").to_numpy(),
            vectors=_map_vectors(folder / VECTORS),
            labels=arrow.column(table, "label").to_numpy(),
            sources=np.array(arrow.column(table, "source").to_pylist(), dtype=np.str_),
            splits=np.array(arrow.column(table, "split").to_pylist(), dtype=np.str_),
        )


@dataclass(frozen=True)
class Neighbours:
    """What a strategy shows of the bank for each query, and whether the query's vector too."""

    query_ids: Ids
    indices: Indices
    similarities: Similarities
    found_by: Facts = field(default_factory=dict)
    """Backend and index, their effort, and recall on a sample; empty if nothing was searched."""
    query_vectors: Vectors | None = None
    """(Q, D), shown to a classifier before the rows; None = not shown.

    They are no rows of the bank: they have no label, do not vote, and no measure of neighbours
    counts them.
    """

    def __post_init__(self) -> None:
        _require(self.indices.ndim == 2, "indices are not (Q, K)")
        _require(self.indices.dtype == np.int32, "indices are not int32")
        _require(self.similarities.dtype == np.float32, "similarities are not float32")
        _require(self.indices.shape == self.similarities.shape, "shapes differ")
        _require(len(self.query_ids) == len(self.indices), "lengths differ")
        _require((self.indices >= 0).all(), "an index is negative")
        _require(np.isfinite(self.similarities).all(), "a similarity is not finite")
        _require(self.with_self or self.k > 0, "nothing is shown")
        if self.query_vectors is not None:
            _require(self.query_vectors.ndim == 2, "query vectors are not (Q, D)")
            _require(self.query_vectors.dtype == np.float32, "query vectors are not float32")
            _require(len(self.query_vectors) == len(self.query_ids), "lengths differ")

    @property
    def k(self) -> int:
        """Rows of the bank that a query is shown; 0 where that is its own vector alone."""
        return int(self.indices.shape[1])

    @property
    def with_self(self) -> bool:
        """Whether a classifier is shown the query's own vector too."""
        return self.query_vectors is not None

    def take(self, rows: npt.NDArray[np.int64]) -> Neighbours:
        """The neighbours of these queries, in their order."""
        vectors = self.query_vectors
        return replace(
            self,
            query_ids=self.query_ids[rows],
            indices=self.indices[rows],
            similarities=self.similarities[rows],
            query_vectors=None if vectors is None else memory_map.take_rows(vectors, rows),
        )

    def followed_by(self, other: Neighbours) -> Neighbours:
        """Both, one after the other; they show the same number of rows, and both query vectors."""
        vectors = None
        if self.query_vectors is not None and other.query_vectors is not None:
            vectors = np.concatenate([self.query_vectors, other.query_vectors])
        return Neighbours(
            np.concatenate([self.query_ids, other.query_ids]),
            np.concatenate([self.indices, other.indices]),
            np.concatenate([self.similarities, other.similarities]),
            query_vectors=vectors,
        )

    def check_against(self, bank_ids: Ids) -> None:
        """Raise `RecordError` if a query retrieves itself, or a row that is not in the bank."""
        _require((self.indices < len(bank_ids)).all(), "an index is outside the bank")
        self_hits = bank_ids[self.indices] == self.query_ids[:, None]
        _require(not self_hits.any(), "a query retrieves itself")

    def write(self, path: Path) -> None:
        """Write one Arrow IPC file: query id, indices and similarities (lists of length K).

        Query vectors are in a file of the same name that ends in .npy.
        """
        columns = {
            "query_id": pa.array(self.query_ids),
            "indices": arrow.lists(self.indices),
            "similarities": arrow.lists(self.similarities),
        }
        shown = {"query_vectors": True} if self.with_self else {}
        arrow.write_columns(path, columns, {"found_by": self.found_by, **shown})
        if self.query_vectors is not None:
            _write_vectors(path.with_suffix(".npy"), self.query_vectors)

    @classmethod
    def read(cls, path: Path) -> Neighbours:
        """Map the file into memory; nothing is copied."""
        table, facts = arrow.read_table(path)
        shape = table.num_rows, table.schema.field("indices").type.list_size
        shown = "query_vectors" in facts  # not in files of older versions
        return cls(
            query_ids=arrow.column(table, "query_id").to_numpy(),
            indices=arrow.column(table, "indices").flatten().to_numpy().reshape(shape),
            similarities=arrow.column(table, "similarities").flatten().to_numpy().reshape(shape),
            found_by=facts["found_by"],
            query_vectors=_map_vectors(path.with_suffix(".npy")) if shown else None,
        )


@dataclass(frozen=True)
class Predictions:
    """What one classifier predicts for each test image, by noise level and by counterfactual.

    Letters: L noise levels, W counterfactuals: the same image with other neighbours. All
    comparisons in the report are computed from this.
    """

    ids: Ids
    levels: tuple[float, ...]
    """(L,) standard deviations of the noise; the first is 0."""
    correct: npt.NDArray[np.bool_]  # (L, N)
    confidence: npt.NDArray[np.float32]  # (L, N), the largest probability
    similarity: npt.NDArray[np.float32] | None = None  # (L, N), mean over the neighbours
    vote_entropy: npt.NDArray[np.float32] | None = None  # (L, N), nats
    vote_correct: npt.NDArray[np.bool_] | None = None  # (L, N), of the best vote
    correct_with_clean_neighbours: npt.NDArray[np.bool_] | None = None  # (L, N)
    correct_change: npt.NDArray[np.float32] | None = None  # (W, N), -1, 0 or 1
    total_variation: npt.NDArray[np.float32] | None = None  # (W, N), of the probabilities, 0 to 1

    def __post_init__(self) -> None:
        for name in (*PER_LEVEL, *PER_COUNTERFACTUAL):
            column = getattr(self, name)
            if column is not None:
                rows = len(self.levels) if name in PER_LEVEL else len(column)
                _require(column.shape == (rows, len(self.ids)), f"{name} has a wrong shape")
        _require(self.levels[0] == 0, "the first level is not clean")

    def at_first_levels(self, count: int) -> Predictions:
        """The same at fewer noise levels."""
        cut: dict[str, Any] = {"levels": self.levels[:count]}
        for name in PER_LEVEL:
            column = getattr(self, name)
            cut[name] = None if column is None else column[:count]
        return replace(self, **cut)

    def write(self, path: Path) -> None:
        """Write one Arrow IPC file: a row an image, and in each column a list over its L or W."""
        columns = {"id": pa.array(self.ids)}
        for name in (*PER_LEVEL, *PER_COUNTERFACTUAL):
            column = getattr(self, name)
            if column is not None and len(column):
                columns[name] = arrow.lists(column.T)
        arrow.write_columns(path, columns, {"levels": list(self.levels)})

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Read what `write` wrote."""
        table, facts = arrow.read_table(path)

        def column(name: str) -> Any:
            if name not in table.column_names:
                return None
            flat = arrow.column(table, name).flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(table.num_rows, -1).T

        columns = {name: column(name) for name in (*PER_LEVEL, *PER_COUNTERFACTUAL)}
        return cls(arrow.column(table, "id").to_numpy(), tuple(facts["levels"]), **columns)


PER_LEVEL = (
    *("correct", "confidence", "similarity", "vote_entropy", "vote_correct"),
    "correct_with_clean_neighbours",
)
PER_COUNTERFACTUAL = ("correct_change", "total_variation")
OTHER_IMAGE = "another image's"
"""The counterfactual whose `total_variation` is the reliance on neighbours."""


def _write_vectors(path: Path, vectors: Vectors) -> None:
    """Write an .npy file, block by block."""
    blocks = (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
    memory_map.write_array(path, vectors.shape, blocks)


def _map_vectors(path: Path) -> Vectors:
    """Map an .npy file into memory; `UserError` if it is missing or damaged."""
    try:
        return memory_map.map_array(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run rapipe prefetch, or dvc repro") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): run rapipe prefetch") from None
