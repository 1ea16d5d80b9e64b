"""The data path of every network: rows of arrays, as batches on the device.

An array that fits is copied to the device once, and batches are indexed there.
One that does not fit stays mapped from its file: a thread reads the rows of the
next batches and copies them to the device, from pinned memory and on a stream
of its own, while the device computes. The batches are the same either way.
There are no worker processes.

    >>> loader = BatchLoader(device, ArrayField(pixels, device), ArrayField(labels, device))
    >>> for images, targets in loader.batches(np.random.permutation(len(labels)), 64):
    ...     ...

Letters: N rows, B batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe.device import memory_budget
from rapipe.io import memory_map

PREFETCHED = 2
"""Batches computed before the caller needs them."""
ROW_MULTIPLE = 64
"""Rows from `pad_rows` make batches of a multiple of this, if the batch size is one."""
BLOCK = 8192
"""Rows copied at once."""
CPU = torch.device("cpu")
END = object()
Rows = npt.NDArray[np.int64]


class Field(Protocol):
    """One field of each batch, such as its images.

    It is loaded in two steps, of which `fetch` may run in another thread, ahead of
    `assemble`. So on a CPU `fetch` computes nothing with torch: the threads that
    torch would start for it slow the caller's down to a third.
    """

    @property
    def resident(self) -> bool:
        """Whether all rows are on the device; then `fetch` takes row numbers on the device."""
        ...

    def fetch(self, rows: Tensor) -> Any:
        """Read the data of these rows (B,) from files, and start to copy them to the device."""
        ...

    def assemble(self, fetched: Any) -> Any:
        """The field of the batch, on the device, from what `fetch` returned."""
        ...


class ArrayField:
    """An array (N, ...).

    Args:
        resident: copy all of it to the device if it fits; an array that is read only
            once is better streamed.
        transform: of rows on the device (B, ...), each by itself: of all of them once if they
            are copied there, else of those of each batch.
    """

    def __init__(
        self,
        array: npt.NDArray[Any],
        device: torch.device,
        resident: bool = True,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.array = array
        self.device = device
        self.transform = transform
        self.on_device: Tensor | None = None
        """The array on the device, transformed, (N, ...)."""
        shareable = device == CPU and array.flags.writeable and not memory_map.is_mapped(array)
        if shareable and not transform:
            self.on_device = torch.from_numpy(array)
        elif resident and array.nbytes <= memory_budget(device):
            self.on_device = _copy_blocks(array, device, transform)

    @property
    def resident(self) -> bool:
        return self.on_device is not None

    def fetch(self, rows: Tensor) -> Any:
        """Rows (...), in any order and with repeats."""
        if self.resident:
            return rows
        numbers = rows.numpy()
        unique, inverse = np.unique(numbers, return_inverse=True)
        block, inverse = self._read(unique), inverse.reshape(numbers.shape)
        if self.device.type == "cuda":
            return copy_async(block, self.device), copy_async(inverse, self.device)
        ascending = np.array_equal(unique, numbers)
        return torch.from_numpy(block if ascending else block[inverse])

    def assemble(self, fetched: Any) -> Tensor:
        """What `fetch` returned -> (..., rest of the array's shape)."""
        if self.on_device is not None:
            return index_rows(self.on_device, fetched)
        rows = fetched if isinstance(fetched, Tensor) else index_rows(*fetched)
        return self.transform(rows) if self.transform else rows

    def _read(self, rows: Rows) -> npt.NDArray[Any]:
        """Copies of rows that ascend."""
        first, end = int(rows[0]), int(rows[-1]) + 1
        if end - first == len(rows):
            return np.array(self.array[first:end])
        return memory_map.take_rows(self.array, rows)


class RepeatedField:
    """A field (N, ...) twice, one after the other: row N + i is row i."""

    def __init__(self, field: Field, n: int) -> None:
        self.field = field
        self.n = n

    @property
    def resident(self) -> bool:
        return self.field.resident

    def fetch(self, rows: Tensor) -> Any:
        """Rows (B,), each below 2N."""
        return self.field.fetch(rows % self.n)

    def assemble(self, fetched: Any) -> Any:
        """What was fetched -> the field's."""
        return self.field.assemble(fetched)


class SlicedField:
    """A field of which a batch holds some rows only.

    Args:
        part: which, of the number of the batch's rows.
    """

    def __init__(self, field: Field, part: Callable[[int], slice]) -> None:
        self.field = field
        self.part = part

    @property
    def resident(self) -> bool:
        return self.field.resident

    def fetch(self, rows: Tensor) -> Any:
        """Rows (B,) of the whole batch."""
        return self.field.fetch(rows[self.part(len(rows))])

    def assemble(self, fetched: Any) -> Any:
        """What was fetched -> the field's."""
        return self.field.assemble(fetched)


class RowField:
    """The numbers of the rows (B,), on the device."""

    resident = True

    def fetch(self, rows: Tensor) -> Tensor:
        """The same."""
        return rows

    def assemble(self, fetched: Tensor) -> Tensor:
        """The same."""
        return fetched


def _copy_blocks(
    array: npt.NDArray[Any], device: torch.device, transform: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """The array on the device, copied by blocks: a mapped one is never in memory twice."""
    nothing = torch.from_numpy(np.empty((0, *array.shape[1:]), array.dtype))
    dtype = (transform(nothing) if transform else nothing).dtype
    tensor = torch.empty(array.shape, dtype=dtype, device=device)
    for start in range(0, len(array), BLOCK):
        block = torch.from_numpy(np.array(array[start : start + BLOCK])).to(device)
        tensor[start : start + BLOCK] = transform(block) if transform else block
        memory_map.release_pages()
    return tensor


def index_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """`tensor[rows]`, which on a CPU takes 2 to 10 times as long."""
    return tensor.index_select(0, rows.reshape(-1)).view(*rows.shape, *tensor.shape[1:])


class BatchLoader:
    """Fields that share their first axis, as batches on the device."""

    def __init__(self, device: torch.device, *fields: Field) -> None:
        self.device = device
        self.fields = fields

    def batches(self, order: Rows, size: int) -> Iterator[tuple[Any, ...]]:
        """Batches of these rows of every field, in this order; the last may be smaller."""
        rows = torch.from_numpy(order)
        device_rows = rows.to(self.device)
        batches: Iterator[tuple[Any, ...]] = (
            tuple(
                field.fetch((device_rows if field.resident else rows)[start : start + size])
                for field in self.fields
            )
            for start in range(0, len(order), size)
        )
        if not all(field.resident for field in self.fields):
            batches = prefetch(batches, self.device)
        for batch in batches:
            pairs = zip(self.fields, batch, strict=True)
            yield tuple(field.assemble(fetched) for field, fetched in pairs)


def pad_rows(count: int) -> Rows:
    """The rows from 0 to `count`, the last one repeated up to a multiple of `ROW_MULTIPLE`.

    The output of a network for an image depends, in its last bits, on the size of the batch,
    if that is small: the libraries multiply small matrices in another way. So the last batch
    is padded, and the outputs of the padding are dropped.
    """
    return np.minimum(np.arange(count + -count % ROW_MULTIPLE), max(0, count - 1))


def copy_async(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; to a GPU it is copied asynchronously, from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def prefetch(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The same batches, computed by a thread while the caller works on earlier ones.

    The thread copies to a GPU on a stream of its own, so that the copies do not wait for
    the computation.
    """
    iterator = iter(batches)
    stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def compute() -> tuple[Any, Any]:
        with torch.cuda.stream(stream):
            return next(iterator, END), stream and stream.record_event()

    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(compute) for _ in range(PREFETCHED))
        while (result := pending.popleft().result())[0] is not END:
            pending.append(pool.submit(compute))
            batch, copied = result
            if copied:
                current = torch.cuda.current_stream(device)
                current.wait_event(copied)
                for tensor in _tensors(batch):
                    tensor.record_stream(current)
            yield batch


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    else:
        for element in batch:
            yield from _tensors(element)
