"""Images as blocks of squares: decoded by worker processes.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rapipe.corpus.decode import DecodeResult, Decoding, decode_many
from rapipe.corpus.decode_cache import SkippedImage, Workers
from rapipe.corpus.sources.base import Item
from rapipe.device import device
from rapipe.errors import ArgumentError
from rapipe.records import Ids, Pixels

CHUNK_IMAGES = 512
CHUNK_BYTES = 1 << 24
"""A worker gets, and returns, hardly more bytes at once, so that memory does not fill up."""
BLOCK_IMAGES, BLOCK_BYTES = 4096, 1 << 26
"""Most of a block: so many that what is done once for it takes little time, such as to project
rows of the bank."""
MULTIPLE = 64
"""Images of a block are a multiple of it: networks would fill batches up to one."""
AHEAD = 4
"""Chunks that are decoded, or wait to be, for each worker."""
HERE = 2
"""Chunks that this process decodes, while others start; if there are no more, none starts."""


@dataclass(frozen=True)
class Block:
    """Some decoded images."""

    locations: tuple[str, ...]  # (N,)
    ids: Ids  # (N,)
    pixels: Pixels  # (N, S, S, 3)

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Block:
        """These images."""
        return Block(self.locations[rows], self.ids[rows], self.pixels[rows])


def _joined(blocks: list[Block]) -> Block:
    """Blocks one after the other."""
    return Block(
        tuple(location for block in blocks for location in block.locations),
        np.concatenate([block.ids for block in blocks]),
        np.concatenate([block.pixels for block in blocks]),
    )


def decoded_blocks(
    chunks: DecodedChunks, skipped: list[SkippedImage] | None = None
) -> Iterator[Block]:
    """Blocks of the images that can be decoded, in order; the last may be smaller.

    Args:
        skipped: a list that gets the images that cannot be used; unless given, the first raises.

    Raises:
        ArgumentError: an image cannot be used; begins with its location.
    """
    fitting = BLOCK_BYTES // (3 * chunks.decoding.size**2) // MULTIPLE * MULTIPLE
    size = min(BLOCK_IMAGES, max(MULTIPLE, fitting))
    waiting: list[Block] = []
    for chunk, result, pixels in chunks:
        waiting.append(_usable(chunk, result, pixels, skipped))
        while sum(map(len, waiting)) >= size:
            together = _joined(waiting)
            yield together.part(slice(size))
            waiting = [together.part(slice(size, None))]
    if any(map(len, waiting)):
        yield _joined(waiting)


def _usable(
    chunk: list[Item], result: DecodeResult, pixels: Pixels, skipped: list[SkippedImage] | None
) -> Block:
    """Those that can be used; others are told."""
    errors = result.errors | {row: item.error for row, item in enumerate(chunk) if item.error}
    for row in sorted(errors):
        image = SkippedImage(chunk[row].location, errors[row])
        if skipped is None:
            raise ArgumentError(f"{image} (`skip` leaves out and lists what is wrong)")
        skipped.append(image)
    locations = tuple(item.location for item in chunk)
    if not errors:
        return Block(locations, result.ids, pixels)
    usable = [row for row in range(len(chunk)) if row not in errors]
    return Block(tuple(locations[row] for row in usable), result.ids[usable], pixels[usable])


Decoded = tuple[list[Item], DecodeResult, Pixels]


class DecodedChunks:
    """Chunks of items in order, with their pixels.

    Workers decode ahead of what is asked for. Not on a CPU, where networks need every core: there
    they go on when all that they decoded is used, or when `start` says that cores are free.

    Args:
        workers: decode if there are more than a few chunks; with a count of 1 this process does.
    """

    def __init__(self, items: Iterable[Item], decoding: Decoding, workers: Workers) -> None:
        self.decoding, self._workers = decoding, workers
        self._ahead = device().type != "cpu"
        self._chunks = enumerate(_chunks(items, CHUNK_BYTES // (3 * decoding.size**2)))
        self._pending: deque[tuple[list[Item], Path, Future[DecodeResult]]] = deque()
        self._folder: Path | None = None

    def __iter__(self) -> Iterator[Decoded]:
        first = [chunk for _, chunk in islice(self._chunks, HERE)]
        with TemporaryDirectory(prefix="rapipe-") as folder:
            self._folder = Path(folder)
            while True:
                if first or self._ahead or not self._pending:
                    self.start()
                if first:
                    yield _decoded(first.pop(0), self.decoding)
                elif self._pending:
                    with _named():
                        finished = _finished(*self._pending.popleft(), self.decoding.size)
                    yield finished
                else:
                    break
        if self._workers.count == 1:
            yield from (_decoded(chunk, self.decoding) for _, chunk in self._chunks)

    def start(self) -> None:
        """Let workers decode as much as they may be ahead."""
        if self._workers.count == 1 or not self._folder:
            return
        for number, chunk in islice(self._chunks, AHEAD * self._workers.count - len(self._pending)):
            path, data = self._folder / str(number), [item.data for item in chunk]
            path.touch()
            with _named():
                future = self._workers.submit(path, 0, data, self.decoding)
            self._pending.append((chunk, path, future))


@contextmanager
def _named() -> Iterator[None]:
    """A worker that was killed as a sentence."""
    try:
        yield
    except BrokenProcessPool:
        raise ArgumentError(
            "a process that decodes images was killed, probably for want of memory: "
            "lower `max_pixels`"
        ) from None


def _decoded(chunk: list[Item], decoding: Decoding) -> Decoded:
    pixels, result = decode_many([item.data for item in chunk], decoding)
    return chunk, result, pixels


def _finished(chunk: list[Item], path: Path, future: Future[DecodeResult], side: int) -> Decoded:
    result = future.result()
    pixels = np.fromfile(path, np.uint8).reshape(-1, side, side, 3)
    path.unlink()
    return chunk, result, pixels


def _chunks(items: Iterable[Item], limit: int) -> Iterator[list[Item]]:
    """Chunks of at most `limit` images, and of hardly more than `CHUNK_BYTES` encoded bytes.

    Of files the first of a chunk is taken for all of it: to ask for each takes as long as to decode
    a small one.
    """
    chunk: list[Item] = []
    size = of_file = 0
    for item in items:
        if isinstance(item.data, Path):
            of_file = of_file or _file_size(item.data)
            size += of_file
        else:
            size += len(item.data) if isinstance(item.data, bytes) else item.data.nbytes
        chunk.append(item)
        if len(chunk) >= min(limit, CHUNK_IMAGES) or size > CHUNK_BYTES:
            yield chunk
            chunk, size, of_file = [], 0, 0
    if chunk:
        yield chunk


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # decoding says what is wrong with it
        return 0
