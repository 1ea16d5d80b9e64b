"""Arrow IPC files of one record batch: deterministic bytes, mapped when they are read.

Import rule: nothing of ours but `errors`, `io.atomic` and `io.memory_map`.

Letters: Q lists, K values of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.io.atomic import name_file_in_errors, part_path

LARGE = pa.ipc.IpcWriteOptions(allow_64bit=True)
"""Arrays of more than 2^31 - 1 values: many pixels make them."""


def write_columns(
    path: Path,
    columns: Mapping[str, pa.Array],
    facts: Mapping[str, Any],
    sink: Callable[[BinaryIO], object] = lambda file: file,
) -> None:
    """Write one record batch, through `sink`, beside the file; then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"rapipe": json.dumps(facts, sort_keys=True)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    partial = part_path(path)
    with (
        name_file_in_errors(partial),
        partial.open("wb") as file,
        pa.PythonFile(sink(file), mode="w") as out,
        pa.ipc.new_file(out, table.schema, options=LARGE) as writer,
    ):
        writer.write_table(table)
    partial.replace(path)


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the facts that `write_columns` wrote; nothing is copied.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        table = pa.ipc.open_file(pa.py_buffer(memory_map.map_file(path))).read_all()
        return table, json.loads(table.schema.metadata[b"rapipe"])
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that makes it, or dvc repro") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run dvc repro") from None


def column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array: one record batch is mapped as it is, several are joined."""
    chunks = table.column(name)
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """Values (Q, K) as Q lists of length K, which may be 0."""
    flat = pa.array(values.reshape(-1))
    kind = pa.list_(flat.type, values.shape[1])
    return pa.Array.from_buffers(kind, len(values), [None], children=[flat])
