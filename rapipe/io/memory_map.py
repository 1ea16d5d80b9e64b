"""Memory-mapped files, whose pages can be released.

A page that was read counts as memory of the process until the system takes it
back. So loops over files larger than memory call `release_pages` as they go.

Letters: N rows of an array, M rows that are taken.

Import rule: nothing of ours.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, cast
from zipfile import BadZipFile

import numpy as np

_files: weakref.WeakKeyDictionary[mmap.mmap, BinaryIO] = weakref.WeakKeyDictionary()
"""The open file of each mapping."""


def map_file(path: Path) -> mmap.mmap:
    """Map a file into memory. What is written to the mapping never reaches the file."""
    file = path.open("rb")
    try:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except BaseException:
        file.close()
        raise
    _files[mapping] = file
    weakref.finalize(mapping, file.close)
    return mapping


NPY_ERRORS = (
    *(SyntaxError, TokenError, TypeError, KeyError, EOFError, OverflowError, RecursionError),
    *(BadZipFile, zlib.error),
)


@contextmanager
def npy_errors() -> Iterator[None]:
    """Raise whatever NumPy raises of a damaged .npy file, whose header it parses, as ValueError."""
    try:
        yield
    except NPY_ERRORS as error:
        raise ValueError(f"it is no .npy file ({type(error).__name__})") from None


def load_array(path: Path) -> np.ndarray:
    """The array of an .npy file, in memory.

    Raises:
        ValueError: the file holds no array, or one of objects.
    """
    with npy_errors():
        array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def map_array(path: Path) -> np.ndarray:
    """Map the array of an .npy file into memory.

    Raises:
        ValueError: the file holds no array, an array of objects or in column order, or less
            than its header says.
    """
    with path.open("rb") as file, npy_errors():
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"it is .npy of version {version}, not 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    count = math.prod(shape)
    if fortran or dtype.hasobject:
        raise ValueError("it holds objects, or columns")
    if start + count * dtype.itemsize > path.stat().st_size:
        raise ValueError("it holds less than it promises")
    if count <= 0:
        return np.empty(shape, dtype)
    flat = np.frombuffer(map_file(path), dtype, count, start)
    return flat.reshape(shape)


def in_memory(array: np.ndarray) -> np.ndarray:
    """The array itself, or a copy in memory if it is mapped from a file."""
    return np.array(array) if is_mapped(array) else array


def is_mapped(array: np.ndarray) -> bool:
    """Whether the array is mapped from a file."""
    return _mapping(array) is not None


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]` (M, ...), read row by row: a mapping would read much around each row.

    Args:
        array: (N, ...), mapped or not.
        rows: (M,), in any order; negative ones count from the end.

    Raises:
        IndexError: a row is outside the array.
    """
    if isinstance(array, LazyRows):
        return take_rows(array.array, array.rows[rows])
    mapping = _mapping(array)
    if mapping is None or not hasattr(os, "preadv") or not array.flags.c_contiguous:
        return np.take(array, rows, axis=0)
    if len(rows) and not -len(array) <= rows.min() <= rows.max() < len(array):
        raise IndexError(f"rows are from {rows.min()} to {rows.max()}, but there are {len(array)}")
    rows = np.where(rows < 0, rows + len(array), rows)
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    start = array.ctypes.data - _address(mapping)
    size, descriptor = array.strides[0], _files[mapping].fileno()
    raw = taken.reshape(-1).view(np.uint8)
    for i, row in enumerate(rows.tolist()):
        os.preadv(descriptor, [raw[i * size : (i + 1) * size].data], start + row * size)
    return taken


def release_pages() -> None:
    """Release the pages of all mapped files; they are read again when they are used."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in list(_files):
            mapping.madvise(mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Return freed memory to the system, which the allocator of Linux would keep."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """The mapping that contains the array, whichever library made the array."""
    for mapping in list(_files):
        offset = array.ctypes.data - _address(mapping)
        if 0 <= offset < len(mapping):
            return mapping
    return None


def _address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def lazy_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]` (M, ...), of which rows are copied only when it is indexed."""
    return cast(np.ndarray, LazyRows(array, rows))


class LazyRows:
    """What `lazy_rows` returns: it may be indexed by slices and arrays of rows."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype, self.ndim = array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return take_rows(self.array, self.rows[index])


def write_array(path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an .npy file of float32 from blocks of its rows.

    Raises:
        ValueError: the blocks do not add up to `shape`.
    """
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        rows = 0
        for block in blocks:
            if block.shape[1:] != shape[1:]:
                raise ValueError(f"a block of shape {block.shape} does not fit into {shape}")
            file.write(np.ascontiguousarray(block, np.float32).data)
            rows += len(block)
            release_pages()
        if rows != shape[0]:
            raise ValueError(f"{rows} rows were written, not {shape[0]}")
