"""Files from the web: with progress, time-outs, resuming, checksums and retries.

What arrives is written to `NAME.part`, checked, and only then renamed: a file
under its own name is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from rapipe.errors import OF_THE_DISK, UserError
from rapipe.progress import say, transfer

BLOCK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""
TRIES = 5
PAUSE = 1.0
"""Seconds before the second try; doubled for each further one."""
TEMPORARY = frozenset((408, 425, 429, 500, 502, 503, 504))
"""HTTP statuses that another try may heal."""


@dataclass(frozen=True)
class Archive:
    """A file that a data set is published as."""

    name: str
    url: str
    md5: str
    """As published; it finds damage. The sets themselves name no stronger hash."""
    page: str = ""
    """Where a person finds it, if the URL may refuse a program."""


def obtain(archive: Archive, folder: Path, allowed: bool) -> Path:
    """The archive inside `folder`, checked; fetched if it is missing and that is `allowed`.

    Raises:
        UserError: it is missing and may not or cannot be fetched, or its checksum is wrong.
    """
    path = folder / archive.name
    if not path.exists():
        if not allowed:
            raise UserError(
                f"{path} is missing: put the file from {archive.page or archive.url} there "
                f"(md5 {archive.md5}), or set corpus.download: true"
            )
        fetch(archive, path)
    elif not path.is_file():
        raise UserError(f"{path} is no file: move it away, or put the archive there")
    elif (found := md5_of(path)) != archive.md5:
        raise UserError(
            f"{path} has the md5 {found}, but the published file has {archive.md5}: it is damaged "
            "or another file; delete it and get it again"
        )
    return path


def fetch(archive: Archive, path: Path) -> None:
    """Download an archive to `path`, resuming what an earlier call left in `path`.part.

    Raises:
        UserError: it cannot be had, after `TRIES` tries, or is not what was published.
    """
    part = path.with_name(path.name + ".part")
    say(f"downloading {archive.url} to {path}")
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
            say(f"{reason}; trying again")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _receive(archive.url, part)
        except urllib.error.HTTPError as error:
            reason = f"{archive.url} answers {error.code} {error.reason}"
            if error.code not in TEMPORARY:
                break
            continue
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise UserError(f"{part} cannot be written: {error.strerror}") from None
            reason = f"{archive.url} broke off ({getattr(error, 'reason', None) or error!r})"
            continue
        found = md5_of(part)
        if found == archive.md5:
            part.replace(path)
            return
        part.unlink()
        reason = f"{archive.url} gave a file with the md5 {found}, not {archive.md5}"
    by_hand = archive.page or archive.url
    raise UserError(f"{reason}: get the file from {by_hand} by hand and put it at {path}")


def md5_of(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _receive(url: str, part: Path) -> None:
    """Append what is missing to `part`; raises if the connection ends before the promised size."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "rapipe"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the checksum decides
            error.close()
            return
        raise
    with contextlib.closing(answer):
        resumed = answer.status == 206 and _starts_at(answer, have)
        size = answer.headers.get("Content-Length")
        total = int(size) + have * resumed if size and size.isdecimal() else None
        with part.open("ab" if resumed else "wb") as file:
            _copy(answer, file, part.name.removesuffix(".part"), have * resumed, total)
            if total is not None and file.tell() < total:
                raise http.client.IncompleteRead(b"", total - file.tell())


def _starts_at(answer: http.client.HTTPResponse, have: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _copy(
    answer: http.client.HTTPResponse, file: IO[bytes], name: str, have: int, total: int | None
) -> None:
    with transfer(name, have, total) as advance:
        while block := answer.read1(BLOCK):
            file.write(block)
            advance(len(block))
