"""A folder of files that several machines reach: of a shared disk, or in storage that speaks S3.

    >>> storage = Storage("s3://BUCKET/PREFIX")
    >>> storage.write("a/b", b"bytes")
    >>> storage.read("a/b")
    b'bytes'

`S3Path` is the path of one file there, or of what others would call a folder.

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
from functools import cache
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from rapipe.errors import UserError, first_line
from rapipe.io.atomic import PART, atomic_write

S3 = "s3://"
ATTEMPTS = 6
"""At one file, besides those that the client of S3 makes of each request."""
WAIT_SECONDS = 0.5
"""After the first of them; twice as long after each of the others."""
REQUEST_ATTEMPTS = 3
PART_BYTES = 1 << 16
"""Read at least of a file that is read in parts."""
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
        return {name: size for name, (size, _) in self.stamps(folder).items()}

    def stamps(self, folder: str = "") -> dict[str, tuple[int, int]]:
        """Bytes of the same files, and when they were written, in nanoseconds."""
        from pyarrow.fs import FileSelector, FileType

        top = self._key(folder)
        selector = FileSelector(top, allow_not_found=True, recursive=True)
        found = self._persistently(lambda: self._files.get_file_info(selector), folder)
        files = [info for info in found if info.type == FileType.File]
        stamps = {info.path[len(top) + 1 :]: (info.size, info.mtime_ns) for info in files}
        return {name: stamps[name] for name in sorted(stamps) if not name.endswith(PART)}

    def is_file(self, name: str) -> bool:
        """Whether there is a file of this name."""
        from pyarrow.fs import FileType

        info = self._persistently(lambda: self._files.get_file_info(self._key(name)), name)
        return bool(info.type == FileType.File)

    def stamp(self, name: str) -> tuple[int, int]:
        """Bytes of a file, and when it was written."""
        info = self._persistently(lambda: self._files.get_file_info(self._key(name)), name)
        return info.size, info.mtime_ns

    def open(self, name: str) -> BinaryIO:
        """A file of which parts are read; FileNotFoundError if there is none."""
        return BufferedReader(_Parts(self, name), PART_BYTES)

    def read_part(self, name: str, start: int, size: int, file: Any) -> tuple[bytes, Any]:
        """Some bytes of a file, and the file, opened again if what is given as `file` fails."""
        opened = [file]

        def read() -> bytes:
            file, opened[0] = opened[0], None
            file = file or self._files.open_input_file(self._key(name))
            content = file.read_at(size, start)
            if len(content) != min(size, max(0, file.size() - start)):
                raise OSError(f"{len(content)} of {size} bytes came")
            opened[0] = file
            return bytes(content)

        return self._persistently(read, name), opened[0]

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

    @property
    def _files(self) -> Any:
        from pyarrow import fs

        if not self._is_remote:
            return fs.LocalFileSystem()
        return _s3(_environment(ENDPOINTS), _environment(REGIONS))

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


class S3Path(PurePosixPath):
    """The path of a file in storage that speaks S3: s3://BUCKET/NAME."""

    def __str__(self) -> str:
        return super().__str__().replace("s3:/", S3, 1)

    def resolve(self) -> S3Path:
        """Itself: there are no links."""
        return self

    @property
    def storage(self) -> Storage:
        """Where all of the bucket is, by name."""
        return Storage(S3 + self.parts[1])

    @property
    def key(self) -> str:
        """Its name there."""
        return "/".join(self.parts[2:])

    def open(self) -> BinaryIO:
        """The file, of which parts are read."""
        return self.storage.open(self.key)


class _Parts(RawIOBase):
    """A file in storage, read in parts."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name, self.position = storage, name, 0
        _, self.file = storage.read_part(name, 0, 0, None)
        self.size = int(self.file.size())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        content, self.file = self.storage.read_part(
            self.name, self.position, len(buffer), self.file
        )
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


@cache
def _s3(endpoint: str, region: str) -> Any:
    """The client of S3 of this process."""
    from pyarrow import fs

    parts = urlsplit(endpoint)
    return fs.S3FileSystem(
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or None,
        region=region or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=REQUEST_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small file
    )


def _environment(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
