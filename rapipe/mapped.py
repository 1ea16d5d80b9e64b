"""Files mapped into memory, whose pages can be given back.

What is read of a mapped file counts as memory of the process until the system
takes it back. Loops over files larger than memory call `release` as they go.

Import rule: nothing of ours.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np

_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def file(path: Path) -> mmap.mmap:
    """The bytes of a file. What is written to them stays in memory, and is lost."""
    with path.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    _mapped.add(mapped)
    return mapped


def array(path: Path) -> np.ndarray:
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
    if fortran or dtype.hasobject:
        raise ValueError("it holds objects, or columns")
    if not np.prod(shape):
        return np.empty(shape, dtype)
    flat = np.frombuffer(file(path), dtype, int(np.prod(shape)), start)
    return flat.reshape(shape)


def held(whole: np.ndarray) -> np.ndarray:
    """The array in memory: itself, or a copy of what is mapped from a file."""
    base = whole.base
    while isinstance(base, np.ndarray):
        base = base.base
    return np.array(whole) if isinstance(base, mmap.mmap) else whole


def release() -> None:
    """Give back the pages of every mapped file; they are read again when they are used."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapped in list(_mapped):
            mapped.madvise(mmap.MADV_DONTNEED)


def gathered(whole: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Stands for `whole[rows]`, whose rows are copied when slices or row numbers ask for them."""
    return cast(np.ndarray, _Gathered(whole, rows))


class _Gathered:
    def __init__(self, whole: np.ndarray, rows: np.ndarray) -> None:
        self.whole, self.rows = whole, rows
        self.shape = (len(rows), *whole.shape[1:])
        self.dtype, self.ndim = whole.dtype, whole.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        return np.asarray(self.whole[self.rows[which]])


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
            release()
        if rows != shape[0]:
            raise ValueError(f"{rows} rows were written, not {shape[0]}")
