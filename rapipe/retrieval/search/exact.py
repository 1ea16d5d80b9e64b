"""Exact candidates by matrix products with tiles of the bank, on CPU or GPU.

To select the best of N similarities costs as much as the product if it looks
at all of them in turn. Instead the maximum of each group of columns is taken,
in one pass in the order of memory: the P best values lie in the P groups with
the best maxima.

bfloat16 is used where it is faster. Its rounding error is bounded, so a query that it
cannot settle is searched again in float32.

Letters: Q queries, N bank rows, D embedding, P candidates, G groups.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property

import torch
from torch import Tensor

from rapipe.device import device
from rapipe.io import memory_map
from rapipe.records import Vectors
from rapipe.retrieval.search.ranking import Candidates, Index

GROUP = 64
SINGLE_TILE, TILE = 1 << 16, 1 << 15
"""A bank of up to SINGLE_TILE rows is one tile; a larger one is many, of TILE rows."""
CHUNK, LARGE_CHUNK = 1024, 2048
"""Queries at once; more if each chunk has to read the bank again."""
IN_MEMORY_BYTES = 1 << 28
"""A larger bank is read tile by tile, unless a quarter of the GPU can hold it."""
MIN_SPEEDUP = 1.5
"""Of low precision, since it leaves queries unsettled."""


class Exact:
    """An index that compares every row of a bank; see `ranking.Index`."""

    exact = True

    def __init__(self, bank: Vectors, dtype: torch.dtype | None = None) -> None:
        """Prepare a bank (N, D).

        Args:
            dtype: of the products, float32 or bfloat16; the faster one by default.
        """
        n, d = bank.shape
        self.bank, self.device = bank, device()
        self.dtype = dtype or fastest(self.device)
        self.chunk = CHUNK if n <= SINGLE_TILE else LARGE_CHUNK
        self.error = rounding(d, self.dtype)
        self.factor = 1 if self.dtype == torch.float32 else 2
        size = n * d * self.dtype.itemsize
        fits = size <= IN_MEMORY_BYTES or (
            self.device.type == "cuda" and size <= torch.cuda.mem_get_info(self.device)[0] // 4
        )
        self.tiles = list(self._tiles()) if fits else None
        self.buffer = torch.empty(0, dtype=self.dtype, device=self.device)

    @cached_property
    def exact_fallback(self) -> Index:
        """float32 settles what bfloat16 cannot."""
        return self if self.dtype == torch.float32 else Exact(self.bank, torch.float32)

    def candidates(self, vectors: Vectors, count: int) -> Candidates:
        """The `count` best rows of each query vector (Q, D)."""
        queries = torch.from_numpy(vectors).to(self.device, self.dtype)
        best, first = [], 0
        with torch.autocast(self.device.type, enabled=False), _full_sums():
            for tile in self.tiles or self._tiles():
                values, columns = self._best(queries, tile, count)
                best.append((values, columns + first))
                first += len(tile)
        values, rows = best[0]
        if len(best) > 1:
            values, rows = (torch.cat(tiles, dim=1) for tiles in zip(*best, strict=True))
            values, columns = values.topk(count, dim=1)  # (Q, P)
            rows = rows.gather(1, columns)
        return Candidates(rows.int().cpu().numpy(), values.float().cpu().numpy())

    def _tiles(self) -> Iterator[Tensor]:
        n = len(self.bank)
        size = max(1, n) if n <= SINGLE_TILE else TILE
        for start in range(0, n, size):
            tile = torch.from_numpy(memory_map.in_memory(self.bank[start : start + size]))
            yield tile.to(self.device, self.dtype)
            memory_map.release_pages()

    def _best(self, queries: Tensor, tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Similarities (Q, P) to the best rows of a tile, and the rows (Q, P)."""
        q, n = len(queries), len(tile)
        g = -(-n // GROUP)
        similarities = self._similarities(q, g)  # (Q, G * GROUP), the last group filled up
        torch.mm(queries, tile.T, out=similarities[:, :n])
        similarities[:, n:] = -torch.inf
        if g <= 2 * count:
            values, columns = similarities[:, :n].topk(min(count, n), dim=1)
            return values, columns
        groups = similarities.view(q, g, GROUP)
        best = groups.amax(2).topk(count, dim=1, sorted=False).indices  # (Q, P)
        inside = groups[torch.arange(q, device=self.device)[:, None], best]  # (Q, P, GROUP)
        values, at = inside.view(q, -1).topk(count, dim=1)  # (Q, P)
        return values, best.gather(1, at // GROUP) * GROUP + at % GROUP

    def _similarities(self, q: int, g: int) -> Tensor:
        """A buffer of similarities (Q, G * GROUP), reused for every tile: new pages are slow."""
        size = q * g * GROUP
        if len(self.buffer) < size:
            self.buffer = torch.empty(size, dtype=self.dtype, device=self.device)
        return self.buffer[:size].view(q, g * GROUP)


@contextmanager
def _full_sums() -> Iterator[None]:
    """On a GPU sum in float32, as `rounding` assumes, whatever training allows."""
    flags = torch.backends.cuda.matmul
    before = flags.allow_tf32, flags.allow_bf16_reduced_precision_reduction
    flags.allow_tf32, flags.allow_bf16_reduced_precision_reduction = False, False
    try:
        yield
    finally:
        flags.allow_tf32, flags.allow_bf16_reduced_precision_reduction = before


def rounding(d: int, dtype: torch.dtype) -> float:
    """How far the product of two unit vectors (D,) can be from the true one.

    A sum of D terms in float32, in any order, is off by at most D units of
    roundoff (Higham, "Accuracy and Stability of Numerical Algorithms", 2002,
    section 3.1); each vector and the product are rounded to bfloat16 besides.
    """
    error = 1.001 * d * 2.0**-24
    return error if dtype == torch.float32 else error + 3.1 * 2.0**-9


@cache
def fastest(target: torch.device) -> torch.dtype:
    """bfloat16 if its products are faster by far on this device, else float32; it is measured."""
    if target.type == "cuda":
        return torch.bfloat16
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    low = seconds[torch.bfloat16] * MIN_SPEEDUP < seconds[torch.float32]
    return torch.bfloat16 if low else torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """The best of a few products of CHUNK queries with a small bank."""
    queries, bank = torch.ones(CHUNK, 256, dtype=dtype), torch.ones(4096, 256, dtype=dtype)
    buffer = torch.empty(CHUNK, 4096, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(queries, bank.T, out=buffer)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
