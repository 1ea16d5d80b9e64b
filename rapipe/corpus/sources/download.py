"""Files from the web: with progress, time-outs, resuming, checksums and retries.

A file is received as `NAME.part`, its checksum verified, and only then renamed: a file
called NAME is complete.
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

from rapipe.errors import DISK_ERRORS, ArgumentError, UserError
from rapipe.io.placeholders import placeholder
from rapipe.progress import say, transfer

BLOCK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is closed."""
TRIES = 5
PAUSE = 1.0
"""Seconds before the second try; doubled for each further one."""
TEMPORARY = frozenset((408, 425, 429, 500, 502, 503, 504))
"""HTTP statuses after which another try may succeed."""


@dataclass(frozen=True)
class Archive:
    """A published file of a data set."""

    name: str
    url: str
    md5: str
    """As published. It finds damage; stronger hashes are not published."""
    page: str = ""
    """The web page to get it from by hand, if the URL may refuse a program."""


def obtain(archive: Archive, folder: Path, download: bool) -> Path:
    """The path of an archive in `folder`, verified; fetched if it is missing and may be.

    Raises:
        ArgumentError: it is missing and may not be fetched.
        UserError: it cannot be fetched, or its checksum is wrong.
    """
    path = folder / archive.name
    if not path.exists():
        if not download:
            raise ArgumentError(
                f"{path} is missing: put the file from {archive.page or archive.url} there "
                f"(md5 {archive.md5}), or set `download`: true"
            )
        fetch(archive, path)
    elif not path.is_file():
        raise UserError(f"{path} is no file: move it away, or put the archive there")
    elif (md5 := md5_of(path)) != archive.md5:
        if clause := placeholder(path):
            raise UserError(f"{path} {clause}: delete it and get it again")
        raise UserError(
            f"{path} has the md5 {md5}, but the published file has {archive.md5}: it is damaged "
            "or another file; delete it and get it again"
        )
    return path


def fetch(archive: Archive, path: Path) -> None:
    """Download an archive to `path`, resuming what an earlier call left in `path`.part.

    Raises:
        UserError: `TRIES` tries failed, or the file has another checksum.
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
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise UserError(f"{part} cannot be written: {error.strerror}") from None
            reason = f"{archive.url} broke off ({getattr(error, 'reason', None) or error!r})"
            continue
        md5 = md5_of(part)
        if md5 == archive.md5:
            part.replace(path)
            return
        clause = placeholder(part)
        part.unlink()
        reason = f"{archive.url} gave a file with the md5 {md5}, not {archive.md5}"
        if clause:
            reason += f" (it {clause})"
    page = archive.page or archive.url
    raise UserError(f"{reason}: get the file from {page} by hand and put it at {path}")


def md5_of(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _receive(url: str, part: Path) -> None:
    """Append what is missing to `part`; raises if the connection ends before the promised size."""
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "rapipe"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing is left to send: the checksum decides
            error.close()
            return
        raise
    with contextlib.closing(response):
        resumed = response.status == 206 and _starts_at(response, offset)
        size = response.headers.get("Content-Length")
        total = int(size) + offset * resumed if size and size.isdecimal() else None
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, part.name.removesuffix(".part"), offset * resumed, total)
            if total is not None and file.tell() < total:
                raise http.client.IncompleteRead(b"", total - file.tell())


def _starts_at(response: http.client.HTTPResponse, offset: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], name: str, done: int, total: int | None
) -> None:
    with transfer(name, done, total) as advance:
        while block := response.read1(BLOCK):
            file.write(block)
            advance(len(block))
