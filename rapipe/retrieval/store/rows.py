"""Rows in a Lance table: only ever appended, and each with a digest of its own.

Lance does not notice flipped bytes, so every row carries the SHA-256 of all it
holds; whoever reads vectors computes it again. Rows of any number are streamed.

Letters: N rows, D embedding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rapipe.errors import UserError, first_line
from rapipe.records import Embeddings, Ids, Labels, Names, Vectors

BATCH = 8192
"""Rows read or written at once."""
AHEAD = 2
"""Batches made before Lance has written the one before."""
PATIENCE = 0.1
"""Seconds between two looks whether Lance is still there."""
Digests = npt.NDArray[np.uint64]  # (N, 4)
Mask = npt.NDArray[np.bool_]  # (N,)
FACTS = ("id", "label", "source", "split", "digest")


@dataclass(frozen=True)
class Rows:
    """All of some rows but their vectors."""

    ids: Ids
    labels: Labels
    sources: Names
    splits: Names
    digests: Digests

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.int64] | Mask) -> Rows:
        """These rows."""
        return Rows(
            self.ids[rows],
            self.labels[rows],
            self.sources[rows],
            self.splits[rows],
            self.digests[rows],
        )

    def keys(self) -> npt.NDArray[np.bytes_]:
        """The digests (N,) as one value each, to look rows up by."""
        return np.ascontiguousarray(self.digests).view("S32")[:, 0]

    def in_id_order(self) -> npt.NDArray[np.int64]:
        """Row numbers (N,) by id; equal ids by digest, so whatever order they are stored in."""
        return np.lexsort((*self.digests.T[::-1], self.ids))

    def hash(self, classes: Iterable[str]) -> str:
        """SHA-256 of the ids and digests in id order, and of what the labels are called."""
        order = self.in_id_order()
        digest = hashlib.sha256("\0".join(classes).encode())
        digest.update(self.ids[order].tobytes())
        digest.update(self.digests[order].tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Block:
    """Some rows as they were read: with vectors, and not checked."""

    facts: Rows
    vectors: Vectors

    def wrong(self) -> npt.NDArray[np.int64]:
        """Rows (M,) that are not what was written."""
        facts = self.facts
        found = digests(facts.ids, self.vectors, facts.labels, facts.sources, facts.splits)
        return np.flatnonzero((found != facts.digests).any(axis=1))


def digests(ids: Ids, vectors: Vectors, labels: Labels, sources: Names, splits: Names) -> Digests:
    """SHA-256 of each row (N, 4): id, label, source, split, and the bytes of the vector."""
    made = bytearray()
    numbers = np.stack([ids, labels], axis=1).astype("<i8").tobytes()
    flat, size = np.ascontiguousarray(vectors, "<f4").tobytes(), 4 * vectors.shape[1]
    for row, names in enumerate(zip(sources.tolist(), splits.tolist(), strict=True)):
        digest = hashlib.sha256(numbers[16 * row : 16 * row + 16])
        digest.update("\0".join((*names, "")).encode())
        digest.update(flat[size * row : size * row + size])
        made += digest.digest()
    return np.frombuffer(bytes(made), "<u8").reshape(-1, 4)


def schema(dimension: int) -> pa.Schema:
    """Columns of the table."""
    return pa.schema(
        {
            "id": pa.int64(),
            "vector": pa.list_(pa.float32(), dimension),
            "label": pa.int64(),
            "source": pa.string(),
            "split": pa.string(),
            "digest": pa.binary(32),
        }
    )


def batch(facts: Rows, vectors: Vectors) -> pa.RecordBatch:
    """Rows as Lance takes them."""
    n, d = vectors.shape
    flat = np.ascontiguousarray(vectors).reshape(-1)
    raw = pa.py_buffer(facts.digests.tobytes())
    return pa.record_batch(
        [
            pa.array(facts.ids),
            pa.FixedSizeListArray.from_arrays(pa.array(flat), d),
            pa.array(facts.labels),
            pa.array(facts.sources.tolist(), pa.string()),
            pa.array(facts.splits.tolist(), pa.string()),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), n, [None, raw]),
        ],
        schema=schema(d),
    )


def of(embeddings: Embeddings) -> Rows:
    """The facts of embeddings, with digests."""
    e = embeddings
    found = digests(e.ids, e.vectors, e.labels, e.sources, e.splits)
    return Rows(e.ids, e.labels, e.sources, e.splits, found)


def insert(
    pairs: Iterable[tuple[Rows, Vectors]],
    dimension: int,
    into: Callable[[pa.RecordBatchReader], object],
    folder: Path,
) -> list[Rows]:
    """Stream rows and their vectors to Lance in one commit; returns the rows.

    `pairs` are drawn in the caller's thread while Lance writes in another: it would
    draw them in one of its own, where torch computes at a third of its speed.

    Args:
        into: takes the reader; what goes wrong on either side of it is raised here.
    """
    seen: list[Rows] = []
    ready: Queue[pa.RecordBatch | None] = Queue(AHEAD)
    over = Event()

    def batches() -> Iterator[pa.RecordBatch]:
        while not over.is_set():
            with suppress(Empty):
                item = ready.get(timeout=PATIENCE)
                if item is None:
                    return
                yield item
        raise RuntimeError("the rows ended early")  # so that Lance commits nothing

    def give(item: pa.RecordBatch | None) -> None:
        while not writing.done():  # else nobody takes it: Lance has failed
            with suppress(Full):
                ready.put(item, timeout=PATIENCE)
                return

    with ThreadPoolExecutor(1) as pool:
        reader = pa.RecordBatchReader.from_batches(schema(dimension), batches())
        writing = pool.submit(into, reader)
        try:
            for facts, vectors in pairs:
                if writing.done():
                    break
                seen.append(facts)
                give(batch(facts, vectors))
            give(None)
            with translate_lance_errors(folder):
                writing.result()
        finally:
            over.set()
    return seen


def facts_of(table: Any, folder: Path) -> Rows:
    """All rows of a table in the order they were appended, without vectors."""
    parts = [_facts(part) for part in _scan(table, FACTS, folder)]
    return joined(parts)


def blocks_of(table: Any, folder: Path) -> Iterator[Block]:
    """All rows of a table in the order they were appended, block by block."""
    d = table.schema.field("vector").type.list_size
    for part in _scan(table, (*FACTS, "vector"), folder):
        yield Block(_facts(part), part["vector"].flatten().to_numpy().reshape(-1, d))


def joined(parts: list[Rows]) -> Rows:
    """Blocks of rows as one."""
    names = ("ids", "labels", "sources", "splits", "digests")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@contextmanager
def translate_lance_errors(what: Path, remedy: str = "") -> Iterator[None]:
    """Say in one sentence what Lance finds wrong with a folder, and what to do about it."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"{what}: {_first_line(error)}{remedy}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust; Python has no class for it
            raise
        raise UserError(f"{what}: {_first_line(error)}{remedy}") from None


AGAIN = ": run rapipe embed, or dvc repro"
"""What helps where rows cannot be read."""


def _first_line(error: BaseException) -> str:
    """What is wrong, without where in Lance's code it was noticed."""
    return re.sub(r",? [^ ]*\.rs:\d+:\d+", "", first_line(error))


def _scan(table: Any, columns: tuple[str, ...], folder: Path) -> Iterator[pa.RecordBatch]:
    with translate_lance_errors(folder, AGAIN):
        yield from table.search().select(list(columns)).to_batches(batch_size=BATCH)


def _facts(part: pa.RecordBatch) -> Rows:
    offset, raw = part["digest"].offset, part["digest"].buffers()[1]
    found = np.frombuffer(raw, "<u8", 4 * len(part), 32 * offset)
    return Rows(
        part["id"].to_numpy(),
        part["label"].to_numpy(),
        np.array(part["source"].to_pylist(), np.str_),
        np.array(part["split"].to_pylist(), np.str_),
        found.reshape(-1, 4),
    )
