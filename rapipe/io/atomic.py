"""Files that are replaced whole, so that nobody ever sees half of one.

Import rule: nothing of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART, OLD = ".part", ".old"
"""Ends of the names of what is not yet whole, and of what is just being replaced."""


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file by one with this content, so that it is the old or the new, never half."""
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
    """Where a file or folder is written until it is whole."""
    return path.with_name(path.name + PART)


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Errors of the disk name the file, also those that come while it is written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
