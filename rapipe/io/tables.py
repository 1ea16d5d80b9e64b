"""JSON and CSV: written atomically, and every number in them is finite.

A JSON file outside folders with checksum files carries the hash of its content itself.

Import rule: nothing of ours but `errors` and `io.atomic`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write

CHECKSUM = "seal"
"""Key of the hash of the rest, in JSON that carries it."""


def checksummed_json(content: Mapping[str, Any]) -> str:
    """JSON with the hash of its content.

    Raises:
        ValueError: a number in it is not finite.
    """
    return (
        json.dumps({**content, CHECKSUM: _content_hash(content)}, indent=2, allow_nan=False) + "\n"
    )


class NoChecksum(ValueError):
    """JSON without the hash of its content."""


def parse_checksummed(text: str) -> dict[str, Any]:
    """The content that `checksummed_json` got.

    Raises:
        NoChecksum: the JSON carries no hash.
        ValueError: it is no JSON, or the hash is that of another content.
    """
    content: dict[str, Any] = json.loads(text)
    if not isinstance(content, dict) or CHECKSUM not in content:
        raise NoChecksum(f"it has no {CHECKSUM}")
    if content.pop(CHECKSUM) != _content_hash(content):
        raise ValueError(f"its {CHECKSUM} is that of another content")
    return content


def _content_hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def read_json(
    path: Path, stage: str, parse: Callable[[str], dict[str, Any]] = json.loads
) -> dict[str, Any]:
    """A JSON object; `UserError` names the stage that writes it if it is missing or damaged."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run rapipe {stage}, or dvc repro") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): run rapipe {stage}, or dvc repro") from error
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically; `UserError` if a number in it is not finite."""
    _check_finite(path, content)
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_checksummed(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with the hash of its content; `UserError` if a number in it is not finite."""
    _check_finite(path, content)
    atomic_write(path, checksummed_json(content).encode())


def read_checksummed(path: Path) -> dict[str, Any]:
    """What `write_checksummed` wrote, for what can be made again: empty if missing or damaged."""
    try:
        return parse_checksummed(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def without_nan(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """A row as it is written: None, an empty cell, where one of these columns has no number."""
    return {
        name: None if name in names and math.isnan(value) else value for name, value in row.items()
    }


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] = ()
) -> None:
    """Write rows with the same keys atomically: floats to 6 digits, None as an empty cell.

    Args:
        columns: the keys, if there may be no rows; without columns and rows the file is empty.

    Raises:
        UserError: a number is not finite.
    """
    _check_finite(path, rows)
    text = io.StringIO(newline="")
    names = columns or (list(rows[0]) if rows else ())
    writer = csv.DictWriter(text, names, lineterminator="\n")
    if names:
        writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    atomic_write(path, text.getvalue().encode())


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Rows of numbers from a CSV, without those that are empty."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return [{name: float(text) for name, text in row.items() if text} for row in rows]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV, as texts."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _check_finite(path: Path, content: object, keys: str = "") -> None:
    """Raise `UserError` if a number in JSON-able content is not finite; names its keys."""
    if isinstance(content, float) and not math.isfinite(content):
        raise UserError(
            f"{path} is not written, since{keys} is {content}: an image, a label or a weight that "
            "this was computed from is no use; look at what the stages before it made, and run "
            "them again"
        )
    if isinstance(content, Mapping):
        for key, value in content.items():
            _check_finite(path, value, f"{keys} {key}")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            _check_finite(path, value, f"{keys} {index}")


def fingerprint(facts: object) -> str:
    """Sixteen hexadecimal digits of a hash of JSON-able facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
