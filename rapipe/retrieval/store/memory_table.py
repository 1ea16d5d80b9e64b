"""`memory.lance`: the rows that may be searched, as an ordinary table for LanceDB's users.

It holds the current version's rows of the split train. It is a clone of the table of rows: the
data files are the same files on disk (hard links), so no vector is stored twice, and Lance's own
small deletion files leave out the rest. A new table starts with each version, so never write to it.

It is removed before an edit is committed, and built after. If the process is killed in between,
it is missing until the next edit or `rapipe store verify`; it is never of another version.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write
from rapipe.progress import say
from rapipe.retrieval.store.reading import Store
from rapipe.retrieval.store.rows import connect, read_digests, translate_lance_errors

NAME = "memory"
TABLE = f"{NAME}.lance"
PART = f"{NAME}.part"
VERSION = "rapipe.json"
"""The manifest of its version, a file among Lance's own."""
SPLIT = "train"
DELETED_AT_ONCE = 100_000
"""Rows; a statement of SQL names each."""


def drop(folder: Path) -> None:
    """Remove the table. It is renamed first: half a table would be another version's."""
    shutil.rmtree(folder / PART, ignore_errors=True)
    if (folder / TABLE).exists():
        (folder / TABLE).rename(folder / PART)
        shutil.rmtree(folder / PART)


def refresh(store: Store) -> None:
    """Build the table unless it is that of this version.

    If it cannot be built, that is said: it is derived, and the store is as it should be.
    """
    try:
        if not is_current(store):
            build(store)
    except (UserError, OSError) as error:
        shutil.rmtree(store.folder / PART, ignore_errors=True)
        say(
            f"warning: {store.folder / TABLE}, the table for LanceDB, could not be built "
            f"({error}): rapipe store verify builds it"
        )


def is_current(store: Store) -> bool:
    """Whether the table is there, and of this version."""
    try:
        return (store.folder / TABLE / VERSION).read_text() == store.manifest.to_json()
    except (OSError, ValueError):
        return False


def is_intact(store: Store) -> bool:
    """Whether the table is of this version and holds what its rows should, byte by byte."""
    if not is_current(store):
        return False
    rows = store.rows
    expected = rows.take(rows.splits == SPLIT).keys()
    try:
        with translate_lance_errors(store.folder):
            keys = list(read_digests(_open(store.folder), store.folder))
    except UserError:
        return False
    return np.array_equal(np.sort(np.concatenate(keys)), np.sort(expected))


def build(store: Store) -> None:
    """Build the table of this version anew.

    Raises:
        UserError: an older rapipe wrote the rows, or they are damaged.
        OSError: the disk is full, or may not be written to.
    """
    store.require_texts()
    drop(store.folder)
    part = store.folder / PART
    part.mkdir()
    _clone(store.folder / f"{store.manifest.table}.lance", part / TABLE)
    with translate_lance_errors(store.folder):
        table = _open(part)
        for condition in _left_out(store):
            table.delete(condition)
        table.drop_columns(["digest"])
    atomic_write(part / TABLE / VERSION, store.manifest.to_json().encode())
    (part / TABLE).rename(store.folder / TABLE)
    part.rmdir()


def _open(folder: Path) -> Any:
    return connect(folder).open_table(NAME)


def _clone(dataset: Path, clone: Path) -> None:
    """Copy a Lance dataset; its data files, which Lance never changes, become hard links."""
    shutil.copytree(dataset, clone, ignore=shutil.ignore_patterns("data"))
    (clone / "data").mkdir()
    for file in (dataset / "data").iterdir():
        try:
            os.link(file.resolve(), clone / "data" / file.name)
        except OSError:  # a file system without links, or a link of DVC to another one
            shutil.copyfile(file, clone / "data" / file.name)


def _left_out(store: Store) -> Iterator[str]:
    """SQL conditions of the rows that are not in the table."""
    yield f"split <> '{SPLIT}'"
    rows = np.flatnonzero(~store.members() & (store.all_rows.splits == SPLIT))
    if len(rows):
        numbers = _lance_numbers(store)[rows]
        for start in range(0, len(numbers), DELETED_AT_ONCE):
            listed = ",".join(map(str, numbers[start : start + DELETED_AT_ONCE].tolist()))
            yield f"_rowid IN ({listed})"


def _lance_numbers(store: Store) -> npt.NDArray[np.uint64]:
    """What Lance calls each of `all_rows`."""
    query = store.table.search().with_row_id(True).select(["id"])
    return np.concatenate([part["_rowid"].to_numpy() for part in query.to_batches()])
