"""Which columns of a Parquet file hold images, labels and splits, and which look as if they did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rapipe.corpus.sources.base import SourceRequest, split_called
from rapipe.errors import UserError
from rapipe.io.placeholders import placeholder
from rapipe.io.storage import S3Path

File = Path | S3Path
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
PROBE_ROWS = 10_000
"""First rows that are looked at for a hint."""
PROBE_CLASSES = 1000
"""A column of more values in so many rows does not look like one of labels."""


@dataclass(frozen=True)
class Columns:
    """Names of columns; "" for none."""

    image: str
    label: str
    split: str
    label_type: str
    """integer, text or truth."""
    classes: tuple[str, ...] | None
    """Names of the classes that integers stand for, if the file has them."""
    split_names: tuple[str, ...] | None
    """The same of splits."""


def choose_columns(file: File, request: SourceRequest) -> Columns:
    """The columns that a request names, else the usual ones.

    Raises:
        UserError: the file is damaged or has no rows, or there is no such column; then it says
            which look like one.
    """
    with translate_errors(file):
        table = open_table(file)
        schema, rows = table.schema_arrow, table.metadata.num_rows
    if not rows:
        raise UserError(f"{file} has no rows")
    image = _choose_image(file, schema, request)
    split = _choose(file, schema, (request.split,), "split", split_like) if request.split else ""
    split_names = class_names(schema, split) if split else None
    if split and _type(schema, split) != "text" and not split_names:
        raise UserError(
            f"{file}: the column {split!r} is {schema.field(split).type}, not names of splits"
        )
    label = _choose_label(file, schema, request)
    type_ = _type(schema, label) if label else ""
    classes = class_names(schema, label) if type_ == "integer" else None
    return Columns(image, label, split, type_, classes, split_names)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names in the schema's metadata of what integers stand for; None if there are none."""
    try:
        metadata: Any = json.loads((schema.metadata or {})[b"huggingface"])
        names: Any = metadata["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) or None if is_list else None


def split_like(file: File) -> list[str]:
    """Columns whose first values are all names of splits."""
    with translate_errors(file):
        schema = open_table(file).schema_arrow
    names = {name: class_names(schema, name) or () for name in _unique_names(schema)}
    texts = [name for name in names if _type(schema, name) == "text"]
    numbered = [name for name in names if names[name] and all(map(split_called, names[name]))]
    values = _first_values(file, texts)
    return [name for name in texts if values[name] and all(map(split_called, values[name]))] + (
        numbered
    )


@contextmanager
def translate_errors(file: File) -> Iterator[None]:
    """Whatever pyarrow raises becomes a `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files make pyarrow raise anything
        reason = (
            isinstance(file, Path) and placeholder(file)
        ) or f"is no readable Parquet file: {error}"
        raise UserError(f"{file} {reason}") from None


def open_table(file: File) -> pq.ParquetFile:
    """An open Parquet file."""
    source = file.open() if isinstance(file, S3Path) else file
    return pq.ParquetFile(source, page_checksum_verification=True)


def _choose_image(file: File, schema: pa.Schema, request: SourceRequest) -> str:
    choices = (request.image,) if request.image else IMAGE_COLUMNS
    image = _choose(file, schema, choices, "image", image_like)
    if not _is_encoded(schema.field(image).type):
        raise UserError(
            f"{file}: the column {image!r} is {schema.field(image).type}, not encoded images"
            f"{_hint('image', [name for name in image_like(file) if name != image])}"
        )
    return image


def _choose_label(file: File, schema: pa.Schema, request: SourceRequest) -> str:
    choices = (request.label,) if request.label else LABEL_COLUMNS
    if not request.labelled:
        usable = (n for n in choices if n in _unique_names(schema) and _type(schema, n))
        return next(usable, "")
    label = _choose(file, schema, choices, "label", label_like)
    if not _type(schema, label):
        raise UserError(
            f"{file}: the column {label!r} is {schema.field(label).type}, not integers, texts or "
            f"truth values{_hint('label', [name for name in label_like(file) if name != label])}"
        )
    return label


def _choose(
    file: File, schema: pa.Schema, choices: tuple[str, ...], key: str, candidates: Any
) -> str:
    """The first of some columns that there is."""
    for name in choices:
        if schema.names.count(name) > 1:
            raise UserError(f"{file} has the column {name!r} more than once")
        if name in schema.names:
            return name
    raise UserError(
        f"{file} has the columns {', '.join(schema.names)}, but none of {', '.join(choices)}"
        f"{_hint(key, candidates(file))}"
    )


def _hint(key: str, candidates: Iterable[str]) -> str:
    """What to write for a column that looks like the right one."""
    words = " or ".join(f"`{key}`: {name}" for name in candidates)
    return f"; write {words}" if words else ""


def image_like(file: File) -> list[str]:
    """Columns of encoded images."""
    with translate_errors(file):
        schema = open_table(file).schema_arrow
    return [name for name in _unique_names(schema) if _is_encoded(schema.field(name).type)]


def label_like(file: File) -> list[str]:
    """Columns that look like labels: those with names of classes, else those of few values."""
    with translate_errors(file):
        schema = open_table(file).schema_arrow
    splits = split_like(file)
    names = [n for n in _unique_names(schema) if _type(schema, n) and n not in splits]
    if named := [name for name in names if class_names(schema, name)]:
        return named
    values = _first_values(file, names)
    with translate_errors(file):
        rows = min(PROBE_ROWS, open_table(file).metadata.num_rows)
    return [name for name in names if 1 < len(values[name]) <= min(PROBE_CLASSES, rows // 2)]


def _unique_names(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if schema.names.count(name) == 1]


def _first_values(file: File, names: list[str]) -> dict[str, set[Any]]:
    """The different values of columns in the first rows, without null."""
    if not names:
        return {}
    with translate_errors(file):
        batch = next(open_table(file).iter_batches(PROBE_ROWS, columns=names))
        return {name: set(pc.unique(batch.column(name)).drop_null().to_pylist()) for name in names}


def _type(schema: pa.Schema, name: str) -> str:
    """What a column holds, if that can be labels: integer, text or truth; else ""."""
    type_ = schema.field(name).type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_integer(type_):
        return "integer"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(is_text(type_) for is_text in texts):
        return "text"
    return "truth" if pa.types.is_boolean(type_) else ""


def _is_encoded(type_: pa.DataType) -> bool:
    """Whether a column may hold encoded images: bytes, or a struct with `bytes`."""
    if pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0:
        type_ = type_.field("bytes").type
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_binary(type_) for is_binary in kinds)
