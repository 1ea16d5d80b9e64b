"""The data path of every network: rows of arrays, as batches on the device.

An array that fits is put on the device once, and a batch is rows taken there.
One that does not fit stays where it is, mapped from its file: a thread reads
the rows of the batches to come and copies them to the device, from pinned
memory and on a stream of their own, while the device computes. The batches are
the same either way. There are no worker processes.

    >>> feed = Feed(on, Column(pixels, on), Column(labels, on))
    >>> for images, targets in feed.batches(np.random.permutation(len(labels)), 64):
    ...     ...

Letters: N rows, B batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe.device import room
from rapipe.io import memory_map

PREFETCHED = 2
"""Batches made before they are asked for."""
ROW_MULTIPLE = 64
"""Rows that every batch of `evenly` has a multiple of, if its size is one."""
BLOCK = 8192
"""Rows copied at once."""
CPU = torch.device("cpu")
END = object()
Rows = npt.NDArray[np.int64]


class Field(Protocol):
    """A part of each batch, such as its images.

    It is made in two steps, of which the first may run in a thread ahead of
    the second. So on a CPU the first computes nothing with torch: the threads
    that torch would start for it slow the caller's down to a third.
    """

    @property
    def resident(self) -> bool:
        """Whether all of it is on the device: then `fetch` wants the rows' numbers there too."""
        ...

    def fetch(self, rows: Tensor) -> Any:
        """Read from files what these rows (B,) need, and send it to the device."""
        ...

    def place(self, fetched: Any) -> Any:
        """What was fetched -> what stands in the rows, on the device."""
        ...


class ArrayField:
    """An array (N, ...).

    Args:
        stay: copy it to the device for good if it fits; one that is read only
            once is better streamed.
    """

    def __init__(self, array: npt.NDArray[Any], device: torch.device, stay: bool = True) -> None:
        self.array = array
        self.device = device
        self.there: Tensor | None = None
        """The whole array on the device."""
        at_hand = device == CPU and array.flags.writeable and not memory_map.is_mapped(array)
        if at_hand or (stay and array.nbytes <= room(device)):
            self.there = torch.from_numpy(array) if at_hand else _copy_blocks(array, device)

    @property
    def resident(self) -> bool:
        return self.there is not None

    def fetch(self, rows: Tensor) -> Any:
        """Rows (...), in any order and more than once."""
        if self.resident:
            return rows
        wanted = rows.numpy()
        once, places = np.unique(wanted, return_inverse=True)
        found, places = self._read(once), places.reshape(wanted.shape)
        if self.device.type == "cuda":
            return copy_async(found, self.device), copy_async(places, self.device)
        ascending = np.array_equal(once, wanted)
        return torch.from_numpy(found if ascending else found[places])

    def place(self, fetched: Any) -> Tensor:
        """What was fetched -> (..., rest of the array's shape)."""
        if self.there is not None:
            return _index_rows(self.there, fetched)
        return fetched if isinstance(fetched, Tensor) else _index_rows(*fetched)

    def _read(self, rows: Rows) -> npt.NDArray[Any]:
        """Copies of rows that ascend."""
        first, end = int(rows[0]), int(rows[-1]) + 1
        if end - first == len(rows):
            return np.array(self.array[first:end])
        return memory_map.take_rows(self.array, rows)


def _copy_blocks(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device, block by block: one of a file is never in memory twice."""
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    there = torch.empty(array.shape, dtype=kind, device=device)
    for start in range(0, len(array), BLOCK):
        there[start : start + BLOCK] = torch.from_numpy(np.array(array[start : start + BLOCK]))
        memory_map.release_pages()
    return there


def _index_rows(whole: Tensor, rows: Tensor) -> Tensor:
    """`whole[rows]`, which on a CPU takes 2 to 10 times as long."""
    return whole.index_select(0, rows.reshape(-1)).view(*rows.shape, *whole.shape[1:])


class BatchLoader:
    """Parts that share their first axis, as batches on the device."""

    def __init__(self, device: torch.device, *parts: Field) -> None:
        self.device = device
        self.parts = parts

    def batches(self, order: Rows, size: int) -> Iterator[tuple[Any, ...]]:
        """Batches of these rows of every part, in this order; the last may be smaller."""
        rows = torch.from_numpy(order)
        there = rows.to(self.device)
        fetched: Iterator[tuple[Any, ...]] = (
            tuple(
                part.fetch((there if part.resident else rows)[start : start + size])
                for part in self.parts
            )
            for start in range(0, len(order), size)
        )
        if not all(part.resident for part in self.parts):
            fetched = prefetch(fetched, self.device)
        for batch in fetched:
            yield tuple(part.place(own) for part, own in zip(self.parts, batch, strict=True))


def pad_rows(count: int) -> Rows:
    """The rows from 0 to `count`, the last one again and again up to a multiple of `EVEN`.

    What a network makes of an image depends, in its last bits, on how many are computed
    at once, where these are few: the libraries have other ways to multiply then. So a last
    batch is filled up, and what was made of the filling is cut off.
    """
    return np.minimum(np.arange(count + -count % ROW_MULTIPLE), max(0, count - 1))


def copy_async(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; a GPU fetches it by itself, from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def prefetch(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The same batches, made by a thread while the caller works on earlier ones.

    What the thread sends to a GPU has a stream of its own, so that it does not wait
    for what computes.
    """
    source = iter(batches)
    stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def make() -> tuple[Any, Any]:
        with torch.cuda.stream(stream):
            return next(source, END), stream and stream.record_event()

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make) for _ in range(PREFETCHED))
        while (made := waiting.popleft().result())[0] is not END:
            waiting.append(pool.submit(make))
            batch, copied = made
            if copied:
                now = torch.cuda.current_stream(device)
                now.wait_event(copied)
                for tensor in _tensors(batch):
                    tensor.record_stream(now)
            yield batch


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    else:
        for part in batch:
            yield from _tensors(part)
