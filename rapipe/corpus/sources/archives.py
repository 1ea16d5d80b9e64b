"""Archives of public data sets: unpacked beside themselves, or read as they are."""

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

MOST_BYTES = 1 << 34
"""No data set that comes as a tar file unpacks to so much."""
FILE_BYTES = 4096
"""What a file takes on disk although it is empty."""


def unpacked(kind: str, ask: SourceRequest, archive: Archive, *tops: str) -> Path:
    """The folder of a data set that comes as one tar file.

    Args:
        tops: names of the folder in the archive; the first found is taken, and
            the last is the one that `archive` holds.

    Raises:
        UserError: neither folder nor archive is there and none may be fetched,
            or the archive is damaged or would write outside its folder.
    """
    root = ask.folder(kind)
    for top in tops:
        for folder in (root, root / top):
            if folder.name == top and folder.is_dir():
                return folder
    path = obtain(archive, root, ask.download)
    partial = root / f"{tops[-1]}.part"
    shutil.rmtree(partial, ignore_errors=True)
    say(f"unpacking {path}")
    try:
        with tarfile.open(path) as tar:
            tar.extractall(partial, filter=_harmless())
        (partial / tops[-1]).replace(root / tops[-1])
    except Exception as error:  # damaged files make tarfile raise anything
        raise UserError(f"{path} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root / tops[-1]


def _harmless() -> Callable[[tarfile.TarInfo, str], tarfile.TarInfo | None]:
    """What tar files may hold: files and folders, of so many bytes, all inside; and no links."""

    left = MOST_BYTES

    def filtered(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        nonlocal left
        left -= member.size + FILE_BYTES
        if left < 0:
            raise tarfile.TarError(f"it holds more than {MOST_BYTES:,} bytes")
        if not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"it holds {member.name!r}, which is no file and no folder")
        return tarfile.data_filter(member, folder)

    return filtered


def text_of(content: bytes, where: object) -> str:
    """Text of a file of names.

    Raises:
        UserError: it is none.
    """
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{where} is no text: get the archive again") from None


@dataclass(frozen=True)
class Tree:
    """Files by relative name, in a folder or in a zip file that stays packed."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    """What lies on disk: the zip file, or every file."""
    walk: Callable[[list[str]], Iterator[bytes | Path]]
    """Contents of the files with these names, in their order."""

    def read(self, name: str) -> bytes:
        """The content of one file."""
        (content,) = self.walk([name])
        return content.read_bytes() if isinstance(content, Path) else content

    def split(self, listed: list[tuple[str, int]], where: str = "") -> Split:
        """The images with these names and labels; `where` stands before the name in messages."""

        def items() -> Iterator[Item]:
            contents = self.walk([name for name, _ in listed])
            for (name, label), data in zip(listed, contents, strict=True):
                yield Item(data, label, f"{where}{name}")

        return Split(len(listed), items)


def tree(path: Path) -> Tree:
    """The files below a folder, or in a zip file.

    Raises:
        UserError: the zip file is damaged.
    """
    if path.is_dir():
        files = tuple(walk_files(path))
        names = tuple(file.relative_to(path).as_posix() for file in files)
        return Tree(names, files, lambda wanted: (path / name for name in wanted))

    def walk(wanted: list[str]) -> Iterator[bytes]:
        with _damage_told(path), zipfile.ZipFile(path) as packed:
            for name in wanted:
                size = packed.getinfo(name).file_size
                if size > decode.MOST_BYTES:
                    raise UserError(f"{path}: {name} has {size:,} bytes, more than any image")
                yield packed.read(name)

    with _damage_told(path), zipfile.ZipFile(path) as packed:
        listed = [name for name in packed.namelist() if not name.endswith("/")]
    return Tree(tuple(sorted(listed)), (path,), walk)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile raise anything
        raise UserError(f"{path} is no zip file that can be read: {error}") from None


def require(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files, or a `UserError` that names the first that is missing."""
    found = tuple(files)
    for file in found:
        if not file.is_file():
            raise UserError(f"{file} is missing: unpack the archive again")
    return found


def walk_files(root: Path) -> Iterator[Path]:
    """Regular files below a folder, sorted; hidden ones are left out, and loops of links.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        own = Path(folder).stat()
        if (own.st_dev, own.st_ino) in seen:
            folders.clear()
            continue
        seen.add((own.st_dev, own.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.exists() and stat.S_ISREG(path.stat().st_mode):
                yield path
