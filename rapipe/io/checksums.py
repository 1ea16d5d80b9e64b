"""Checksums of folders: files that changed since they were written are found before use.

Each folder that a stage writes has a checksum file, SHA256SUMS, in the format of
`sha256sum -c`. Whoever reads a file of the folder first verifies its checksum. (A JSON file
outside such folders carries its own: see `io.tables`.)

Import rule: nothing of ours but `errors` and `io.atomic`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write, name_file_in_errors

CHECKSUMS = "SHA256SUMS"

IGNORED = ("Thumbs.db", "desktop.ini")
"""What file managers leave behind, beside hidden files."""

Stamp = tuple[int, int, int]
_verified: dict[Path, tuple[Stamp, str]] = {}
"""Files that were verified, with their stamps and hashes of that moment."""
_watched: list[Path] = []
"""Folders whose verified files must not change."""


def image_id(pixels: bytes) -> int:
    """64-bit id of an image, signed: BLAKE2b of its pixels."""
    digest = hashlib.blake2b(pixels, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def write_checksums(folder: Path) -> None:
    """Write the checksum file of a folder, and one of each folder in it, for all below that.

    So each of these inner folders can be verified without the rest.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            _write_checksum_file(path)
    _write_checksum_file(folder)


def _write_checksum_file(folder: Path) -> None:
    lines = [
        f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files_below(folder)
    ]
    atomic_write(folder / CHECKSUMS, "".join(lines).encode())


def verify_checksums(path: Path, stage: str) -> None:
    """Verify a file, or all files of a folder, against the checksum file that lists them.

    A file that was verified before in this process, and has the same stamp, is not read again.

    Args:
        stage: the command that writes it, for messages.

    Raises:
        UserError: a file or the checksum file is missing, or a file has another content.
    """
    remedy = f"run rapipe {stage}, or dvc repro"
    if not path.exists():
        raise UserError(f"{path} is missing: {remedy}")
    folders = (path, *path.parents)
    root = next((folder for folder in folders if (folder / CHECKSUMS).is_file()), None)
    if root is None:
        raise UserError(f"{path} has no checksum file ({CHECKSUMS}): {remedy}")
    hashes = _recorded(root, remedy)
    listed = {path} if path.is_file() else {file for file in hashes if file.is_relative_to(path)}
    for file in sorted(listed | {*_files_below(path)}):
        if not file.is_file():
            raise UserError(f"{file} is missing: {remedy}")
        stamp = _stamp(file)
        if file in _verified and _verified[file][0] == stamp:
            continue
        digest = sha256(file)
        if digest != hashes.get(file):
            raise UserError(
                f"{file} is not what was written there (its SHA-256 is not that in "
                f"{root / CHECKSUMS}): {remedy}"
            )
        _verified[file] = stamp, digest
    for folder in _checksummed_folders(path):
        verify_checksums(folder, stage)


def is_intact(folder: Path) -> bool:
    """Whether a folder exists and all its checksums are right."""
    try:
        verify_checksums(folder, "")
    except UserError:
        return False
    return True


def watch(folders: Iterable[Path] = ()) -> None:
    """Forget what was verified; from now on `check_unchanged` looks at files of these folders."""
    _verified.clear()
    _watched[:] = folders


def watched() -> list[Path]:
    """These folders."""
    return list(_watched)


def check_unchanged() -> None:
    """Raise `UserError` if a verified file of a watched folder has changed since, or is gone."""
    for path, (stamp, digest) in _verified.items():
        if not any(path.is_relative_to(folder) for folder in _watched):
            continue
        if not path.is_file() or (_stamp(path) != stamp and sha256(path) != digest):
            raise UserError(f"{path} was rewritten while it was used: run the same again")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with name_file_in_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded(root: Path, remedy: str) -> dict[Path, str]:
    """The hashes in the checksum file of a folder, by path."""
    hashes = {}
    try:
        for line in (root / CHECKSUMS).read_text(encoding="utf-8").splitlines():
            digest, name = line.split("  ", 1)
            hashes[root / name] = digest
    except ValueError:
        raise UserError(f"{root / CHECKSUMS} is damaged: {remedy}") from None
    return hashes


def _files_below(path: Path) -> list[Path]:
    """The file itself, or the files below a folder that its checksum file lists."""
    if path.is_file():
        return [path]
    folders = _checksummed_folders(path)
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file != path / CHECKSUMS
        and not any(file.is_relative_to(folder) for folder in folders)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.name not in IGNORED
    )


def _checksummed_folders(path: Path) -> list[Path]:
    """The folders in a folder that have checksum files themselves."""
    children = sorted(path.iterdir()) if path.is_dir() else []
    return [child for child in children if (child / CHECKSUMS).is_file()]


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
