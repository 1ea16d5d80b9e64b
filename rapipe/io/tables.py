"""JSON and CSV that are whole or not there, and hold no number that is not finite.

JSON that stands alone carries the hash of its content itself.

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
"""Key of the hash of the rest, in JSON that stands alone."""


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
    """What `sealed` was given.

    Raises:
        NoSeal: there is no hash.
        ValueError: it is no JSON, or the hash is that of something else.
    """
    found: dict[str, Any] = json.loads(text)
    if not isinstance(found, dict) or CHECKSUM not in found:
        raise NoChecksum(f"it has no {CHECKSUM}")
    own = found.pop(CHECKSUM)
    if own != _content_hash(found):
        raise ValueError(f"its {CHECKSUM} is that of another content")
    return found


def _content_hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def read_json(
    path: Path, stage: str, parse: Callable[[str], dict[str, Any]] = json.loads
) -> dict[str, Any]:
    """A JSON object; `UserError` names the stage that makes it if it is missing or damaged."""
    try:
        found = parse(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run rapipe {stage}, or dvc repro") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): run rapipe {stage}, or dvc repro") from error
    return found


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all; `UserError` if a number in it is not finite."""
    _check_finite(path, content)
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_checksummed(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that stands alone, with the hash of its content."""
    _check_finite(path, content)
    atomic_write(path, checksummed_json(content).encode())


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] = ()
) -> None:
    """Write rows with the same keys, floats to 6 digits, whole or not at all; None is empty.

    Args:
        columns: the keys, where there may be no row; without either the file is empty.

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


def _check_finite(path: Path, content: object, at: str = "") -> None:
    """Raise `UserError` if a number in JSON-able content is not finite: no result is worth it."""
    if isinstance(content, float) and not math.isfinite(content):
        raise UserError(
            f"{path} is not written, since{at} is {content}: an image, a label or a weight that "
            "this was computed from is no use; look at what the stages before it made, and run "
            "them again"
        )
    if isinstance(content, Mapping):
        for name, own in content.items():
            _check_finite(path, own, f"{at} {name}")
    elif isinstance(content, list | tuple):
        for place, own in enumerate(content):
            _check_finite(path, own, f"{at} {place}")


def fingerprint(facts: object) -> str:
    """Sixteen hexadecimal digits of a hash of JSON-able facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
