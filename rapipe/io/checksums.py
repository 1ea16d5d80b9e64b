"""Files and folders that are whole or not there, and that tell when they have changed.

A folder that a stage has finished ends with a hash card: a file SHA256SUMS in the format of
`sha256sum -c`. Who reads a file of the folder first compares it with the card. JSON that
stands alone carries the hash of its content itself.

Import rule: nothing of ours but `errors` and `progress`.
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
"""Files that were what their card says, how they looked then, and their hashes."""
_watched: list[Path] = []


def write_checksums(folder: Path) -> None:
    """Write the hash cards of a folder: its own, and one of each folder in it, with all below.

    So that one of these, with its card, is enough for who needs no other.
    """
    for own in sorted(folder.iterdir()):
        if own.is_dir():
            _write_checksum_file(own)
    _write_checksum_file(folder)


def _write_checksum_file(folder: Path) -> None:
    lines = [
        f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files_below(folder)
    ]
    atomic_write(folder / CHECKSUMS, "".join(lines).encode())


def verify_checksums(path: Path, stage: str) -> None:
    """Compare a file, or all files of a folder, with the hash card of the folder it belongs to.

    What has been compared before in this process, and looks the same, is not read again.

    Args:
        stage: the command that makes it, for messages.

    Raises:
        UserError: it or the card is missing, or it is not what was written.
    """
    again = f"run rapipe {stage}, or dvc repro"
    if not path.exists():
        raise UserError(f"{path} is missing: {again}")
    home = next((own for own in (path, *path.parents) if (own / CHECKSUMS).is_file()), None)
    if home is None:
        raise UserError(f"{path} has no hash card ({CHECKSUMS}): {again}")
    known = _recorded(home, again)
    wanted = {path} if path.is_file() else {own for own in known if own.is_relative_to(path)}
    for own in sorted(wanted | {*_files_below(path)}):
        if not own.is_file():
            raise UserError(f"{own} is missing: {again}")
        stamp = _stamp(own)
        if own in _verified and _verified[own][0] == stamp:
            continue
        found = sha256(own)
        if found != known.get(own):
            raise UserError(
                f"{own} is not what was written there (its SHA-256 is not that in {home / CHECKSUMS}): "
                f"{again}"
            )
        _verified[own] = stamp, found
    for own in _checksummed_folders(path):
        verify_checksums(own, stage)


def is_intact(folder: Path) -> bool:
    """Whether a folder is there and what was written."""
    try:
        verify_checksums(folder, "")
    except UserError:
        return False
    return True


def watch(folders: Iterable[Path] = ()) -> None:
    """Begin anew; what is compared in these folders must stay what it is, until it is used up."""
    _verified.clear()
    _watched[:] = folders


def check_unchanged() -> None:
    """Raise `UserError` if a file that was compared, and is watched, is another now, or gone."""
    for path, (stamp, known) in _verified.items():
        if not any(path.is_relative_to(folder) for folder in _watched):
            continue
        if not path.is_file() or (_stamp(path) != stamp and sha256(path) != known):
            raise UserError(f"{path} was rewritten while it was used: run the same again")


def sha256(path: Path) -> str:
    """In hexadecimal."""
    with name_file_in_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded(home: Path, again: str) -> dict[Path, str]:
    """The hashes on the card of a folder."""
    known = {}
    try:
        for line in (home / CHECKSUMS).read_text(encoding="utf-8").splitlines():
            digest, name = line.split("  ", 1)
            known[home / name] = digest
    except ValueError:
        raise UserError(f"{home / CHECKSUMS} is damaged: {again}") from None
    return known


def _files_below(path: Path) -> list[Path]:
    """The file itself, or the files below a folder that belong on its card."""
    if path.is_file():
        return [path]
    apart = _checksummed_folders(path)
    return sorted(
        own
        for own in path.rglob("*")
        if own.is_file()
        and own != path / CHECKSUMS
        and not any(own.is_relative_to(folder) for folder in apart)
        and not any(part.startswith(".") for part in own.relative_to(path).parts)
        and own.name not in IGNORED
    )


def _checksummed_folders(path: Path) -> list[Path]:
    """Folders in a folder that have cards of their own."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return [own for own in inside if (own / CHECKSUMS).is_file()]


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
