"""One split of one source, decoded on all cores and kept on disk.

What is kept has a folder named by everything that it depends on: the files
read (names, sizes, dates), how they are decoded, and the code that does it. So
a source is decoded again only if one of these changes, or what is kept does. Processes
that want the same source wait for each other.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import PIL

from rapipe.corpus import decode as decoding_module
from rapipe.corpus import sources
from rapipe.corpus.decode import Data, Decoding, Found, decode_into, prepare_worker
from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split
from rapipe.errors import UserError
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.progress import track
from rapipe.records import Ids, Labels, Pixels

CHUNK_IMAGES = 1024
CHUNK_BYTES = 1 << 24
"""A worker gets, and makes, hardly more than this at once, so that the memory is not filled."""
MOST_WORKERS = 61
"""Python starts no more on Windows."""
WAITING = 3
"""Chunks in flight for each worker."""
BLOCK_BYTES = 1 << 21
"""Pixels copied at once."""
PIXELS, ROWS, SKIPPED = "pixels", "rows.npz", "skipped.json"
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Skip:
    """An image that cannot be used."""

    where: str
    reason: str


@dataclass(frozen=True)
class Decoded:
    """Images of one split on disk, and what was left out of them."""

    folder: Path
    size: int
    places: npt.NDArray[np.int64]  # (N,), ascending: where in the file each image lies
    ids: Ids
    labels: Labels
    """In the source's own numbers."""
    sizes: npt.NDArray[np.int32]  # (N, 2), width and height before resizing
    skipped: tuple[Skip, ...]

    def pixels(self, rows: npt.NDArray[np.int64]) -> Iterator[Pixels]:
        """Blocks of the images of these rows, which ascend; never all in memory."""
        bytes_each = 3 * self.size * self.size
        stretch = max(1, BLOCK_BYTES // bytes_each)
        places = self.places[rows]
        with (self.folder / PIXELS).open("rb") as file:
            for own in np.split(places, np.flatnonzero(np.diff(places // stretch)) + 1):
                if len(own):
                    file.seek(int(own[0]) * bytes_each)
                    read = np.fromfile(file, np.uint8, int(own[-1] - own[0] + 1) * bytes_each)
                    yield read.reshape(-1, self.size, self.size, 3)[own - own[0]]

    @classmethod
    def read(cls, folder: Path, size: int) -> Decoded | None:
        """What `decode_split` kept, or None if it is not there or not as it was written."""
        if not is_intact(folder):
            return None
        try:
            with np.load(BytesIO((folder / ROWS).read_bytes()), allow_pickle=False) as rows:
                places, ids = rows["places"], rows["ids"]
                labels, sizes, count = rows["labels"], rows["sizes"], int(rows["count"])
            skipped = tuple(Skip(*pair) for pair in json.loads((folder / SKIPPED).read_text()))
            whole = (folder / PIXELS).stat().st_size == 3 * size * size * count
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error):
            return None
        return cls(folder, size, places, ids, labels, sizes, skipped) if whole else None


def lock_of(cache: Path) -> Path:
    """The lock of the folder that keeps a source."""
    return cache.with_name(f"{cache.name}.lock")


def key(kind: str, ask: SourceRequest, source: Source, decoding: Decoding) -> str:
    """Name of the folder that keeps a source: a hash of all that its decoded images depend on."""
    digest = hashlib.sha256()
    asked = [kind, ask.path, ask.label, ask.labelled, asdict(decoding), list(source.classes)]
    digest.update(json.dumps([asked, PIL.__version__]).encode())
    code = Path(sources.__file__).parent.glob("*.py")
    for file in sorted((Path(decoding_module.__file__), Path(__file__), *code)):
        digest.update(file.read_bytes())
    for file in source.files:
        facts = file.stat()
        digest.update(json.dumps([str(file), facts.st_size, facts.st_mtime_ns]).encode())
    return digest.hexdigest()[:16]


def decode_split(
    split: Split, what: str, decoding: Decoding, skip: bool, folder: Path, workers: Workers
) -> Decoded:
    """The images of a split, from `folder` if it keeps them, else decoded into it.

    Args:
        what: names the split, for the progress bar.
        skip: leave out what cannot be used, instead of stopping there.

    Raises:
        UserError: an image cannot be used, and `skip` is off; names the file or row.
    """
    with file_lock(lock_of(folder.parent), f"decodes into {folder.parent}"):
        kept = Decoded.read(folder, decoding.size)
        if kept is None:
            with atomic_folder(folder) as part:
                _write(split, what, decoding, skip, part, workers)
            kept = Decoded.read(folder, decoding.size)
        if kept is None:
            raise UserError(f"{folder} cannot be read back: is the disk full, or damaged?")
    if kept.skipped and not skip:
        raise _stop(kept.skipped[0])
    return kept


def _write(
    split: Split, what: str, decoding: Decoding, skip: bool, part: Path, workers: Workers
) -> None:
    """Decode into an empty folder."""
    (part / PIXELS).touch()
    columns: list[tuple[Rows, Ids, Labels, npt.NDArray[np.int32]]] = []
    skipped: list[Skip] = []
    count = 0
    walk = track(split.items(), what, split.size)
    for items, found in _decoded(walk, decoding, part / PIXELS, workers):
        wrong = {row: item.error for row, item in enumerate(items) if item.error}
        wrong = {**found.errors, **wrong}
        skipped += [Skip(items[row].where, wrong[row]) for row in sorted(wrong)]
        if skipped and not skip:
            raise _stop(skipped[0])
        good = np.array([row for row in range(len(items)) if row not in wrong], np.int64)
        labels = np.array([items[row].label for row in good], np.int64)
        columns.append((good + count, found.ids[good], labels, found.sizes[good]))
        count += len(items)
    nothing = (np.empty(0, np.int64),) * 3 + (np.empty((0, 2), np.int32),)
    places, ids, labels, sizes = (
        np.concatenate(blocks) for blocks in zip(nothing, *columns, strict=True)
    )
    rows = {"places": places, "ids": ids, "labels": labels, "sizes": sizes}
    np.savez(part / ROWS, allow_pickle=False, count=np.int64(count), **rows)
    pairs = [(one.where, one.reason) for one in skipped]
    (part / SKIPPED).write_text(json.dumps(pairs))


def _stop(first: Skip) -> UserError:
    return UserError(
        f"{first.where} {first.reason} (corpus.on_error: skip leaves out and lists what is wrong)"
    )


class Workers:
    """Processes on all cores that decode images, started when there is enough to decode."""

    def __init__(self) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self.count = min(len(affinity(0)) if affinity else os.cpu_count() or 1, MOST_WORKERS)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, *arguments: Any) -> Future[Found]:
        """Start `decode_into` with these arguments in a process."""
        if not self._pool:
            self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), prepare_worker)
        return self._pool.submit(decode_into, *arguments)


def _decoded(
    items: Iterable[Item], decoding: Decoding, path: Path, workers: Workers
) -> Iterator[tuple[list[Item], Found]]:
    """Chunks of items in order, their pixels written to `path` by the workers."""
    chunks = _chunks(items, CHUNK_BYTES // (3 * decoding.size**2))
    first, second = next(chunks, []), next(chunks, [])
    if not second or workers.count == 1:  # starting processes takes longer, or gains nothing
        start = 0
        for chunk in chain((first, second), chunks):
            yield chunk, decode_into(path, start, [item.data for item in chunk], decoding)
            start += len(chunk)
        return
    pending: deque[tuple[list[Item], Future[Found]]] = deque()
    start = 0
    try:
        for chunk in chain((first, second), chunks):
            data = [item.data for item in chunk]
            pending.append((chunk, workers.submit(path, start, data, decoding)))
            start += len(chunk)
            while len(pending) > WAITING * workers.count:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that decodes images was killed, probably for want of memory: "
            "lower corpus.max_pixels"
        ) from None


def _chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Chunks of at most `most` images, and of hardly more than `CHUNK_BYTES` as they lie."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += _length(item.data)
        if len(chunk) >= min(most, CHUNK_IMAGES) or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _length(data: Data) -> int:
    if isinstance(data, Path):
        return data.stat().st_size if data.exists() else 0
    return len(data) if isinstance(data, bytes) else data.nbytes
