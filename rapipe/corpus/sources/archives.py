"""Archives of public data sets: tar files are unpacked, zip files are read as they are."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rapipe.corpus import decode
from rapipe.corpus.sources.base import Item, SourceRequest, Split
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


@dataclass(frozen=True)
class FileTree:
    """Files by relative name, in a folder or in a zip file, which is not unpacked."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    """The zip file, or every file of the folder."""
    walk: Callable[[list[str]], Iterator[bytes | Path]]
    """Contents of the files with these names, in their order."""

    def read(self, name: str) -> bytes:
        """The content of one file."""
        (content,) = self.walk([name])
        return content.read_bytes() if isinstance(content, Path) else content

    def split(self, labels: list[tuple[str, int]], prefix: str = "") -> Split:
        """The images with these names and labels; messages put `prefix` before the name."""

        def items() -> Iterator[Item]:
            contents = self.walk([name for name, _ in labels])
            for (name, label), data in zip(labels, contents, strict=True):
                yield Item(data, label, f"{prefix}{name}")

        return Split(len(labels), items)


def file_tree(path: Path) -> FileTree:
    """The files below a folder, or in a zip file.

    Raises:
        UserError: the zip file is damaged.
    """
    if path.is_dir():
        files = tuple(walk_files(path))
        names = tuple(file.relative_to(path).as_posix() for file in files)
        return FileTree(names, files, lambda names: (path / name for name in names))

    def walk(names: list[str]) -> Iterator[bytes]:
        with _zip_file(path) as archive:
            for name in names:
                size = archive.getinfo(name).file_size
                if size > decode.MAX_BYTES:
                    raise UserError(f"{path}: {name} has {size:,} bytes, more than any image")
                yield archive.read(name)

    with _zip_file(path) as archive:
        names = tuple(sorted(name for name in archive.namelist() if not name.endswith("/")))
    return FileTree(names, (path,), walk)


@contextmanager
def _zip_file(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open zip file; damage becomes a `UserError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile raise anything
        raise UserError(f"{path} is no zip file that can be read: {error}") from None


def require_files(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files; `UserError` names the first that is missing."""
    paths = tuple(files)
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing: unpack the archive again")
    return paths


def walk_files(root: Path) -> Iterator[Path]:
    """Regular files below a folder, sorted; without hidden ones and loops of links.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    visited: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.exists() and stat.S_ISREG(path.stat().st_mode):
                yield path
