"""Atomic writes: a reader sees the old file or the new one, never half of one.

Import rule: nothing of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART, OLD = ".part", ".old"
"""Suffixes of what is still being written, and of what is just being replaced."""


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file by one with this content; if that fails, the old one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = part_path(path)
    try:
        with name_file_in_errors(partial), partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def part_path(path: Path) -> Path:
    """Where a file or folder is written until it is complete."""
    return path.with_name(path.name + PART)


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Let an `OSError` name the file, also if it comes while the file is written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
