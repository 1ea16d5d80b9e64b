"""Answers as a file, or on the screen, block by block: never all in memory.

A file is there when all of it is written, and not before. Lists in CSV are JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from rapipe.errors import ArgumentError
from rapipe.io.atomic import name_file_in_errors, part_path
from rapipe.prediction.answers import DIGITS
from rapipe.progress import print_line

Row = dict[str, Any]
as_json = json.JSONEncoder(ensure_ascii=False).encode
"""`json.dumps` makes such an encoder anew each time."""

NUMBER = f"%.{DIGITS}f"
"""Half of the time of the shortest text that is the same number."""
TEXTS, NUMBERS, IDS = pa.list_(pa.string()), pa.list_(pa.float64()), pa.list_(pa.int64())
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("class", pa.string()),
        ("probability", pa.float64()),
        ("abstain", pa.bool_()),
        ("top_classes", TEXTS),
        ("top_probabilities", NUMBERS),
        ("neighbour_ids", IDS),
        ("neighbour_classes", TEXTS),
        ("similarities", NUMBERS),
    ]
)
"""The columns of `Answers.rows`."""


class Writer(Protocol):
    """Takes rows, some at a time."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class CsvFile:
    """A header and a line a row; texts are quoted, and lists are JSON in their cell."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")
        self.file.write(",".join(SCHEMA.names) + "\n")

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self.file.writelines(",".join(map(_cell, row.values())) + "\n" for row in rows)

    def close(self) -> None:
        """Nothing comes after this."""
        self.file.close()


def _cell(value: object) -> str:
    """As `csv.writer` quotes it, which looks at each letter and takes half of the time of a row."""
    if not isinstance(value, str | list):
        return str(value)
    if isinstance(value, list) and value and isinstance(value[0], float):
        return f'"[{NUMBER}{f", {NUMBER}" * (len(value) - 1)}]"' % tuple(value)
    text = value if isinstance(value, str) else as_json(value)
    return '"' + text.replace('"', '""') + '"'


class JsonLines:
    """A JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self.file.writelines(f"{as_json(row)}\n" for row in rows)

    def close(self) -> None:
        """Nothing comes after this."""
        self.file.close()


class ParquetFile:
    """Columns with types; a row group a block."""

    def __init__(self, path: Path) -> None:
        self.file = pq.ParquetWriter(path, SCHEMA)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self.file.write_table(pa.Table.from_pylist(list(rows), SCHEMA))

    def close(self) -> None:
        """Nothing comes after this."""
        self.file.close()


class JsonArray:
    """One JSON list on standard output."""

    def __init__(self) -> None:
        self.between = "[\n"

    def write(self, rows: Sequence[Row]) -> None:
        """Print rows."""
        for row in rows:
            print(self.between + as_json(row), end="")
            self.between = ",\n"

    def close(self) -> None:
        """End the list."""
        print("[]" if self.between.startswith("[") else "\n]")


class Lines:
    """A line a row on standard output, for people."""

    def __init__(self) -> None:
        self.heads = True

    def write(self, rows: Sequence[Row]) -> None:
        """Print rows."""
        if self.heads:
            print_line(f"{'class':24}{'':10}{'or':48}{'nearest':24}image")
            self.heads = False
        for row in rows:
            likely = list(zip(row["top_classes"], row["top_probabilities"], strict=True))
            others = ", ".join(f"{name} {chance:.1%}" for name, chance in likely[1:])
            answer = f"{row['class']} {row['probability']:.1%}"
            unsure = "abstains" if row["abstain"] else ""
            print_line(f"{answer:24}{unsure:10}{others:48}{_nearest(row):24}{row['path']}")

    def close(self) -> None:
        """All is printed."""


def _nearest(row: Row) -> str:
    """Class and similarity of the first neighbour, or nothing where there is none."""
    if not row["neighbour_ids"]:
        return ""
    return f"{row['neighbour_classes'][0] or '?'} {row['similarities'][0]:.3f}"


FORMATS: dict[str, Callable[[Path], Writer]] = {
    ".csv": CsvFile,
    ".jsonl": JsonLines,
    ".parquet": ParquetFile,
}
"""By the suffix of a file."""


def check_out(path: Path) -> None:
    """Raise `ArgumentError` if no answers can be written there, by its name."""
    if path.suffix.lower() not in FORMATS:
        raise ArgumentError(f"`out` is {str(path)!r}; it must end in {' or '.join(FORMATS)}")
    if path.is_dir():
        raise ArgumentError(f"`out` is {str(path)!r}, which is a folder: name a file in it")


@contextmanager
def answers_file(path: Path) -> Iterator[Writer]:
    """What writes rows into a file, which replaces `path` in the end.

    If anything raises before, `path` stays as it was.

    Args:
        path: ends in .csv, .jsonl or .parquet, which says how it is written.
    """
    check_out(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        with name_file_in_errors(part):
            writer = FORMATS[path.suffix.lower()](part)
            try:
                yield writer
            finally:
                writer.close()
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
