"""Atomic writes of folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rapipe.io.atomic import OLD, part_path
from rapipe.io.checksums import check_unchanged, write_checksums


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which replaces `folder` in the end, with its checksum files.

    `folder` stays as it was if anything raises before, or if a watched input has changed
    (`checksums.check_unchanged`).
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    part, old = part_path(folder), part_path(folder).with_suffix(OLD)
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        check_unchanged()
        write_checksums(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
