"""FAISS: any index that its factory can make, with inner products.

The factory string is that of FAISS ("Flat", "IVF1024,Flat", "HNSW32",
"PQ64x4fs", "IVF256,PQ64x4fs,RFlat", ...). Candidates are ranked again from the
bank itself, so an index of short codes needs no refinement.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError
from rapipe.io import memory_map
from rapipe.records import Vectors
from rapipe.retrieval.search.ranking import Candidates, Index

FLAT = "Flat"
FILE = "index.faiss"
BLOCK = 1 << 15
"""Bank rows added at once."""
TRAINING_ROWS = 100_000
"""Most rows that an index learns its cells and codes from."""
MOST_FACTOR = 64
CODES = re.compile(r"PQ|SQ(?!fp16|bf16)|RQ|LSQ|RaBitQ|PCA")
"""Parts of a factory string that make similarities too coarse to choose the best by."""
LEVELS = 9


class Faiss:
    """A FAISS index of a bank; see `ranking.Index`."""

    chunk = 1024

    def __init__(self, index: Any, factory: str) -> None:
        self.index, self.factory = index, factory
        self.exact = factory == FLAT
        self.error = index.d * 2.0**-23
        self.factor = 1
        self.levels = 1 if self.exact else LEVELS
        self.level, self.effort = 0, ""

    @property
    def exact_fallback(self) -> Index:
        """There is no better one."""
        return self

    def set_effort(self, level: int) -> None:
        """Twice the effort of the level before, from 0 to `levels` - 1."""
        import faiss

        parameters = faiss.ParameterSpace()
        coarse = bool(CODES.search(self.factory))
        self.factor = min(2**level, MOST_FACTOR) if coarse else 1
        effort = [f"{self.factor} candidates a neighbour"] if coarse else []
        for name, value in (("nprobe", 2**level), ("efSearch", 32 * 2**level)):
            with suppress(RuntimeError):  # an index without this parameter
                parameters.set_index_parameter(self.index, name, value)
                effort.append(f"{name} {value}")
        with suppress(RuntimeError):
            parameters.set_index_parameter(self.index, "k_factor_rf", 2)
        self.level, self.effort = level, ", ".join(effort)

    def candidates(self, vectors: Vectors, count: int) -> Candidates:
        """The `count` best rows of each query vector (Q, D) that the index finds."""
        similarities, rows = self.index.search(np.ascontiguousarray(vectors), count)
        similarities[rows < 0] = -np.inf
        return Candidates(rows.astype(np.int32), similarities)

    def write(self, folder: Path) -> None:
        """Write the index into a folder; `read` reads it."""
        import faiss

        faiss.write_index(self.index, str(folder / FILE))

    @classmethod
    def read(cls, folder: Path, factory: str) -> Faiss:
        """The index that `write` wrote."""
        import faiss

        return cls(faiss.read_index(str(folder / FILE), faiss.IO_FLAG_MMAP_IFC), factory)

    def to_bytes(self) -> npt.NDArray[np.uint8]:
        """The index, for `parse`."""
        import faiss

        return np.asarray(faiss.serialize_index(self.index))

    @classmethod
    def parse(cls, content: npt.NDArray[np.uint8], factory: str) -> Faiss:
        """The index that `to_bytes` gave, of which codes and vectors stay where they are."""
        import faiss
        from faiss import ZeroCopyIOReader  # type: ignore[attr-defined]

        reader = ZeroCopyIOReader(faiss.swig_ptr(content), len(content))
        index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        index.referenced_objects = [content]
        return cls(index, factory)

    @classmethod
    def build(cls, bank: Vectors, factory: str) -> Faiss:
        """Train and fill an index of a bank (N, D).

        Raises:
            ArgumentError: FAISS cannot make such an index, or not from so few rows.
        """
        import faiss

        n, d = bank.shape
        try:
            index = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)
            rows = np.sort(np.random.default_rng(0).permutation(n)[:TRAINING_ROWS])
            index.train(memory_map.take_rows(bank, rows))
            _fill(index, bank, factory)
        except RuntimeError as error:
            reason = str(error).rsplit(": ", 1)[-1].strip()
            raise ArgumentError(
                f"`index` is {factory!r}, and FAISS cannot make it for {n} vectors of {d} "
                f"dimensions ({reason}); for example: Flat, HNSW32, or for thousands of vectors "
                "IVF64,Flat or PQ16x4fs"
            ) from None
        return cls(index, factory)


def _fill(index: Any, bank: Vectors, factory: str) -> None:
    import faiss

    threads = faiss.omp_get_max_threads()
    if "HNSW" in factory:
        faiss.omp_set_num_threads(1)  # several threads would draw another graph each time
    try:
        for start in range(0, len(bank), BLOCK):
            index.add(np.ascontiguousarray(bank[start : start + BLOCK]))
            memory_map.release_pages()
    finally:
        faiss.omp_set_num_threads(threads)
