"""One split of one source, decoded on all cores and cached on disk.

The name of the cache folder is a hash of all that its content depends on: the
files that are read (names, sizes, dates), the `Decoding`, and the code. So a
source is decoded again only if one of these changes, or the cache is damaged.
Processes that decode the same source wait for each other.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import hashlib
import json
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

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg

from rapipe.cores import cores
from rapipe.corpus import decode, encoded, formats, loading, sources
from rapipe.corpus.decode import Data, DecodeResult, Decoding, decode_into, prepare_worker
from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split
from rapipe.errors import ArgumentError, UserError
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.io.memory_map import npy_errors
from rapipe.progress import say, track
from rapipe.records import Ids, Labels, Pixels

CHUNK_IMAGES = 1024
CHUNK_BYTES = 1 << 24
"""A worker gets, and returns, hardly more bytes at once, so that memory does not fill up."""
MAX_WORKERS = 61
"""Python can start no more on Windows."""
CHUNKS_IN_FLIGHT = 3
"""For each worker."""
BLOCK_BYTES = 1 << 21
"""Bytes of pixels read at once."""
PIXELS, ROWS, SKIPPED, LOCATIONS = "pixels", "rows.npz", "skipped.json", "locations.jsonl"
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SkippedImage:
    """An image, or a class, that cannot be used, and why."""

    location: str
    reason: str

    def __str__(self) -> str:
        return f"{self.location} {self.reason}"


@dataclass(frozen=True)
class DecodedSplit:
    """The decoded images of one split, in a cache folder, and the images that were skipped."""

    folder: Path
    size: int
    positions: npt.NDArray[np.int64]  # (N,), ascending: of the images in the file of pixels
    ids: Ids
    labels: Labels
    """As the source numbers its classes."""
    sizes: npt.NDArray[np.int32]  # (N, 2), width and height before resizing
    peaks: npt.NDArray[np.int32]  # (N,), highest value of greyscale of more than 8 bits, else -1
    extremes: npt.NDArray[np.uint8]  # (N, 2), lowest and highest value of the square
    skipped: tuple[SkippedImage, ...]

    def pixels(self, rows: npt.NDArray[np.int64]) -> Iterator[Pixels]:
        """Blocks of the pixels of these rows, which ascend; never all in memory."""
        image_bytes = 3 * self.size * self.size
        block_images = max(1, BLOCK_BYTES // image_bytes)
        positions = self.positions[rows]
        ends = np.flatnonzero(np.diff(positions // block_images)) + 1
        with (self.folder / PIXELS).open("rb") as file:
            for block in np.split(positions, ends):
                if len(block):
                    file.seek(int(block[0]) * image_bytes)
                    raw = np.fromfile(file, np.uint8, int(block[-1] - block[0] + 1) * image_bytes)
                    yield raw.reshape(-1, self.size, self.size, 3)[block - block[0]]

    def locations(self) -> Iterator[str]:
        """The file or row of each image (N,), read line by line."""
        with (self.folder / LOCATIONS).open() as file:
            yield from map(json.loads, file)

    @classmethod
    def read(cls, folder: Path, size: int) -> DecodedSplit | None:
        """What `decode_split` wrote; None if there is none, or it is damaged."""
        if not is_intact(folder):
            return None
        try:
            stream = BytesIO((folder / ROWS).read_bytes())
            with npy_errors(), np.load(stream, allow_pickle=False) as rows:
                positions, ids = rows["positions"], rows["ids"]
                labels, sizes, count = rows["labels"], rows["sizes"], int(rows["count"])
                peaks, extremes = rows["peaks"], rows["extremes"]
            skipped = tuple(
                SkippedImage(*pair) for pair in json.loads((folder / SKIPPED).read_text())
            )
            complete = (folder / PIXELS).stat().st_size == 3 * size * size * count
        except (OSError, ValueError, KeyError, TypeError):
            return None
        columns = (positions, ids, labels, sizes, peaks, extremes)
        return cls(folder, size, *columns, skipped) if complete else None


def lock_path(cache: Path) -> Path:
    """The lock file of the cache folder of a source."""
    return cache.with_name(f"{cache.name}.lock")


def cache_key(kind: str, request: SourceRequest, source: Source, decoding: Decoding) -> str:
    """Name of the cache folder of a source: a hash of all that its decoded images depend on."""
    digest = hashlib.sha256()
    columns = [request.label, request.image, request.split]
    arguments = [kind, request.path, columns, request.labelled, asdict(decoding)]
    versions = [PIL.__version__, simplejpeg.__version__]
    digest.update(json.dumps([arguments, list(source.classes), versions]).encode())
    digest.update(source.revision.encode())
    code = Path(sources.__file__).parent.glob("*.py")
    decoder = (decode.__file__, encoded.__file__, formats.__file__, loading.__file__, __file__)
    for file in sorted((*map(Path, decoder), *code)):
        digest.update(file.read_bytes())
    for file in source.files:
        status = file.stat() if file.exists() else file.lstat()  # of a link to nothing, itself
        digest.update(json.dumps([str(file), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()[:16]


def decode_split(
    split: Split, name: str, decoding: Decoding, skip: bool, folder: Path, workers: Workers
) -> DecodedSplit:
    """The decoded images of a split, from the cache in `folder` or decoded into it.

    Args:
        name: of the split, for the progress bar.
        skip: leave out images that cannot be used, instead of raising.

    Raises:
        ArgumentError: an image cannot be used, and `skip` is off; names the file or row.
        UserError: a file of the source is damaged, or the cache cannot be read back.
    """
    with file_lock(lock_path(folder.parent), f"decodes into {folder.parent}"):
        decoded = DecodedSplit.read(folder, decoding.size)
        if decoded is None:
            with atomic_folder(folder) as part:
                _write(split, name, decoding, skip, part, workers)
            decoded = DecodedSplit.read(folder, decoding.size)
        if decoded is None:
            raise UserError(f"{folder} cannot be read back: is the disk full, or damaged?")
    if decoded.skipped and not skip:
        raise _unusable(decoded.skipped[0])
    return decoded


def _write(
    split: Split, name: str, decoding: Decoding, skip: bool, folder: Path, workers: Workers
) -> None:
    """Decode into an empty folder."""
    (folder / PIXELS).touch()
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    skipped: list[SkippedImage] = []
    count = 0
    tracked = track(split.items(), name, split.size)
    for items, result in _decode_chunks(tracked, decoding, folder / PIXELS, workers):
        errors = {row: item.error for row, item in enumerate(items) if item.error}
        errors = {**result.errors, **errors}
        skipped += [SkippedImage(items[row].location, errors[row]) for row in sorted(errors)]
        if skipped and not skip:
            raise _unusable(skipped[0])
        usable = np.array([row for row in range(len(items)) if row not in errors], np.int64)
        labels = np.array([items[row].label for row in usable], np.int64)
        facts = (result.ids, result.sizes, result.peaks, result.extremes)
        columns.append((usable + count, labels, *(values[usable] for values in facts)))
        with (folder / LOCATIONS).open("a") as file:
            file.writelines(f"{json.dumps(items[row].location)}\n" for row in usable)
        count += len(items)
    none = np.empty(0, np.int64)
    pair = np.empty((0, 2), np.int32)
    empty = (none, none, none, pair, none.astype(np.int32), pair.astype(np.uint8))
    names = ("positions", "labels", "ids", "sizes", "peaks", "extremes")
    blocks = map(np.concatenate, zip(empty, *columns, strict=True))
    rows = dict(zip(names, blocks, strict=True))
    np.savez(folder / ROWS, allow_pickle=False, count=np.int64(count), **rows)
    pairs = [(image.location, image.reason) for image in skipped]
    (folder / SKIPPED).write_text(json.dumps(pairs))


def _unusable(image: SkippedImage) -> ArgumentError:
    return ArgumentError(f"{image} (`skip` leaves out and lists what is wrong)")


class Workers:
    """Processes that decode images, started when there is enough to decode.

    Args:
        count: of processes; with 1 this process decodes. As many as cores unless given.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = min(count or cores(), MAX_WORKERS)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, *arguments: Any) -> Future[DecodeResult]:
        """Start `decode_into` with these arguments in a process."""
        if not self._pool and self.count > 1:
            try:
                self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), prepare_worker)
            except (OSError, ImportError) as error:  # no /dev/shm, or no right to write there
                say(f"one process decodes images, since processes cannot share locks ({error})")
                self.count = 1
        if self._pool:
            return self._pool.submit(decode_into, *arguments)
        result: Future[DecodeResult] = Future()
        result.set_result(decode_into(*arguments))
        return result


def _decode_chunks(
    items: Iterable[Item], decoding: Decoding, path: Path, workers: Workers
) -> Iterator[tuple[list[Item], DecodeResult]]:
    """Chunks of items in order, their pixels written to `path` by the workers."""
    chunks = _chunks(items, CHUNK_BYTES // (3 * decoding.size**2))
    first, second = next(chunks, []), next(chunks, [])
    if not second or workers.count == 1:  # to start processes takes longer, or gains nothing
        start = 0
        for chunk in chain((first, second), chunks):
            yield chunk, decode_into(path, start, [item.data for item in chunk], decoding)
            start += len(chunk)
        return
    pending: deque[tuple[list[Item], Future[DecodeResult]]] = deque()
    start = 0
    try:
        for chunk in chain((first, second), chunks):
            data = [item.data for item in chunk]
            pending.append((chunk, workers.submit(path, start, data, decoding)))
            start += len(chunk)
            while len(pending) > CHUNKS_IN_FLIGHT * workers.count:
                chunk, future = pending.popleft()
                yield chunk, future.result()
        for chunk, future in pending:
            yield chunk, future.result()
    except BrokenProcessPool:
        raise ArgumentError(
            "a process that decodes images was killed, probably for want of memory: "
            "lower `max_pixels`"
        ) from None


def _chunks(items: Iterable[Item], limit: int) -> Iterator[list[Item]]:
    """Chunks of at most `limit` images, and of hardly more than `CHUNK_BYTES` encoded bytes."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += _byte_count(item.data)
        if len(chunk) >= min(limit, CHUNK_IMAGES) or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _byte_count(data: Data) -> int:
    if isinstance(data, Path):
        return data.stat().st_size if data.exists() else 0
    return len(data) if isinstance(data, bytes) else data.nbytes
