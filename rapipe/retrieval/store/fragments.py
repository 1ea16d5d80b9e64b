"""Rows that other processes wrote as Lance files, as a table of the store.

Each file is described when it is written, and is one part of the table in the end. Nobody but
the process that commits the table decides which files are in it: a file that was written twice,
or by a process that died, is in it once or not at all. (Ray's own sink for Lance keeps such
descriptions only in memory until all rows are there, so that nothing is left of them if the
process dies that commits; that of lance-ray 0.5.0 loses rows when a write is repeated.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write
from rapipe.retrieval.store.rows import (
    Rows,
    concatenate,
    connect,
    read_blocks,
    schema,
    translate_lance_errors,
)

DATA = "data"
"""Folder of a table's files."""


@dataclass(frozen=True)
class Fragment:
    """A Lance file with some rows."""

    file: str
    """Its name."""
    sha256: str
    rows: int
    description: dict[str, Any]
    """What Lance says of it."""

    def to_json(self) -> bytes:
        """What `parse` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, text: bytes) -> Fragment:
        """The fragment that `to_json` wrote."""
        return cls(**json.loads(text))

    def check(self, content: bytes) -> bytes:
        """The content of the file; `UserError` if it is not what was written."""
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UserError(f"{self.file} is not what was written (its SHA-256 differs)")
        return content


def write_fragment(rows: pa.RecordBatch, folder: Path) -> tuple[Fragment, bytes]:
    """Rows as one Lance file, written below a folder and read back."""
    from lance.fragment import write_fragments

    table = pa.Table.from_batches([rows])
    (written,) = write_fragments(table, str(folder), mode="create", max_rows_per_file=len(rows))
    description = written.to_json()
    name = description["files"][0]["path"]
    content = (folder / DATA / name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return Fragment(name, sha256, len(rows), description), content


def commit(
    fragments: Iterable[Fragment], read: Callable[[Fragment], bytes], dimension: int, folder: Path
) -> None:
    """Make the table `rows` of fragments, in their order, in the LanceDB in a folder.

    Args:
        read: gives the content of a fragment's file.

    Raises:
        UserError: a file is missing or not what was written, or Lance refuses.
    """
    import lance

    table, descriptions = folder / "rows.lance", []
    for fragment in fragments:
        atomic_write(table / DATA / fragment.file, fragment.check(read(fragment)))
        text = json.dumps(fragment.description)
        descriptions.append(lance.FragmentMetadata.from_json(text))
    with translate_lance_errors(folder):
        operation = lance.LanceOperation.Overwrite(schema(dimension), descriptions)
        lance.LanceDataset.commit(str(table), operation)


def read_checked(folder: Path, expected: Mapping[str, np.ndarray]) -> Rows:
    """The rows of the table `rows` in a folder, each compared with its digest.

    Args:
        expected: `ids`, `labels`, `sources` and `splits` (N,) in the same order.

    Raises:
        UserError: a row is missing, double, in another order, or not what was embedded.
    """
    parts = []
    for block in read_blocks(connect(folder).open_table("rows"), folder):
        if len(block.damaged()):
            image = block.rows.ids[block.damaged()[0]]
            raise UserError(f"the row of image {image} is not what was embedded")
        parts.append(block.rows)
    rows = concatenate(parts)
    if len(rows) != len(expected["ids"]):
        raise UserError(f"{len(rows):,} rows were written of {len(expected['ids']):,} images")
    for name, values in expected.items():
        if not np.array_equal(getattr(rows, name), values):
            raise UserError(f"the rows that were written have other {name} than the images")
    return rows
