"""A version of the store for other programs: Parquet, or .npy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.records import Vectors
from rapipe.retrieval.store.reading import Store
from rapipe.retrieval.store.rows import Block, class_names

ROWS = ".rows.parquet"
"""End of the name of the file beside an .npy file."""


def export(store: Store, path: Path, origins: bool = True) -> list[Path]:
    """Write the rows of a version, in the order they are stored.

    `NAME.parquet` has id, label, class, source, split, origin and vector. `NAME.npy` has
    the vectors (N, D) float32, and `NAME.rows.parquet` beside it the rest.
    `importing` reads both.

    Args:
        origins: write where each image came from, which may be paths of this machine.

    Returns:
        The files that were written.

    Raises:
        UserError: the name ends in something else.
    """
    if path.suffix not in WRITERS:
        raise UserError(f"{path} must end in {' or '.join(WRITERS)}")
    store.require_texts()
    store.check(store.manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA if origins else SCHEMA.remove(SCHEMA.get_field_index("origin"))
    return WRITERS[path.suffix](store, path, schema)


def _parquet(store: Store, path: Path, rows: pa.Schema) -> list[Path]:
    d = store.manifest.dimension
    schema = rows.append(pa.field("vector", pa.list_(pa.float32(), d)))
    with _partial(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for block in store.checked_blocks():
            flat = pa.array(np.ascontiguousarray(block.vectors).reshape(-1))
            columns = [*_columns(block, store, rows), pa.FixedSizeListArray.from_arrays(flat, d)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return [path]


def _npy(store: Store, path: Path, schema: pa.Schema) -> list[Path]:
    rows_path = path.with_suffix(ROWS)
    with (
        _partial(rows_path) as partial_rows,
        _partial(path) as partial,
        pq.ParquetWriter(partial_rows, schema) as writer,
    ):

        def vectors() -> Iterator[Vectors]:
            for block in store.checked_blocks():
                columns = _columns(block, store, schema)
                writer.write_batch(pa.record_batch(columns, schema=schema))
                yield block.vectors

        memory_map.write_array(partial, (len(store.rows), store.manifest.dimension), vectors())
    return [path, rows_path]


WRITERS: dict[str, Callable[[Store, Path, pa.Schema], list[Path]]] = {
    ".parquet": _parquet,
    ".npy": _npy,
}
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "label": pa.int64(),
        "class": pa.string(),
        "source": pa.string(),
        "split": pa.string(),
        "origin": pa.string(),
    }
)


def _columns(block: Block, store: Store, schema: pa.Schema) -> list[pa.Array]:
    """All of a block but its vectors, in the order of a schema."""
    rows = block.rows
    columns = {
        "id": pa.array(rows.ids),
        "label": pa.array(rows.labels),
        "class": class_names(rows.labels, store.manifest.classes),
        "source": pa.array(rows.sources.tolist(), pa.string()),
        "split": pa.array(rows.splits.tolist(), pa.string()),
        "origin": block.texts["origin"],
    }
    return [columns[name] for name in schema.names]


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A file to write, which replaces `path` when it is complete."""
    partial = path.with_name(path.name + ".part")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
