"""Parquet in the layout of Hugging Face datasets.

An image column (`image` or `img`: a struct with `bytes`, or plain bytes) and a
label column (`label`, `labels`, `fine_label` or `coarse_label`); class names
come from the schema metadata, under `huggingface`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rapipe.errors import UserError
from rapipe.records import SPLITS
from rapipe.sources.base import ALIASES, WHOLE, Item, Source, Split

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
ROWS_A_BATCH = 1024


def parquet(path: str) -> Source:
    """One Parquet file, or a folder of them named by split (`train-00000-of-00001.parquet`).

    Raises:
        UserError: nothing is there, a column is missing, or a label is null or
            out of range; the message names the file (and row).
    """
    by_split = _find(path)
    first = next(iter(by_split.values()))[0]
    image, label, classes = _layout(first)
    for file in (file for listed in by_split.values() for file in listed):
        if _layout(file) != (image, label, classes):
            raise UserError(f"{file} has other columns or class names than {first}")
    if classes is None:
        top = max(_largest_label(f, label) for listed in by_split.values() for f in listed)
        classes = tuple(str(number) for number in range(top + 1))
    return Source(
        classes,
        {split: _split(listed, image, label, len(classes)) for split, listed in by_split.items()},
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


def _layout(file: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """Names of the image and label columns, and the class names if the file has them."""
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} is no readable Parquet file: {error}") from None
    image = _choose(file, schema.names, IMAGE_COLUMNS)
    label = _choose(file, schema.names, LABEL_COLUMNS)
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
            row = 0
            for batch in pq.ParquetFile(file).iter_batches(ROWS_A_BATCH, columns=[image, label]):
                cells = batch.column(image).to_pylist()
                for cell, value in zip(cells, batch.column(label).to_pylist(), strict=True):
                    where = f"{file} row {row}"
                    data = cell["bytes"] if isinstance(cell, dict) else cell
                    if data is None:
                        raise UserError(f"{where}: the image has no bytes")
                    if value is None or not -1 <= value < classes:
                        raise UserError(
                            f"{where}: the label is {value}; it must be from 0 to "
                            f"{classes - 1}, or -1 for none"
                        )
                    yield Item(data, value, where)
                    row += 1

    return Split(size, items)
