"""The files below a folder, or in a zip or tar file, which is read without being unpacked.

Or below a prefix in storage that speaks S3: each is fetched when it is needed, and not kept.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import stat
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

from rapipe.corpus import loading
from rapipe.corpus.formats import HEAD
from rapipe.corpus.sources.base import Item, Split
from rapipe.corpus.sources.files import Entry, Listing, walk_files
from rapipe.errors import ArgumentError, UserError
from rapipe.io.placeholders import placeholder
from rapipe.io.storage import S3Path, Storage

FETCHED = 32
"""Files that are fetched from S3 at once."""
LINK = "is a link inside of an archive, which is not followed"


@dataclass(frozen=True)
class FileTree:
    """Files by relative name, without litter. Of a tar file the order is that of the file."""

    root: Path | S3Path
    """The folder, or the archive."""
    packed: bool
    """Whether it is an archive."""
    names: tuple[str, ...]
    folders: tuple[str, ...]
    images: Mapping[str, str]
    """Of the names: why the image cannot be used, or "" if it can."""
    passed_over: Mapping[str, int]
    """Numbers of files that are no images, and of litter."""
    walk: Callable[[list[str]], Iterator[bytes | Path]]
    """Contents of the files with these names, in their order, which is that of `names`."""
    revision: str = ""
    """A hash of names, sizes and dates, where no file of this machine tells of a change."""

    def location(self, name: str) -> str:
        """A file, for messages."""
        return f"{self.root}: {name}" if self.packed else str(self.root / name)

    def files(self, names: Mapping[str, str] | tuple[str, ...]) -> tuple[Path, ...]:
        """The files with these names, or the archive; none in S3."""
        if isinstance(self.root, S3Path):
            return ()
        return (self.root,) if self.packed else tuple(self.root / name for name in names)

    def read(self, name: str) -> bytes:
        """The content of one file."""
        (content,) = self.walk([name])
        return content.read_bytes() if isinstance(content, Path) else content

    def split(
        self, labels: list[tuple[str, int]], errors: Mapping[str, str] | None = None
    ) -> Split:
        """The images with these names and labels, in the order of `names`.

        Args:
            errors: why images cannot be used; what `images` says unless given.
        """
        problems = self.images if errors is None else errors

        def items() -> Iterator[Item]:
            contents = self.walk([name for name, _ in labels if not problems.get(name)])
            for name, label in labels:
                error = problems.get(name, "")
                yield Item(b"" if error else next(contents), label, self.location(name), error)

        return Split(len(labels), items)


def file_tree(path: Path) -> FileTree:
    """The files below a folder, or in a zip or tar file.

    Raises:
        ArgumentError: `path` is a file of another kind.
        UserError: the archive is damaged, or a folder cannot be read.
    """
    if path.is_dir():
        return _folder_tree(path)
    if not path.is_file():
        raise ArgumentError(f"`path`: {path} is no folder and no regular file")
    if path.suffix == ".zip" or zipfile.is_zipfile(path):
        return _zip_tree(path)
    if _is_tar(path):
        return _tar_tree(path)
    reason = placeholder(path) or "is a file, not a folder"
    hint = "; for Parquet write `kind`: parquet" if path.suffix == ".parquet" else ""
    raise ArgumentError(
        f"`path`: {path} {reason} (of files, only images, zip files and tar files that gzip, bzip2 "
        f"or xz may have packed are read as folders{hint})"
    )


def s3_tree(root: S3Path) -> FileTree:
    """The files below a prefix, in the order of those of a folder.

    Raises:
        ArgumentError: there is none.
    """
    storage = Storage(str(root))
    stamps = storage.stamps()
    if not stamps:
        raise ArgumentError(f"`path`: there is no file below {root}")
    listing = Listing()
    for name in sorted(stamps, key=_walked):
        listing.add_member(Entry(name), lambda name=name: storage.read(name)[:HEAD])  # type: ignore[misc]

    def fetch(name: str) -> bytes:
        _check_size(root, name, stamps[name][0])
        try:
            return storage.read(name)
        except FileNotFoundError:
            raise UserError(f"{root / name} has gone while the others were read") from None

    def walk(names: list[str]) -> Iterator[bytes]:
        with ThreadPoolExecutor(FETCHED) as pool:
            pending = deque(pool.submit(fetch, name) for name in names[:FETCHED])
            try:
                for name in names[FETCHED:]:
                    yield pending.popleft().result()
                    pending.append(pool.submit(fetch, name))
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    revision = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
    return replace(_tree(root, listing, walk), revision=revision)


def _walked(name: str) -> list[tuple[bool, str]]:
    """Sorts names as `walk_files` gives them: the files of a folder come before its folders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _tree(
    root: Path | S3Path, listing: Listing, walk: Callable[[list[str]], Iterator[bytes | Path]]
) -> FileTree:
    counts = dict(sorted(listing.passed_over.items()))
    return FileTree(
        root,
        isinstance(root, Path) and root.is_file(),
        tuple(listing.names),
        tuple(listing.folders),
        listing.images,
        counts,
        walk,
    )


def _folder_tree(root: Path) -> FileTree:
    listing = Listing()
    for entry in walk_files(root, listing):
        listing.add(entry, lambda name=entry.name: _head(root / name))  # type: ignore[misc]
    return _tree(root, listing, lambda names: (root / name for name in names))


def _head(path: Path) -> bytes:
    with path.open("rb", 0) as file:
        return file.read(HEAD) or b""


def _member_name(name: str) -> str:
    """The name of a member of an archive as a relative path; some write backslashes."""
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/")


def _zip_tree(path: Path) -> FileTree:
    listing = Listing()
    renamed: dict[str, str] = {}
    with _zip_file(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            name = _member_name(info.filename)
            if name in ("", "."):
                continue
            if info.filename != name:
                renamed[name] = info.filename
            is_folder = info.filename.endswith(("/", "\\"))
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            entry = Entry(f"{name}/" if is_folder else name, LINK if is_link else "")
            listing.add_member(entry, lambda info=info: _zip_head(archive, info))  # type: ignore[misc]

    def walk(names: list[str]) -> Iterator[bytes]:
        with _zip_file(path) as archive:
            for name in names:
                info = archive.getinfo(renamed.get(name, name))
                _check_size(path, name, info.file_size)
                yield archive.read(info)

    return _tree(path, listing, walk)


def _zip_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        return file.read(HEAD)


def _check_size(path: PurePath, name: str, size: int) -> None:
    if size > loading.MAX_BYTES:
        raise UserError(f"{path}: {name} has {size:,} bytes, more than any image")


@contextmanager
def _zip_file(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open zip file; damage becomes a `UserError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile raise anything
        reason = placeholder(path) or f"is no zip file that can be read: {error}"
        raise UserError(f"{path} {reason}") from None


def _tar_tree(path: Path) -> FileTree:
    """Members are read one after the other: to go back in a packed file takes long."""
    listing = Listing()
    numbers: dict[str, int] = {}
    for number, member in enumerate(_tar_members(path)):
        listing.add_member(member.entry, lambda member=member: member.read(HEAD))  # type: ignore[misc]
        numbers[member.entry.name] = number

    def walk(names: list[str]) -> Iterator[bytes]:
        name_of = {numbers[name]: name for name in names}
        for number, member in enumerate(_tar_members(path)):
            if name := name_of.pop(number, ""):
                _check_size(path, name, member.size)
                yield member.read(member.size)
        if name_of:
            raise UserError(f"{path} has changed while it was read: {next(iter(name_of.values()))}")

    return _tree(path, listing, walk)


@dataclass(frozen=True)
class _TarMember:
    entry: Entry
    size: int
    read: Callable[[int], bytes]
    """Its first bytes, while it is the current member."""


def _tar_members(path: Path) -> Iterator[_TarMember]:
    with ExitStack() as stack:
        with _translate_tar_errors(path):
            tar = stack.enter_context(tarfile.open(path))
        while True:
            with _translate_tar_errors(path):
                info = tar.next()
                if info is None:
                    _check_end(tar)
                    return
            tar.members.clear()  # type: ignore[attr-defined]  # else all stay in memory
            name = _member_name(info.name)
            if name not in ("", "."):
                yield _TarMember(_tar_entry(name, info), info.size, partial(_tar_read, tar, info))


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise unless zeros come next: `tarfile` takes a cut, or a damaged header, for the end."""
    assert tar.fileobj
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if not block or any(block):
        raise tarfile.ReadError("it is cut off or damaged before its end")


def _tar_entry(name: str, info: tarfile.TarInfo) -> Entry:
    if info.isdir():
        return Entry(f"{name}/")
    if info.issym() or info.islnk():
        return Entry(name, LINK)
    return Entry(name, "" if info.isreg() else "is no regular file")


def _tar_read(tar: tarfile.TarFile, info: tarfile.TarInfo, size: int) -> bytes:
    with _translate_tar_errors(Path(str(tar.name))):
        file = tar.extractfile(info)
        return file.read(size) if file else b""


@contextmanager
def _translate_tar_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged files make tarfile raise anything
        raise UserError(f"{path} is no tar file that can be read: {error}") from None
