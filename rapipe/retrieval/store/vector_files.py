"""Files of vectors that other programs wrote, read block by block: .npy, .npz, Parquet, Lance.

Letters: N rows, D embedding.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rapipe.errors import UserError
from rapipe.io.memory_map import npy_errors
from rapipe.retrieval.store.exporting import ROWS
from rapipe.retrieval.store.rows import connect, translate_lance_errors

VECTOR_NAMES = ("vector", "vectors", "embedding", "embeddings", "feature", "features")
ID_NAMES = ("id", "ids")
PATH_NAMES = ("path", "paths", "origin", "file_name", "filename", "image_path")
"""What columns are called: of all that a file has the first counts."""
FLOATS = "float16, float32 or float64"
BATCH = 8192
"""Rows read at once."""
Keys = npt.NDArray[np.int64] | list[str] | None
Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class VectorBlock:
    """Some rows of a file."""

    keys: Keys
    """Their ids or paths; None if rows have no name."""
    values: Values  # (N, D); a row of another length is zeros
    lengths: npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class VectorFile:
    """A file of vectors."""

    path: Path
    rows: int
    ids: str
    """Its column of ids; "" if it has none."""
    paths: str
    read: Callable[[str], Iterator[VectorBlock]]
    """Reads all rows in order, with the keys in this column; none if it is ""."""

    @classmethod
    def open(cls, path: Path) -> VectorFile:
        """A file of any known kind.

        Raises:
            UserError: it is missing, damaged, of another kind, or has no vectors, or several
                columns that may hold them.
        """
        is_table = (path.parent / f"{path.name}.lance").is_dir()
        if not path.exists() and not is_table:
            raise UserError(f"{path} is missing: there is no such file, and no such table")
        with _translate_errors(path):
            if path.suffix == ".npy":
                return _open_npy(path)
            if path.suffix == ".npz":
                return _open_npz(path)
            if path.suffix == ".lance" or is_table:
                return _open_lance(path)
            if path.suffix in (".parquet", ".pq"):
                return _open_parquet(path)
        raise UserError(
            f"{path} is no file of vectors that is known: it must be NAME.npy, NAME.npz, "
            "NAME.parquet, NAME.lance, or FOLDER/TABLE of a LanceDB"
        )


def _open_npy(path: Path) -> VectorFile:
    beside = path.with_suffix(ROWS)  # as `rapipe store export` writes it
    table = pq.ParquetFile(beside) if beside.exists() else None
    ids, paths = _key_columns(table.schema_arrow) if table else ("", "")
    with path.open("rb") as file:
        rows, _, _ = _read_matrix(file, path)
    if table and table.metadata.num_rows != rows:
        raise UserError(
            f"{path} holds {rows:,} vectors, but {beside} beside it {table.metadata.num_rows:,} "
            "rows: move it away, or export both again"
        )

    def keys(name: str) -> pa.ChunkedArray:
        assert table is not None
        return table.read([name])[name]

    def read(key: str) -> Iterator[VectorBlock]:
        with path.open("rb") as file:
            yield from _read_array(file, path, keys(key) if key else None)

    return VectorFile(path, rows, ids, paths, read)


def _open_npz(path: Path) -> VectorFile:
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                headers[name.removesuffix(".npy")] = _read_header(file)
    vectors = _choose(path, "array", [n for n, header in headers.items() if len(header.shape) == 2])
    with zipfile.ZipFile(path) as archive, archive.open(f"{vectors}.npy") as file:
        rows, _, _ = _read_matrix(file, path)
    columns = {n: header for n, header in headers.items() if header.shape == (rows,)}
    ids = _first([n for n, header in columns.items() if header.dtype.kind in "iu"], ID_NAMES)
    paths = _first([n for n, header in columns.items() if header.dtype.kind == "U"], PATH_NAMES)

    def read(key: str) -> Iterator[VectorBlock]:
        with zipfile.ZipFile(path) as archive:
            keys = None
            if key:
                with archive.open(f"{key}.npy") as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                keys = pa.chunked_array([pa.array(array)])
            with archive.open(f"{vectors}.npy") as file:
                yield from _read_array(file, path, keys)

    return VectorFile(path, rows, ids, paths, read)


def _open_parquet(path: Path) -> VectorFile:
    table = pq.ParquetFile(path)
    vectors = _choose_lists(path, table.schema_arrow)

    def read(key: str) -> Iterator[VectorBlock]:
        columns = [vectors, *filter(None, [key])]
        yield from _read_batches(table.iter_batches(BATCH, columns=columns), vectors, key, path)

    keys = _key_columns(table.schema_arrow)
    return VectorFile(path, table.metadata.num_rows, *keys, read)


def _open_lance(path: Path) -> VectorFile:
    table = connect(path.parent).open_table(path.name.removesuffix(".lance"))
    vectors = _choose_lists(path, table.schema)

    def read(key: str) -> Iterator[VectorBlock]:
        query = table.search().select([vectors, *filter(None, [key])])
        yield from _read_batches(query.to_batches(batch_size=BATCH), vectors, key, path)

    return VectorFile(path, table.count_rows(), *_key_columns(table.schema), read)


def _key_columns(schema: pa.Schema) -> tuple[str, str]:
    """The columns of ids and of paths; "" if there is none."""
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    texts = [field.name for field in schema if field.type in (pa.string(), pa.large_string())]
    return _first(integers, ID_NAMES), _first(texts, PATH_NAMES)


def _first(names: Sequence[str], usual: Sequence[str]) -> str:
    """The first of the usual names that is among these; "" if none is."""
    return next((name for name in usual if name in names), "")


def _choose_lists(path: Path, schema: pa.Schema) -> str:
    """The column of vectors."""
    lists = {field.name: _item_type(field.type) for field in schema}
    column = _choose(path, "column", [name for name, item in lists.items() if item is not None])
    item = lists[column]
    if not pa.types.is_floating(item):
        raise UserError(f"{path}: {column} holds {item}; its numbers must be {FLOATS}")
    return column


def _item_type(type_: pa.DataType) -> pa.DataType | None:
    """The type of the items of a list, or None."""
    storage = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return storage.value_type if any(check(storage) for check in checks) else None


def _choose(path: Path, kind: str, candidates: list[str]) -> str:
    """The name of the vectors."""
    name = _first(candidates, VECTOR_NAMES)
    if not name and len(candidates) != 1:
        which = f"has {len(candidates)} ({', '.join(candidates)})" if candidates else "has none"
        raise UserError(
            f"{path}: one {kind} must hold the vectors, a list of numbers a row; it {which}, and "
            f"none is called {', '.join(VECTOR_NAMES[:-1])} or {VECTOR_NAMES[-1]}"
        )
    return name or candidates[0]


def _read_batches(
    batches: Iterator[pa.RecordBatch], vectors: str, key: str, path: Path
) -> Iterator[VectorBlock]:
    """Blocks of lists; the first list that is not empty says how long all must be."""
    dimension = 0
    with _translate_errors(path):
        for batch in batches:
            column = batch[vectors]
            if isinstance(column, pa.ExtensionArray):
                column = column.storage
            lengths = pc.list_value_length(column).fill_null(0).cast(pa.int64()).to_numpy()
            dimension = dimension or int(next(iter(lengths[lengths > 0]), 0))
            is_right = lengths == dimension
            flat = pc.list_flatten(column.filter(pa.array(is_right)))
            if flat.null_count:
                flat = flat.cast(pa.float64()).fill_null(np.nan)
            flat = flat.to_numpy(zero_copy_only=False)
            values = np.zeros((len(lengths), dimension), flat.dtype)
            values[is_right] = flat.reshape(int(is_right.sum()), dimension)
            yield VectorBlock(_keys(batch[key]) if key else None, values, lengths)


def _read_array(file: IO[bytes], path: Path, keys: pa.ChunkedArray | None) -> Iterator[VectorBlock]:
    with _translate_errors(path):
        rows, d, dtype = _read_matrix(file, path)
        for start in range(0, rows, BATCH):
            n = min(BATCH, rows - start)
            data = file.read(n * d * dtype.itemsize)
            if len(data) < n * d * dtype.itemsize:
                raise ValueError("it holds less than its header promises")
            values = np.frombuffer(data, dtype).reshape(n, d)
            block_keys = None if keys is None else _keys(keys.slice(start, n))
            yield VectorBlock(block_keys, values, np.full(n, d))


class _Header(NamedTuple):
    """Of an .npy file."""

    shape: tuple[int, ...]
    in_column_order: bool
    dtype: np.dtype[Any]


def _read_header(file: IO[bytes]) -> _Header:
    formats = np.lib.format
    if formats.read_magic(file) == (1, 0):
        return _Header(*formats.read_array_header_1_0(file))
    return _Header(*formats.read_array_header_2_0(file))


def _read_matrix(file: IO[bytes], path: Path) -> tuple[int, int, np.dtype[Any]]:
    """Rows, dimension and type of the vectors; then the file is at the first of them."""
    shape, in_column_order, dtype = _read_header(file)
    if len(shape) != 2 or in_column_order or dtype.kind != "f" or dtype.itemsize > 8:
        order = ", column by column" if in_column_order else ""
        raise UserError(
            f"{path} holds an array of shape {shape} of {dtype}{order}; it must be (images, "
            f"dimensions) of {FLOATS}, row by row"
        )
    return shape[0], shape[1], dtype


def _keys(column: pa.Array | pa.ChunkedArray) -> Keys:
    if pa.types.is_integer(column.type):
        if column.null_count:
            raise ValueError("an id is null")
        return np.asarray(column.cast(pa.int64()).to_numpy())
    return [text or "" for text in column.to_pylist()]


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Raise errors of a file's reader as one sentence."""
    with translate_lance_errors(path), npy_errors():
        yield
