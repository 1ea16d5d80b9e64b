"""A folder of files that several machines reach: of a shared disk, or in storage that speaks S3.

    >>> storage = Storage("s3://BUCKET/PREFIX")
    >>> storage.write("a/b", b"bytes")
    >>> storage.read("a/b")
    b'bytes'

Endpoint, region and credentials of S3 come from the environment (AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, ...) or from the usual files and roles; never from parameters. A file is small
enough for memory. It is there as a whole or not at all, and its length is compared, so that a
connection that is cut is an error and no shorter file. Errors are tried again for a while.

Import rule: nothing of ours but `errors` and `io.atomic`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rapipe.errors import UserError, first_line
from rapipe.io.atomic import PART, atomic_write

S3 = "s3://"
ATTEMPTS = 6
"""At one file, besides those that the client of S3 makes of each request."""
WAIT_SECONDS = 0.5
"""After the first of them; twice as long after each of the others."""
REQUEST_ATTEMPTS = 3
CONNECT_SECONDS, REQUEST_SECONDS = 10, 60
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
T = TypeVar("T")


def is_remote(path: str) -> bool:
    """Whether a path is an address in storage that speaks S3."""
    return path.startswith(S3)


@dataclass(frozen=True)
class Storage:
    """Files by name, with `/` between folders.

    Methods raise `UserError` if the storage refuses, or is out of reach for half a minute.
    """

    address: str
    """A folder, or s3://BUCKET/PREFIX."""

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError if there is none."""
        if not self._is_remote:
            return self._local(name).read_bytes()

        def read() -> bytes:
            with self._files.open_input_file(self._key(name)) as file:
                size, content = file.size(), file.read()
            if len(content) != size:
                raise OSError(f"{len(content)} of {size} bytes came")
            return bytes(content)

        return self._persistently(read, name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        if not self._is_remote:
            atomic_write(self._local(name), content)
            return

        def write() -> None:
            with self._files.open_output_stream(self._key(name)) as file:
                file.write(content)
            if (size := self._files.get_file_info(self._key(name)).size) != len(content):
                raise OSError(f"{size} of {len(content)} bytes arrived")

        self._persistently(write, name)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of the files below a folder, by their names in it, in order; none if it is not."""
        from pyarrow.fs import FileSelector, FileType

        top = self._key(folder)
        selector = FileSelector(top, allow_not_found=True, recursive=True)
        found = self._persistently(lambda: self._files.get_file_info(selector), folder)
        files = (
            (info.path[len(top) + 1 :], info.size) for info in found if info.type == FileType.File
        )
        return {name: size for name, size in sorted(files) if not name.endswith(PART)}

    def remove(self) -> None:
        """Remove everything; nothing happens if there is nothing."""
        if not self._is_remote:
            shutil.rmtree(self.address, ignore_errors=True)
            return
        with suppress(FileNotFoundError):
            self._persistently(lambda: self._files.delete_dir(self._key("")), "")

    @property
    def _is_remote(self) -> bool:
        return is_remote(self.address)

    def _local(self, name: str) -> Path:
        return Path(self.address) / name

    def _key(self, name: str) -> str:
        """What pyarrow calls a file or folder."""
        return f"{self.address.removeprefix(S3).rstrip('/')}/{name}".rstrip("/")

    @cached_property
    def _files(self) -> Any:
        from pyarrow import fs

        if not self._is_remote:
            return fs.LocalFileSystem()
        endpoint = urlsplit(_environment(ENDPOINTS))
        return fs.S3FileSystem(
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or None,
            region=_environment(REGIONS) or None,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=REQUEST_ATTEMPTS),
            allow_delayed_open=True,  # one request for a small file
        )

    def _persistently(self, act: Callable[[], T], name: str) -> T:
        """What `act` returns, at one of several attempts."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(WAIT_SECONDS * 2 ** (attempt - 1))
            try:
                return act()
            except FileNotFoundError:
                raise
            except OSError as error:
                reason = first_line(error)
        raise UserError(
            f"{self.address}/{name} cannot be read or written ({reason}): see that the "
            "address is right, that its endpoint, region and credentials are in the environment "
            f"({ENDPOINTS[1]}, {REGIONS[0]}, AWS_ACCESS_KEY_ID, ...), and run the same again"
        )


def _environment(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
