"""Files mapped into memory, whose pages can be given back.

What is read of a mapped file counts as memory of the process until the system
takes it back. Loops over files larger than memory call `release` as they go.

Import rule: nothing of ours.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

_files: weakref.WeakKeyDictionary[mmap.mmap, BinaryIO] = weakref.WeakKeyDictionary()
"""Every mapping, and its file."""


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file. What is written to them stays in memory, and is lost."""
    opened = path.open("rb")
    try:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    except BaseException:
        opened.close()
        raise
    _files[mapped] = opened
    weakref.finalize(mapped, opened.close)
    return mapped


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        ValueError: the file holds no array, objects, or less than it promises.
    """
    with path.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        if version != (1, 0):
            raise ValueError(f"it is .npy of version {version}, not 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(opened)
        start = opened.tell()
    count = math.prod(shape)
    if fortran or dtype.hasobject:
        raise ValueError("it holds objects, or columns")
    if start + count * dtype.itemsize > path.stat().st_size:
        raise ValueError("it holds less than it promises")
    if count <= 0:
        return np.empty(shape, dtype)
    flat = np.frombuffer(map_file(path), dtype, count, start)
    return flat.reshape(shape)


def in_memory(whole: np.ndarray) -> np.ndarray:
    """The array in memory: itself, or a copy of what is mapped from a file."""
    return np.array(whole) if is_mapped(whole) else whole


def is_mapped(whole: np.ndarray) -> bool:
    """Whether the array lies in a mapped file."""
    return _mapping(whole) is not None


def take_rows(whole: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`whole[rows]`, for rows from all over a file: the system would map much around each."""
    if isinstance(whole, LazyRows):
        return take_rows(whole.whole, whole.rows[rows])
    mapping = _mapping(whole)
    if mapping is None or not hasattr(os, "preadv") or not whole.flags.c_contiguous:
        return np.take(whole, rows, axis=0)
    if len(rows) and not -len(whole) <= rows.min() <= rows.max() < len(whole):
        raise IndexError(f"rows are from {rows.min()} to {rows.max()}, but there are {len(whole)}")
    rows = np.where(rows < 0, rows + len(whole), rows)  # as numpy does: the last is -1
    found = np.empty((len(rows), *whole.shape[1:]), whole.dtype)
    start = whole.ctypes.data - _address(mapping)
    size, file_ = whole.strides[0], _files[mapping].fileno()
    raw = found.reshape(-1).view(np.uint8)
    for place, row in enumerate(rows.tolist()):
        os.preadv(file_, [raw[place * size : (place + 1) * size].data], start + row * size)
    return found


def release_pages() -> None:
    """Give back the pages of every mapped file; they are read again when they are used."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in list(_files):
            mapping.madvise(mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Give back what was freed: the allocator of Linux keeps it otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _mapping(whole: np.ndarray) -> mmap.mmap | None:
    """The mapping that an array lies in, whatever library made the array."""
    for mapping in list(_files):
        offset = whole.ctypes.data - _address(mapping)
        if 0 <= offset < len(mapping):
            return mapping
    return None


def _address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def lazy_rows(whole: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Stands for `whole[rows]`, whose rows are copied when slices or row numbers ask for them."""
    return cast(np.ndarray, LazyRows(whole, rows))


class LazyRows:
    def __init__(self, whole: np.ndarray, rows: np.ndarray) -> None:
        self.whole, self.rows = whole, rows
        self.shape = (len(rows), *whole.shape[1:])
        self.dtype, self.ndim = whole.dtype, whole.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        return take_rows(self.whole, self.rows[which])


def write_array(path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an .npy file of float32 from blocks of its rows, and nothing but what is promised."""
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
