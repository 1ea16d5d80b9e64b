"""Parquet in the layout of Hugging Face datasets.

An image column (the requested one, else `image` or `img`: a struct with `bytes`, or plain
bytes) and a label column (the requested one, else `label`, `labels`, `fine_label` or
`coarse_label`). Names of classes come from the schema metadata, under `huggingface`, else
from the labels that occur: numbers, texts or truth values. Where labels are not used, no
column is needed. Splits are those of a requested column, else of the names of files.
Files are of this machine, of a data set on the hub (`hub_files`), or in storage that speaks S3, of
which only what is needed is fetched.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rapipe.corpus.formats import suffix_of
from rapipe.corpus.sources.base import (
    UNDIVIDED,
    Item,
    Source,
    SourceRequest,
    Split,
    out_of_range,
    split_called,
    split_in,
)
from rapipe.corpus.sources.columns import (
    Columns,
    File,
    choose_columns,
    open_table,
    split_like,
    translate_errors,
)
from rapipe.corpus.sources.files import NO_SUFFIX, Listing, walk_files
from rapipe.corpus.sources.hub_files import hub_files, is_on_hub
from rapipe.errors import ArgumentError, UserError
from rapipe.io.storage import S3Path, Storage, is_remote
from rapipe.records import SPLITS, UNLABELLED

SUFFIX = ".parquet"
BATCH_ROWS = 64
"""Rows read at once: few, since each may be a large photograph."""
SCAN_ROWS = 1 << 16
"""Rows of a column of labels or splits read at once."""
MAX_CLASSES = 100_000
"""A column with more distinct values is not one of class labels."""


def parquet(request: SourceRequest) -> Source:
    """One Parquet file, or a folder of them named by split (`train-00000-of-00001.parquet`).

    Raises:
        ArgumentError: there is no Parquet file, or the hub does not give it.
        UserError: a file is damaged or has no rows, or a column is missing; names the file.
    """
    found = hub_files(request.path, SUFFIX) if is_on_hub(request.path) else None
    listing = Listing()
    names: Mapping[Any, str]
    locations: Mapping[Any, str]
    if found:
        names, single, locations = found.names, found.single, found.locations
    else:
        find = _find_remote if is_remote(request.path) else _find_files
        names, single = find(request, listing)
        locations = {file: str(file) for file in names}
    files = tuple(names)
    by_name = {} if request.split else _by_name(names, single)
    columns = choose_columns(files[0], request)
    for file in files[1:]:
        if choose_columns(file, request) != columns:
            raise UserError(f"{file} has other columns or class names than {files[0]}")
    numbers = _numbers(files, columns, request.labelled)
    table = _Table(columns, numbers, request.labelled, locations)
    splits = {split: _split(split_files, table) for split, split_files in by_name.items()}
    if columns.split:
        splits = _splits_of_column(files, table)
    hints = () if UNDIVIDED not in splits else tuple(_split_hints(files[0]))
    classes = columns.classes or tuple(map(str, numbers))
    passed_over = dict(sorted(listing.passed_over.items()))
    local = tuple(file for file in files if isinstance(file, Path))
    if not found:
        return Source(classes, splits, local, passed_over, hints, _revision(files))
    return Source(classes, splits, local, passed_over, (*hints, *found.hints), found.commit)


@dataclass(frozen=True)
class _Table:
    """How rows become items."""

    columns: Columns
    numbers: dict[Any, int]
    """Class by label."""
    labelled: bool
    locations: Mapping[Any, str]
    """What each file is called in the location of a row."""

    def error(self, value: Any) -> str:
        """Why a label cannot be used, as a clause; "" if it can."""
        if value in self.numbers or not self.labelled or value == UNLABELLED:
            return ""
        if value is None and self.columns.label_type != "integer":
            return f"has no label: {self.columns.label!r} is null"
        return out_of_range(value, len(self.numbers))


def _find_files(request: SourceRequest, listing: Listing) -> tuple[dict[File, str], bool]:
    """The Parquet files of this machine by path, sorted, and whether `path` is one of them.

    Args:
        listing: gets what lies beside them.

    Returns:
        Of each file the name below `path`.
    """
    root = request.location
    if not request.path or not root.exists():
        raise ArgumentError(
            f"`path`: {request.path!r} is no Parquet file and no folder that holds any: it does "
            "not exist"
        )
    if root.is_file():
        return {root: root.name}, True
    files: list[Path] = []
    for entry in walk_files(root, listing) if root.is_dir() else ():
        suffix = suffix_of(entry.name)
        if suffix == SUFFIX:
            if entry.error:
                raise UserError(f"{root / entry.name} {entry.error}")
            files.append(root / entry.name)
        elif not entry.name.endswith("/"):
            listing.passed_over[suffix or NO_SUFFIX] += 1
    if not files:
        raise ArgumentError(
            f"`path`: {request.path!r} is no Parquet file and no folder that holds any"
        )
    return {file: file.relative_to(root).as_posix() for file in sorted(files)}, False


def _find_remote(request: SourceRequest, listing: Listing) -> tuple[dict[File, str], bool]:
    """The same of Parquet files in S3."""
    root = S3Path(request.path)
    if root.suffix == SUFFIX and root.storage.is_file(root.key):
        return {root: root.name}, True
    names: dict[File, str] = {}
    for name in Storage(str(root)).sizes():
        if (suffix := suffix_of(name)) == SUFFIX:
            names[root / name] = name
        else:
            listing.passed_over[suffix or NO_SUFFIX] += 1
    if not names:
        raise ArgumentError(f"`path`: there is no Parquet file at or below {root}")
    return names, False


def _revision(files: tuple[File, ...]) -> str:
    """A hash of the sizes and dates of files in S3; "" if there is none."""
    remote = [file for file in files if isinstance(file, S3Path)]
    if not remote:
        return ""
    stamps = [[str(file), file.storage.stamp(file.key)] for file in remote]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _by_name(names: Mapping[Any, str], single: bool) -> dict[str, list[File]]:
    """Files by split, in the order of `SPLITS`: a word of a file's name or of a folder around it.

    Args:
        names: of each file, with the folders that count.
        single: whether one file was named, which is not divided by its name.

    Raises:
        UserError: there is none in the name of a file.
    """
    if single:
        return {UNDIVIDED: list(names)}
    by_split: dict[str, list[File]] = {}
    for file, name in names.items():
        words = [file.stem.split("-")[0].split(".")[0], *name.split("/")[::-1]]
        split = split_called(words[0]) or next(filter(None, map(split_in, words)), "")
        if not split:
            columns = " or ".join(f"`split`: {name}" for name in split_like(file))
            hint = f"; write {columns} to take them from the file" if columns else ""
            raise UserError(
                f"{file} does not begin with the name of a split; splits are {', '.join(SPLITS)}"
                f"{hint}"
            )
        by_split.setdefault(split, []).append(file)
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _split_hints(file: File) -> Iterator[str]:
    for name in split_like(file):
        yield (
            f"the column {name!r} looks like splits, but is not used: write `split`: {name} to "
            "use it"
        )


def _numbers(files: tuple[File, ...], columns: Columns, labelled: bool) -> dict[Any, int]:
    """The class of each label; labels that no class names are in ascending order."""
    if columns.classes:
        return {number: number for number in range(len(columns.classes))}
    labels: set[Any] = set()
    for file in files if columns.label else ():
        for batch in _batches(file, [columns.label], SCAN_ROWS):
            values = pc.unique(batch.column(0)).to_pylist()
            labels |= {value for value in values if value is not None}
            if len(labels) > MAX_CLASSES and labelled:
                raise UserError(
                    f"{file}: the column {columns.label!r} has more than {MAX_CLASSES:,} different "
                    "values; these are no classes: name another column as `label`"
                )
            if len(labels) > MAX_CLASSES:
                return {}
    if columns.label_type == "integer":
        labels = {label for label in labels if label >= 0}
    return {label: number for number, label in enumerate(sorted(labels))}


def _splits_of_column(files: tuple[File, ...], table: _Table) -> dict[str, Split]:
    """Splits by the values of a column, each read from all files that have rows of it."""
    column, names = table.columns.split, table.columns.split_names
    sizes: Counter[tuple[str, File]] = Counter()
    split_of: dict[Any, str] = {}
    for file in files:
        for batch in _batches(file, [column], SCAN_ROWS):
            for pair in pc.value_counts(batch.column(0)).to_pylist():
                value = pair["values"]
                name = names[value] if names and value in range(len(names)) else value
                split = split_called(name) if isinstance(name, str) else ""
                if not split:
                    raise UserError(
                        f"{file}: the column {column!r} has the value {name!r}; splits are "
                        f"{', '.join(SPLITS)}"
                    )
                split_of[value] = split
                sizes[split, file] += pair["counts"]
    splits = {}
    for split in SPLITS:
        if split_files := [file for file in files if sizes[split, file]]:
            values = frozenset(value for value in split_of if split_of[value] == split)
            size = sum(sizes[split, file] for file in split_files)
            splits[split] = _split(split_files, table, values, size)
    return splits


def _split(
    files: list[File], table: _Table, values: frozenset[Any] | None = None, size: int = 0
) -> Split:
    """The rows of files; only those whose split has one of some values, which are `size` rows."""
    rows = {file: open_table(file).metadata.num_rows for file in files}

    def items() -> Iterator[Item]:
        for file in files:
            row = -1
            for row, (data, value, split) in enumerate(_cells(file, table.columns)):
                if values is not None and split not in values:
                    continue
                location = f"{table.locations[file]} row {row}"
                if data is None:
                    yield Item(b"", UNLABELLED, location, "holds no image: its bytes are null")
                else:
                    label = table.numbers.get(value, UNLABELLED)
                    yield Item(data, label, location, table.error(value))
            if row + 1 != rows[file]:
                raise UserError(f"{file} is damaged: it has {row + 1} rows, not {rows[file]}")

    return Split(sum(rows.values()) if values is None else size, items)


def _cells(file: File, columns: Columns) -> Iterator[tuple[bytes | None, Any, Any]]:
    """Encoded image, label and split of each row."""
    names = [columns.image, columns.label, columns.split]
    for batch in _batches(file, [name for name in names if name], BATCH_ROWS):
        cells = batch.column(columns.image)
        if pa.types.is_struct(cells.type):
            cells = pc.struct_field(cells, "bytes")  # null where the struct is
        others = [
            batch.column(name).to_pylist() if name else repeat(UNLABELLED, len(cells))
            for name in names[1:]
        ]
        yield from zip(cells.to_pylist(), *others, strict=True)


def _batches(file: File, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    with translate_errors(file):
        batches = open_table(file).iter_batches(rows, columns=list(dict.fromkeys(columns)))
    while True:
        with translate_errors(file):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
