"""Parquet in the layout of Hugging Face datasets.

An image column (`image` or `img`: a struct with `bytes`, or plain bytes) and a
label column (the requested one, else `label`, `labels`, `fine_label` or
`coarse_label`). Class names come from the schema metadata, under `huggingface`,
else from the labels that occur. Where labels are not used, no column is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rapipe.corpus.sources.archives import walk_files
from rapipe.corpus.sources.base import (
    ALIASES,
    UNDIVIDED,
    Item,
    Source,
    SourceRequest,
    Split,
    out_of_range,
)
from rapipe.errors import ArgumentError, UserError
from rapipe.records import SPLITS, UNLABELLED

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
BATCH_ROWS = 64
"""Rows read at once: few, since each may be a large photograph."""
MAX_CLASSES = 100_000
"""A column with more distinct values is not one of class labels."""


def parquet(request: SourceRequest) -> Source:
    """One Parquet file, or a folder of them named by split (`train-00000-of-00001.parquet`).

    Raises:
        ArgumentError: there is no Parquet file.
        UserError: a file is damaged or has no rows, or a column is missing; names the file.
    """
    by_split = _find_files(request.path)
    labels = (request.label,) if request.label else LABEL_COLUMNS
    files = tuple(file for split_files in by_split.values() for file in split_files)
    layout = _layout(files[0], labels, request.labelled)
    for file in files[1:]:
        if _layout(file, labels, request.labelled) != layout:
            raise UserError(f"{file} has other columns or class names than {files[0]}")
    image, label, classes = layout
    if label is None:
        numbers: dict[int, int] = {}
    elif classes is None:
        numbers = {number: i for i, number in enumerate(_distinct_labels(files, label))}
    else:
        numbers = {number: number for number in range(len(classes))}
    return Source(
        classes or tuple(map(str, numbers)),
        {
            split: _split(split_files, image, label, numbers, request.labelled)
            for split, split_files in by_split.items()
        },
        files,
    )


def _find_files(path: str) -> dict[str, list[Path]]:
    """Files by split, in the order of `SPLITS`."""
    root = Path(path)
    if path and root.is_file():
        return {UNDIVIDED: [root]}
    inside = walk_files(root) if path and root.is_dir() else iter(())
    files = sorted(file for file in inside if file.suffix == ".parquet")
    if not files:
        raise ArgumentError(f"`path`: {path!r} is no Parquet file and no folder that holds any")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        word = file.stem.split("-")[0].split(".")[0]
        split = ALIASES.get(word, word)
        if split not in SPLITS:
            raise UserError(
                f"{file} does not begin with the name of a split; splits are {', '.join(SPLITS)}"
            )
        by_split.setdefault(split, []).append(file)
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _layout(
    file: Path, labels: tuple[str, ...], labelled: bool
) -> tuple[str, str | None, tuple[str, ...] | None]:
    """Names of the image and label columns, and the class names if the file has them."""
    with _translate_errors(file):
        table = _open(file)
        schema, rows = table.schema_arrow, table.metadata.num_rows
        names = schema.names
    if not rows:
        raise UserError(f"{file} has no rows")
    image = _choose_column(file, names, IMAGE_COLUMNS)
    type_ = schema.field(image).type
    nested = pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0
    content = type_.field("bytes").type if nested else type_
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise UserError(f"{file}: the column {image!r} is {type_}, not encoded images")
    if not labelled and not any(
        name in names and pa.types.is_integer(schema.field(name).type) for name in labels
    ):
        return image, None, None
    label = _choose_column(file, names, labels)
    if not pa.types.is_integer(schema.field(label).type):
        raise UserError(f"{file}: the column {label!r} is {schema.field(label).type}, not integers")
    return image, label, _class_names(schema, label)


def _choose_column(file: Path, names: list[str], choices: tuple[str, ...]) -> str:
    for name in choices:
        if names.count(name) > 1:
            raise UserError(f"{file} has the column {name!r} more than once")
        if name in names:
            return name
    raise UserError(f"{file} has the columns {', '.join(names)}, but none of {', '.join(choices)}")


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The class names of the schema's metadata; None if it has none that are names."""
    try:
        metadata: Any = json.loads((schema.metadata or {})[b"huggingface"])
        names: Any = metadata["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) or None if is_list else None


def _distinct_labels(files: tuple[Path, ...], label: str) -> list[int]:
    """The labels that occur, in ascending order; -1 and null are none."""
    labels: set[int] = set()
    for file in files:
        for batch in _batches(file, [label], 1 << 16):
            values = pc.unique(batch.column(0)).to_pylist()
            labels |= {value for value in values if value is not None and value >= 0}
            if len(labels) > MAX_CLASSES:
                raise UserError(
                    f"{file}: the column {label!r} has more than {MAX_CLASSES:,} different values;"
                    " these are no classes: name another column as `label`"
                )
    return sorted(labels)


def _split(
    files: list[Path], image: str, label: str | None, numbers: dict[int, int], labelled: bool
) -> Split:
    rows = {file: _open(file).metadata.num_rows for file in files}

    def items() -> Iterator[Item]:
        for file in files:
            row = -1
            for row, (data, value) in enumerate(_cells(file, image, label)):
                location = f"{file} row {row}"
                if data is None:
                    yield Item(b"", UNLABELLED, location, "holds no image: its bytes are null")
                elif value == UNLABELLED or value in numbers or not labelled:
                    yield Item(data, numbers.get(value, UNLABELLED), location)
                else:
                    yield Item(data, UNLABELLED, location, out_of_range(value, len(numbers)))
            if row + 1 != rows[file]:
                raise UserError(f"{file} is damaged: it has {row + 1} rows, not {rows[file]}")

    return Split(sum(rows.values()), items)


def _cells(file: Path, image: str, label: str | None) -> Iterator[tuple[bytes | None, Any]]:
    """Encoded image and label of each row."""
    for batch in _batches(file, [image, label] if label else [image], BATCH_ROWS):
        cells = batch.column(image)
        if pa.types.is_struct(cells.type):
            cells = pc.struct_field(cells, "bytes")  # null where the struct is
        labels = batch.column(label).to_pylist() if label else repeat(UNLABELLED, len(cells))
        yield from zip(cells.to_pylist(), labels, strict=True)


def _batches(file: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    with _translate_errors(file):
        batches = _open(file).iter_batches(rows, columns=columns)
    while True:
        with _translate_errors(file):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _open(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True)


@contextmanager
def _translate_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged files make pyarrow raise anything
        raise UserError(f"{file} is no readable Parquet file: {error}") from None
