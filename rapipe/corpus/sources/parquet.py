"""Parquet in the layout of Hugging Face datasets.

An image column (`image` or `img`: a struct with `bytes`, or plain bytes) and a
label column (the one asked for, else `label`, `labels`, `fine_label` or
`coarse_label`); class names come from the schema metadata, under `huggingface`,
else from the labels that occur. Where no labels are wanted, no column is needed.
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
    WHOLE,
    Item,
    Source,
    SourceRequest,
    Split,
    out_of_range,
)
from rapipe.errors import UserError
from rapipe.records import SPLITS, UNLABELLED

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
ROWS_A_BATCH = 64
"""Few, since each may be a large photograph."""
MOST_CLASSES = 100_000
"""More distinct labels than this are something else than classes."""


def parquet(ask: SourceRequest) -> Source:
    """One Parquet file, or a folder of them named by split (`train-00000-of-00001.parquet`).

    Raises:
        UserError: nothing is there, a file is damaged or has no rows, or a
            column is missing; the message names the file.
    """
    by_split = _find(ask.path)
    wanted = (ask.label,) if ask.label else LABEL_COLUMNS
    files = tuple(file for listed in by_split.values() for file in listed)
    layout = _layout(files[0], wanted, ask.labelled)
    for file in files[1:]:
        if _layout(file, wanted, ask.labelled) != layout:
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
            split: _split(listed, image, label, numbers, ask.labelled)
            for split, listed in by_split.items()
        },
        files,
    )


def _find(path: str) -> dict[str, list[Path]]:
    """Files by split, in the order of `SPLITS`."""
    root = Path(path)
    if path and root.is_file():
        return {WHOLE: [root]}
    inside = walk_files(root) if path and root.is_dir() else iter(())
    files = sorted(file for file in inside if file.suffix == ".parquet")
    if not files:
        raise UserError(f"corpus.sources: {path!r} is no Parquet file and no folder that holds any")
    found: dict[str, list[Path]] = {}
    for file in files:
        word = file.stem.split("-")[0].split(".")[0]
        split = ALIASES.get(word, word)
        if split not in SPLITS:
            raise UserError(
                f"{file} does not begin with the name of a split; splits are {', '.join(SPLITS)}"
            )
        found.setdefault(split, []).append(file)
    return {split: found[split] for split in SPLITS if split in found}


def _layout(
    file: Path, labels: tuple[str, ...], labelled: bool
) -> tuple[str, str | None, tuple[str, ...] | None]:
    """Names of the image and label columns, and the class names if the file has them."""
    with _damage_told(file):
        opened = _open(file)
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
        names = schema.names
    if not rows:
        raise UserError(f"{file} has no rows")
    image = _choose(file, names, IMAGE_COLUMNS)
    kind = schema.field(image).type
    nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    content = kind.field("bytes").type if nested else kind
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise UserError(f"{file}: the column {image!r} is {kind}, not encoded images")
    if not labelled and not any(
        name in names and pa.types.is_integer(schema.field(name).type) for name in labels
    ):
        return image, None, None
    label = _choose(file, names, labels)
    if not pa.types.is_integer(schema.field(label).type):
        raise UserError(f"{file}: the column {label!r} is {schema.field(label).type}, not integers")
    return image, label, _class_names(schema, label)


def _choose(file: Path, names: list[str], known: tuple[str, ...]) -> str:
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"{file} has the column {name!r} more than once")
        if name in names:
            return name
    raise UserError(f"{file} has the columns {', '.join(names)}, but none of {', '.join(known)}")


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The class names of the schema's metadata; None if it has none that are names."""
    try:
        facts: Any = json.loads((schema.metadata or {})[b"huggingface"])
        names: Any = facts["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) or None if listed else None


def _distinct_labels(files: tuple[Path, ...], label: str) -> list[int]:
    """The labels that occur, in order; -1 and null are none."""
    found: set[int] = set()
    for file in files:
        for batch in _batches(file, [label], 1 << 16):
            values = pc.unique(batch.column(0)).to_pylist()
            found |= {value for value in values if value is not None and value >= 0}
            if len(found) > MOST_CLASSES:
                raise UserError(
                    f"{file}: the column {label!r} has more than {MOST_CLASSES:,} different values;"
                    " these are no classes: name another column as `label`"
                )
    return sorted(found)


def _split(
    listed: list[Path], image: str, label: str | None, numbers: dict[int, int], labelled: bool
) -> Split:
    rows = {file: _open(file).metadata.num_rows for file in listed}

    def items() -> Iterator[Item]:
        for file in listed:
            row = -1
            for row, (data, value) in enumerate(_cells(file, image, label)):
                where = f"{file} row {row}"
                if data is None:
                    yield Item(b"", UNLABELLED, where, "holds no image: its bytes are null")
                elif value == UNLABELLED or value in numbers or not labelled:
                    yield Item(data, numbers.get(value, UNLABELLED), where)
                else:
                    yield Item(data, UNLABELLED, where, out_of_range(value, len(numbers)))
            if row + 1 != rows[file]:
                raise UserError(f"{file} is damaged: it has {row + 1} rows, not {rows[file]}")

    return Split(sum(rows.values()), items)


def _cells(file: Path, image: str, label: str | None) -> Iterator[tuple[bytes | None, Any]]:
    """Encoded image and label of each row."""
    for batch in _batches(file, [image, label] if label else [image], ROWS_A_BATCH):
        cells = batch.column(image)
        if pa.types.is_struct(cells.type):
            cells = pc.struct_field(cells, "bytes")  # null where the struct is
        labels = batch.column(label).to_pylist() if label else repeat(UNLABELLED, len(cells))
        yield from zip(cells.to_pylist(), labels, strict=True)


def _batches(file: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    with _damage_told(file):
        batches = _open(file).iter_batches(rows, columns=columns)
    while True:
        with _damage_told(file):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _open(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True)


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged files make pyarrow raise anything
        raise UserError(f"{file} is no readable Parquet file: {error}") from None
