"""Rows in a Lance table: only ever appended, each with its digest.

Lance does not notice flipped bytes, so every row carries the SHA-256 of its id, label, source,
split and vector; whoever reads vectors computes it again. `class` is the label's name, and
`origin` the file or row that the image came from: both are for people, and no version differs by
them. Rows of any number are streamed.

Letters: N rows, D embedding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
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
QUEUED = 2
"""Batches that wait for Lance to write the one before."""
POLL_SECONDS = 0.1
"""Between two checks whether Lance still runs."""
Digests = npt.NDArray[np.uint64]  # (N, 4)
Mask = npt.NDArray[np.bool_]  # (N,)
COLUMNS = ("id", "label", "source", "split", "digest")
TEXTS = ("class", "origin")
"""Columns for people."""


@dataclass(frozen=True)
class Rows:
    """Columns of rows, but for their vectors."""

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
        return keys_of(self.digests)

    def identities(self) -> Iterator[tuple[int, int, str, str]]:
        """What distinguishes rows. Vectors do not: they differ in their last bits by batch."""
        columns = (self.ids, self.labels, self.sources, self.splits)
        return zip(*(column.tolist() for column in columns), strict=True)

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
    """Rows with all that the table holds of them; not checked if they were read."""

    rows: Rows
    vectors: Vectors
    texts: dict[str, pa.Array]
    """By column of `TEXTS`; without those that the table lacks."""

    def take(self, mask: Mask) -> Block:
        """These rows."""
        texts = {name: column.filter(pa.array(mask)) for name, column in self.texts.items()}
        return Block(self.rows.take(mask), self.vectors[mask], texts)

    def damaged(self) -> npt.NDArray[np.int64]:
        """Rows (M,) that are not what was written."""
        rows = self.rows
        actual = digests(rows.ids, self.vectors, rows.labels, rows.sources, rows.splits)
        return np.flatnonzero((actual != rows.digests).any(axis=1))


def digests(ids: Ids, vectors: Vectors, labels: Labels, sources: Names, splits: Names) -> Digests:
    """SHA-256 of each row (N, 4): id, label, source, split, and the bytes of the vector."""
    rows = bytearray()
    numbers = np.stack([ids, labels], axis=1).astype("<i8").tobytes()
    flat, size = np.ascontiguousarray(vectors, "<f4").tobytes(), 4 * vectors.shape[1]
    for row, names in enumerate(zip(sources.tolist(), splits.tolist(), strict=True)):
        digest = hashlib.sha256(numbers[16 * row : 16 * row + 16])
        digest.update("\0".join((*names, "")).encode())
        digest.update(flat[size * row : size * row + size])
        rows += digest.digest()
    return np.frombuffer(bytes(rows), "<u8").reshape(-1, 4)


def keys_of(sha256: Digests) -> npt.NDArray[np.bytes_]:
    """Digests (N, 4) as one value each."""
    return np.ascontiguousarray(sha256).view("S32")[:, 0]


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
            **dict.fromkeys(TEXTS, pa.string()),
        }
    )


def record_batch(block: Block) -> pa.RecordBatch:
    """Rows as Lance takes them."""
    rows = block.rows
    n, d = block.vectors.shape
    flat = np.ascontiguousarray(block.vectors).reshape(-1)
    raw = pa.py_buffer(rows.digests.tobytes())
    return pa.record_batch(
        [
            pa.array(rows.ids),
            pa.FixedSizeListArray.from_arrays(pa.array(flat), d),
            pa.array(rows.labels),
            pa.array(rows.sources.tolist(), pa.string()),
            pa.array(rows.splits.tolist(), pa.string()),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), n, [None, raw]),
            *(block.texts[name] for name in TEXTS),
        ],
        schema=schema(d),
    )


def blocks_of(
    embeddings: Iterable[Embeddings], classes: Iterable[str], origins: Iterable[str]
) -> Iterator[Block]:
    """Embeddings as rows of the table, with digests.

    Args:
        classes: names of the labels.
        origins: the file or row that each image came from, for all blocks in turn.
    """
    origin = iter(origins)
    for e in embeddings:
        sha256 = digests(e.ids, e.vectors, e.labels, e.sources, e.splits)
        texts = pa.array(islice(origin, len(e)), pa.string())
        yield Block(
            Rows(e.ids, e.labels, e.sources, e.splits, sha256),
            e.vectors,
            {"class": class_names(e.labels, classes), "origin": texts},
        )


def class_names(labels: Labels, classes: Iterable[str]) -> pa.Array:
    """The name of each label (N,); null for -1."""
    names = pa.array([*classes, None], pa.string())
    return names.take(pa.array(np.where(labels < 0, len(names) - 1, labels)))


def connect(folder: Path) -> Any:
    """The LanceDB in a folder."""
    import lancedb

    return lancedb.connect(str(folder))


def insert(
    blocks: Iterable[Block],
    dimension: int,
    write: Callable[[pa.RecordBatchReader], object],
    folder: Path,
) -> list[Rows]:
    """Stream rows to Lance in one commit; returns them without their vectors.

    `blocks` are computed in the caller's thread while Lance writes in another: in a thread of
    Lance torch computes at a third of its speed.

    Args:
        write: gets the reader; errors on either side of it are raised here.
    """
    inserted: list[Rows] = []
    queue: Queue[pa.RecordBatch | None] = Queue(QUEUED)
    ended = Event()

    def batches() -> Iterator[pa.RecordBatch]:
        while not ended.is_set():
            with suppress(Empty):
                item = queue.get(timeout=POLL_SECONDS)
                if item is None:
                    return
                yield item
        raise RuntimeError("the rows ended early")  # so that Lance commits nothing

    def put(item: pa.RecordBatch | None) -> None:
        while not writing.done():  # else nobody reads it: Lance has failed
            with suppress(Full):
                queue.put(item, timeout=POLL_SECONDS)
                return

    with ThreadPoolExecutor(1) as pool:
        reader = pa.RecordBatchReader.from_batches(schema(dimension), batches())
        try:  # Ctrl-C may come while the thread starts
            writing = pool.submit(write, reader)
            for block in blocks:
                if writing.done():
                    break
                inserted.append(block.rows)
                put(record_batch(block))
            put(None)
            with translate_lance_errors(folder):
                writing.result()
        finally:
            ended.set()
    return inserted


def read_rows(table: Any, folder: Path) -> Rows:
    """All rows of a table in the order they were appended, without vectors."""
    return concatenate([_rows(part) for part in _scan(table, COLUMNS, folder)])


def read_blocks(table: Any, folder: Path) -> Iterator[Block]:
    """All rows of a table in the order they were appended, block by block."""
    d = table.schema.field("vector").type.list_size
    texts = [name for name in TEXTS if name in table.schema.names]
    for part in _scan(table, (*COLUMNS, "vector", *texts), folder):
        vectors = part["vector"].flatten().to_numpy().reshape(-1, d)
        yield Block(_rows(part), vectors, {name: part[name] for name in texts})


def concatenate(parts: list[Rows]) -> Rows:
    """Blocks of rows as one."""
    names = ("ids", "labels", "sources", "splits", "digests")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def read_digests(table: Any, folder: Path) -> Iterator[np.ndarray]:
    """What `Rows.keys` of a table without digests would be, computed block by block."""
    d = table.schema.field("vector").type.list_size
    for part in _scan(table, ("id", "vector", "label", "source", "split"), folder):
        vectors = part["vector"].flatten().to_numpy().reshape(-1, d)
        names = (np.array(part[name].to_pylist(), np.str_) for name in ("source", "split"))
        numbers = (part["id"].to_numpy(), vectors, part["label"].to_numpy())
        yield keys_of(digests(*numbers, *names))


def read_origins(table: Any, rows: npt.NDArray[np.int64], folder: Path) -> pa.Array:
    """The column `origin` of these rows (M,) of a table."""
    parts = [part["origin"] for part in _scan(table, ("origin",), folder)]
    return pa.chunked_array(parts, pa.string()).combine_chunks().take(pa.array(rows))


@contextmanager
def translate_lance_errors(folder: Path, remedy: str = "") -> Iterator[None]:
    """Raise errors of Lance about a folder as one sentence, with what to do about it."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"{folder}: {_first_line(error)}{remedy}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust; Python has no class for it
            raise
        raise UserError(f"{folder}: {_first_line(error)}{remedy}") from None


REBUILD_HINT = ": run rapipe embed, or dvc repro"
"""The remedy where rows cannot be read."""


def _first_line(error: BaseException) -> str:
    """The message, without the line of Lance's code."""
    return re.sub(r",? [^ ]*\.rs:\d+:\d+", "", first_line(error))


def _scan(table: Any, columns: tuple[str, ...], folder: Path) -> Iterator[pa.RecordBatch]:
    with translate_lance_errors(folder, REBUILD_HINT):
        yield from table.search().select(list(columns)).to_batches(batch_size=BATCH)


def _rows(part: pa.RecordBatch) -> Rows:
    offset, raw = part["digest"].offset, part["digest"].buffers()[1]
    sha256 = np.frombuffer(raw, "<u8", 4 * len(part), 32 * offset)
    return Rows(
        part["id"].to_numpy(),
        part["label"].to_numpy(),
        np.array(part["source"].to_pylist(), np.str_),
        np.array(part["split"].to_pylist(), np.str_),
        sha256.reshape(-1, 4),
    )
