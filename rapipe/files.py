"""Files and folders that are whole or not there, and that tell when they have changed.

A folder that a stage has finished ends with a hash card: a file SHA256SUMS in the format of
`sha256sum -c`. Who reads a file of the folder first compares it with the card. JSON that
stands alone carries the hash of its content itself.

Import rule: nothing of ours but `errors`.
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

from rapipe.errors import UserError

CARD = "SHA256SUMS"
SEAL = "seal"
"""Key of the hash of the rest, in JSON that stands alone."""
PART = ".part"
"""End of the name of what is not yet whole."""

Stamp = tuple[int, int, int]
_seen: dict[Path, Stamp] = {}
"""Files that were what their card says, and how they looked then."""


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

    If anything goes wrong before, `folder` stays as it was.
    """
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        seal(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


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
    """Write the hash card of a folder, of all that lies below it."""
    listed = [path for path in _below(folder) if path != folder / CARD]
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in listed]
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
    for own in sorted(wanted | {*_below(path)} - {home / CARD}):
        if not own.is_file():
            raise UserError(f"{own} is missing: {again}")
        stamp = _stamp(own)
        if _seen.get(own) == stamp:
            continue
        if sha256(own) != known.get(own):
            raise UserError(
                f"{own} is not what was written there (its SHA-256 is not that in {home / CARD}): "
                f"{again}"
            )
        _seen[own] = stamp


def sound(folder: Path) -> bool:
    """Whether a folder is there and what was written."""
    try:
        check(folder, "")
    except UserError:
        return False
    return True


def check_unchanged(folders: Iterable[Path]) -> None:
    """Raise `UserError` if a file in them that was compared is another now, or gone."""
    for path, stamp in _seen.items():
        if not any(path.is_relative_to(folder) for folder in folders):
            continue
        try:
            same = _stamp(path) == stamp
        except OSError:
            same = False
        if not same:
            raise UserError(f"{path} was rewritten while it was used: run the same again")


def forget() -> None:
    """Begin anew, where a process runs one stage after the other."""
    _seen.clear()


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
    """The file itself, or all files below a folder but hidden ones, which file managers make."""
    found = [path] if path.is_file() else path.rglob("[!.]*")
    return sorted(own for own in found if own.is_file())


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
