"""Files and folders that are whole or not there, and that tell when they have changed.

A folder that a stage has finished ends with a hash card: a file SHA256SUMS in the format of
`sha256sum -c`. Who reads a file of the folder first compares it with the card. JSON that
stands alone carries the hash of its content itself.

Import rule: nothing of ours but `errors` and `progress`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rapipe.errors import UserError
from rapipe.progress import say

CARD = "SHA256SUMS"
SEAL = "seal"
"""Key of the hash of the rest, in JSON that stands alone."""
PART, OLD = ".part", ".old"
"""Ends of the names of what is not yet whole, and of what is just being replaced."""

LITTER = ("Thumbs.db", "desktop.ini")
"""What file managers leave behind, beside hidden files."""

Stamp = tuple[int, int, int]
_seen: dict[Path, tuple[Stamp, str]] = {}
"""Files that were what their card says, how they looked then, and their hashes."""
_watched: list[Path] = []


def put(path: Path, data: bytes) -> None:
    """Replace a file by one with this content, so that it is the old or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = part_of(path)
    try:
        with named(partial), partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """Where a file or folder is written until it is whole."""
    return path.with_name(path.name + PART)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to write into; with its hash card it takes the place of `folder` in the end.

    If anything goes wrong before, or what it was made from has changed meanwhile, `folder`
    stays as it was.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    part, old = part_of(folder), part_of(folder).with_suffix(OLD)
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        check_unchanged()
        seal(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def alone(path: Path, doing: str, wait: bool = True) -> Iterator[bool]:
    """Keep other processes out of what this lock stands for; gives whether that was possible.

    Args:
        path: its file, which is made beside what it protects.
        doing: what the others are doing, for the message to who waits.
        wait: until nobody else is in there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait:
            say(f"waiting for another process that {doing}")
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the disk name the file, also those that come while it is written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def seal(folder: Path) -> None:
    """Write the hash cards of a folder: its own, and one of each folder in it, with all below.

    So that one of these, with its card, is enough for who needs no other.
    """
    for own in sorted(folder.iterdir()):
        if own.is_dir():
            _write_card(own)
    _write_card(folder)


def _write_card(folder: Path) -> None:
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _below(folder)]
    put(folder / CARD, "".join(lines).encode())


def check(path: Path, stage: str) -> None:
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
    home = next((own for own in (path, *path.parents) if (own / CARD).is_file()), None)
    if home is None:
        raise UserError(f"{path} has no hash card ({CARD}): {again}")
    known = _known(home, again)
    wanted = {path} if path.is_file() else {own for own in known if own.is_relative_to(path)}
    for own in sorted(wanted | {*_below(path)}):
        if not own.is_file():
            raise UserError(f"{own} is missing: {again}")
        stamp = _stamp(own)
        if own in _seen and _seen[own][0] == stamp:
            continue
        found = sha256(own)
        if found != known.get(own):
            raise UserError(
                f"{own} is not what was written there (its SHA-256 is not that in {home / CARD}): "
                f"{again}"
            )
        _seen[own] = stamp, found
    for own in _with_cards(path):
        check(own, stage)


def sound(folder: Path) -> bool:
    """Whether a folder is there and what was written."""
    try:
        check(folder, "")
    except UserError:
        return False
    return True


def watch(folders: Iterable[Path] = ()) -> None:
    """Begin anew; what is compared in these folders must stay what it is, until it is used up."""
    _seen.clear()
    _watched[:] = folders


def check_unchanged() -> None:
    """Raise `UserError` if a file that was compared, and is watched, is another now, or gone."""
    for path, (stamp, known) in _seen.items():
        if not any(path.is_relative_to(folder) for folder in _watched):
            continue
        if not path.is_file() or (_stamp(path) != stamp and sha256(path) != known):
            raise UserError(f"{path} was rewritten while it was used: run the same again")


def sha256(path: Path) -> str:
    """In hexadecimal."""
    with named(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """JSON with the hash of its content.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps({**content, SEAL: _hash(content)}, indent=2, allow_nan=False) + "\n"


class NoSeal(ValueError):
    """JSON without the hash of its content."""


def unsealed(text: str) -> dict[str, Any]:
    """What `sealed` was given.

    Raises:
        NoSeal: there is no hash.
        ValueError: it is no JSON, or the hash is that of something else.
    """
    found: dict[str, Any] = json.loads(text)
    if not isinstance(found, dict) or SEAL not in found:
        raise NoSeal(f"it has no {SEAL}")
    own = found.pop(SEAL)
    if own != _hash(found):
        raise ValueError(f"its {SEAL} is that of another content")
    return found


def _hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def _known(home: Path, again: str) -> dict[Path, str]:
    """The hashes on the card of a folder."""
    known = {}
    try:
        for line in (home / CARD).read_text(encoding="utf-8").splitlines():
            digest, name = line.split("  ", 1)
            known[home / name] = digest
    except ValueError:
        raise UserError(f"{home / CARD} is damaged: {again}") from None
    return known


def _below(path: Path) -> list[Path]:
    """The file itself, or the files below a folder that belong on its card."""
    if path.is_file():
        return [path]
    apart = _with_cards(path)
    return sorted(
        own
        for own in path.rglob("*")
        if own.is_file()
        and own != path / CARD
        and not any(own.is_relative_to(folder) for folder in apart)
        and not any(part.startswith(".") for part in own.relative_to(path).parts)
        and own.name not in LITTER
    )


def _with_cards(path: Path) -> list[Path]:
    """Folders in a folder that have cards of their own."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return [own for own in inside if (own / CARD).is_file()]


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
