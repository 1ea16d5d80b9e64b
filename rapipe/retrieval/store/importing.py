"""Vectors that another program made of the corpus's images, checked, and by image.

Rows of a file are joined to images by id, by path, or by their order. Images with equal pixels
have equal ids, and share a vector.

Letters: M rows of a block, N images, U different ids, D embedding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError, UserError
from rapipe.io.checksums import sha256
from rapipe.records import IDS, VECTORS, Ids, Vectors
from rapipe.retrieval.store.image_paths import AMBIGUOUS, UNKNOWN, ImagePaths
from rapipe.retrieval.store.vector_files import (
    ID_NAMES,
    PATH_NAMES,
    Values,
    VectorBlock,
    VectorFile,
)

KEYS = ("id", "path", "row")
UNIT = 1e-6
"""The squared length of a unit vector in float32 is so close to 1: such a vector stays as it is."""
FAULTS = {
    "length": "is not as long as the first",
    "finite": "has a value that is not finite",
    "zero": "is of length zero",
    "ambiguous": "is named by a path that fits ",
    "double": "is one too many for its image",
}
"""What may be wrong with a row; the first of these that occurs is told."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CorpusImages:
    """The images that need vectors: those of train, then validation, then test."""

    ids: Ids  # (N,)
    locations: Callable[[], Iterable[str]]
    """Reads the file or row (N,) that each came from."""

    def name(self, row: int) -> str:
        """One of them, for a message."""
        location = next(text for i, text in enumerate(self.locations()) if i == row)
        return f"{location} (id {self.ids[row]})"


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    key: str
    """id, path or row."""
    others: int
    """Rows of the file that belong to no image of the corpus; they were left out."""
    scaled: int
    """Rows that were not of unit length."""
    images: int
    """Different ids."""
    dimension: int
    sha256: str
    """Of the file of vectors."""


def import_vectors(path: Path, key: str, images: CorpusImages, out: Path) -> Imported:
    """Write the vectors of a file into `out`: `ids.npy` (U,) ascending, `vectors.npy` (U, D).

    Vectors are brought to unit length. The file is read block by block.

    Args:
        path: .npy, .npz, Parquet or a Lance table.
        key: what joins a row to an image: its id, its path, or its place in the file ("row"); ""
            is the first of these that the file has.

    Raises:
        ArgumentError: the file has no such key, or it fits no image.
        UserError: an image has no vector or two, or a vector is no use.
    """
    file = VectorFile.open(path)
    key = key or ("id" if file.ids else "path" if file.paths else "row")
    column = _column_of(file, key)
    if key == "row" and file.rows != len(images.ids):
        raise UserError(
            f"{path} holds {file.rows:,} vectors, but the corpus has {len(images.ids):,} images: "
            "without ids or paths there must be one for each, in the order train, validation, test"
        )
    join = _Join(path, images)
    find = join.finder(key)
    with (out / VECTORS).open("w+b") as target:
        start = 0
        for block in file.read(column):
            join.write(block, start, find(block.keys, start, len(block.lengths)), target.fileno())
            start += len(block.lengths)
        target.seek(0)
        join.write_header(target.fileno())
    if join.others == file.rows:
        raise ArgumentError(
            f"`key` is {key!r}, but no row of {path} belongs to an image of the corpus, such as "
            f"{images.name(0)}; choose another of {', '.join(KEYS)}"
        )
    join.check()
    np.save(out / IDS, join.unique, allow_pickle=False)
    digest = sha256(out / VECTORS)
    return Imported(key, join.others, join.scaled, len(join.unique), join.dimension, digest)


def _column_of(file: VectorFile, key: str) -> str:
    """The column of a key; "" for the order of the rows."""
    columns = {"id": file.ids, "path": file.paths, "row": ""}
    if key not in columns:
        raise ArgumentError(f"`key` is {key!r}; choose from {', '.join(KEYS)}")
    if key != "row" and not columns[key]:
        names, what = (ID_NAMES, "integers") if key == "id" else (PATH_NAMES, "text")
        raise ArgumentError(
            f"`key` is {key!r}, but {file.path} has no column of {what} that is called "
            f"{' or '.join(names)}"
        )
    return columns[key]


class _Join:
    """Which vector each image has so far, and what is wrong with the rows."""

    def __init__(self, path: Path, images: CorpusImages) -> None:
        self.path = path
        self.images = images
        self.paths = ImagePaths(())
        self.unique, self.image_of = np.unique(images.ids, return_inverse=True)
        self.copies = np.bincount(self.image_of)
        """Images with each id: an exported store holds them all."""
        self.seen = np.zeros(len(self.unique), np.int64)
        self.dimension = self.others = self.scaled = 0
        self.first: dict[str, str] = {}
        """By fault, the first row that has it."""
        self.count = dict.fromkeys(FAULTS, 0)

    def finder(self, key: str) -> Callable[[Any, int, int], Numbers]:
        """Finds, from the keys and the numbers of M rows, the image (M,) of each."""
        if key == "row":
            return lambda keys, start, count: self.image_of[start : start + count]
        if key == "id":
            return lambda keys, start, count: self._find_ids(keys)
        self.paths = ImagePaths(self.images.locations())
        return lambda keys, start, count: self._find_paths(keys)

    def _find_paths(self, paths: list[str]) -> Numbers:
        rows = np.array([self.paths.find(path) for path in paths], np.int64)
        return np.where(rows < 0, rows, self.image_of[rows])

    def _find_ids(self, ids: Numbers) -> Numbers:
        at = np.minimum(np.searchsorted(self.unique, ids), len(self.unique) - 1)
        return np.where(self.unique[at] == ids, at, UNKNOWN)

    def write(self, block: VectorBlock, start: int, images: Numbers, target: int) -> None:
        """Check some rows, and write the vectors of those that belong to an image."""
        self.dimension = self.dimension or block.values.shape[1]
        used = images != UNKNOWN
        self.others += int((~used).sum())
        vectors, lengths = unit_vectors(block.values)
        known = np.flatnonzero(images >= 0)
        faults = {
            "length": block.lengths != self.dimension,
            "finite": ~np.isfinite(lengths),
            "zero": lengths == 0,
            "ambiguous": images == AMBIGUOUS,
            "double": np.zeros(len(images), np.bool_),
        }
        rank = _ranks(images[known]) + self.seen[images[known]]
        faults["double"][known] = rank >= self.copies[images[known]]
        np.add.at(self.seen, images[known], 1)
        for fault, mask in faults.items():
            rows = np.flatnonzero(mask & used)
            used &= ~mask
            self.count[fault] += len(rows)
            if len(rows):
                name = "" if block.keys is None else f" ({block.keys[rows[0]]})"
                self.first.setdefault(fault, f"row {start + rows[0]}{name}")
        self.scaled += int((~is_unit(lengths[used])).sum())
        if not self.first:
            _write_rows(target, HEADER, images[used], vectors[used])

    def write_header(self, target: int) -> None:
        """Complete the file: what is before the vectors."""
        os.pwrite(target, _header((len(self.unique), self.dimension)), 0)

    def check(self) -> None:
        """Raise `UserError` if a row is no use, or an image has no vector."""
        needs = "every image needs one vector, finite, not zero, and as long as the others"
        for fault, what in FAULTS.items():
            if self.count[fault]:
                both = " and ".join(self.paths.examples) if fault == "ambiguous" else ""
                raise UserError(
                    f"{self.path}: {self.first[fault]} {what}{both} ({self.count[fault]:,} such "
                    f"rows); {needs}"
                )
        missing = self.seen[self.image_of] == 0
        if missing.any():
            raise UserError(
                f"{self.path} has no vector for {self.images.name(int(missing.argmax()))} "
                f"({missing.sum():,} such images of {len(missing):,}); {needs}"
            )


HEADER = 128
"""Bytes before the numbers in an .npy file of any shape."""


def _header(shape: tuple[int, int]) -> bytes:
    """The first bytes of an .npy file of float32."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    start = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    return start + text.ljust(HEADER - 11).encode() + b"\n"


def _write_rows(target: int, offset: int, rows: Numbers, vectors: Vectors) -> None:
    """Write vectors (M, D) at rows (M,) of a file, neighbours at once."""
    order = np.argsort(rows, kind="stable")
    ends = np.flatnonzero(np.diff(rows[order]) != 1) + 1
    for part in np.split(order, ends):
        if len(part):
            data = np.ascontiguousarray(vectors[part], "<f4").data
            os.pwrite(target, data, offset + int(rows[part[0]]) * 4 * vectors.shape[1])


def _ranks(values: Numbers) -> Numbers:
    """Of each value (M,), how many equal ones come before it."""
    order = np.argsort(values, kind="stable")
    first = np.searchsorted(values[order], values[order])
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values)) - first
    return ranks


def unit_vectors(values: Values) -> tuple[Vectors, npt.NDArray[np.float64]]:
    """Vectors (M, D) of unit length, and the lengths (M,) that they had: NaN if not finite.

    A vector whose length is 1 to the precision of float32 stays as it is, to the last bit.
    """
    wide = values.astype(np.float64)
    largest = np.abs(wide).max(axis=1, initial=0, keepdims=True)
    with np.errstate(all="ignore"):
        scaled = wide / largest  # so that no square is too large or too small for its type
        norms = np.linalg.norm(scaled, axis=1, keepdims=True)
        lengths = np.where(largest == 0, 0, largest * norms)[:, 0]
        vectors = np.where(is_unit(lengths)[:, None], wide, scaled / norms).astype(np.float32)
    return vectors, lengths


def is_unit(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which lengths are 1, to the precision of float32."""
    return np.abs(lengths**2 - 1) < UNIT
