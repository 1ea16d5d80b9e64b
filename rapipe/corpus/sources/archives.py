"""Tar files of public data sets, which are unpacked; `trees` reads others as they are."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

from rapipe.corpus.sources.base import SourceRequest
from rapipe.corpus.sources.download import Archive, obtain
from rapipe.errors import UserError
from rapipe.progress import say

MAX_BYTES = 1 << 34
"""No data set that is published as a tar file unpacks to more."""
FILE_BYTES = 4096
"""Size of an empty file on disk."""


def unpack(kind: str, request: SourceRequest, archive: Archive, *tops: str) -> Path:
    """The folder of a data set that is published as one tar file, unpacked if necessary.

    Args:
        tops: names of the top folder; the first that exists is returned, and the
            last is the one in `archive`.

    Raises:
        ArgumentError: neither folder nor archive exists, and none may be fetched.
        UserError: the archive is damaged or would write outside its folder.
    """
    root = request.folder(kind)
    for top in tops:
        for folder in (root, root / top):
            if folder.name == top and folder.is_dir():
                return folder
    path = obtain(archive, root, request.download)
    partial = root / f"{tops[-1]}.part"
    shutil.rmtree(partial, ignore_errors=True)
    say(f"unpacking {path}")
    try:
        with tarfile.open(path) as tar:
            _extract(tar, partial)
        (partial / tops[-1]).replace(root / tops[-1])
    except Exception as error:  # damaged files make tarfile raise anything
        raise UserError(f"{path} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root / tops[-1]


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Write files and folders, all inside `folder`, up to `MAX_BYTES`, and no links.

    By our own means, since tarfile has filters from Python 3.11.4 on.
    """
    size = 0
    for member in tar:
        size += member.size + FILE_BYTES
        if size > MAX_BYTES:
            raise tarfile.TarError(f"it holds more than {MAX_BYTES:,} bytes")
        path = folder / member.name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"it holds {member.name!r}, which lies outside of the folder")
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise tarfile.TarError(f"it holds {member.name!r}, which is no file and no folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)


def decode_text(content: bytes, location: object) -> str:
    """The text of a file of names; `UserError` if it is none."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{location} is no text: get the archive again") from None


def require_files(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files; `UserError` names the first that is missing."""
    paths = tuple(files)
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing: unpack the archive again")
    return paths
