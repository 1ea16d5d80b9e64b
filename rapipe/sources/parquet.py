"""Parquet in the layout of Hugging Face datasets.

An image column (`image` or `img`: a struct with `bytes`, or plain bytes) and a
label column (the one asked for, else `label`, `labels`, `fine_label` or
`coarse_label`); class names come from the schema metadata, under `huggingface`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rapipe.errors import UserError
from rapipe.records import SPLITS, UNLABELLED
from rapipe.sources.base import ALIASES, WHOLE, Ask, Item, Source, Split, out_of_range

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
ROWS_A_BATCH = 1024


def parquet(ask: Ask) -> Source:
    """One Parquet file, or a folder of them named by split (`train-00000-of-00001.parquet`).

    Raises:
        UserError: nothing is there, a file is damaged or has no rows, or a
            column is missing; the message names the file.
    """
    by_split = _find(ask.path)
    wanted = (ask.label,) if ask.label else LABEL_COLUMNS
    files = tuple(file for listed in by_split.values() for file in listed)
    image, label, classes = _layout(files[0], wanted)
    for file in files[1:]:
        if _layout(file, wanted) != (image, label, classes):
            raise UserError(f"{file} has other columns or class names than {files[0]}")
    if classes is None:
        top = max(_largest_label(file, label) for file in files)
        classes = tuple(str(number) for number in range(top + 1))
    return Source(
        classes,
        {split: _split(listed, image, label, len(classes)) for split, listed in by_split.items()},
        files,
    )


def _find(path: str) -> dict[str, list[Path]]:
    """Files by split, in the order of `SPLITS`."""
    root = Path(path)
    if path and root.is_file():
        return {WHOLE: [root]}
    files = sorted(root.rglob("*.parquet")) if path and root.is_dir() else []
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


def _layout(file: Path, labels: tuple[str, ...]) -> tuple[str, str, tuple[str, ...] | None]:
    """Names of the image and label columns, and the class names if the file has them."""
    try:
        opened = pq.ParquetFile(file)
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is no readable Parquet file: {error}") from None
    if not rows:
        raise UserError(f"{file} has no rows")
    image = _choose(file, schema.names, IMAGE_COLUMNS)
    label = _choose(file, schema.names, labels)
    kind = schema.field(image).type
    nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (nested or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(f"{file}: the column {image!r} is {kind}, not encoded images")
    if not pa.types.is_integer(schema.field(label).type):
        raise UserError(f"{file}: the column {label!r} is {schema.field(label).type}, not integers")
    return image, label, _class_names(schema, label)


def _choose(file: Path, names: list[str], known: tuple[str, ...]) -> str:
    for name in known:
        if name in names:
            return name
    raise UserError(f"{file} has the columns {', '.join(names)}, but none of {', '.join(known)}")


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    try:
        facts: Any = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in facts["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _largest_label(file: Path, label: str) -> int:
    largest = -1
    for batch in pq.ParquetFile(file).iter_batches(1 << 16, columns=[label]):
        values = [value for value in batch.column(0).to_pylist() if value is not None]
        largest = max([largest, *values])
    return largest


def _split(listed: list[Path], image: str, label: str, classes: int) -> Split:
    size = sum(pq.ParquetFile(file).metadata.num_rows for file in listed)

    def items() -> Iterator[Item]:
        for file in listed:
            for row, (data, value) in enumerate(_cells(file, image, label)):
                where = f"{file} row {row}"
                if data is None:
                    yield Item(b"", UNLABELLED, where, "holds no image: its bytes are null")
                elif error := out_of_range(value, classes):
                    yield Item(data, UNLABELLED, where, error)
                else:
                    yield Item(data, value, where)

    return Split(size, items)


def _cells(file: Path, image: str, label: str) -> Iterator[tuple[bytes | None, Any]]:
    """Encoded image and label of each row."""
    try:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_A_BATCH, columns=[image, label]):
            cells = batch.column(image)
            if pa.types.is_struct(cells.type):
                cells = cells.field("bytes")
            yield from zip(cells.to_pylist(), batch.column(label).to_pylist(), strict=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is no readable Parquet file: {error}") from None
