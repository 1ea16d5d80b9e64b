"""Nearest neighbours by cosine similarity: one contract, three backends, one rule for ties.

    >>> neighbours = search(queries, bank, k=32, exclude=ids)
    >>> neighbours = search(queries, bank, 32, ids, SearchMethod("faiss", "IVF1024,Flat"))

Exact methods give the same table, to the byte. An approximate one raises its effort until it
finds `min_recall` of the true neighbours of a sample of queries; its recall on another sample
is written on the table.

Letters: Q queries, N bank rows, D embedding, K neighbours.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from rapipe.device import device
from rapipe.errors import ArgumentError
from rapipe.io import memory_map
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.metrics import recall_at_k
from rapipe.progress import say
from rapipe.records import Facts, Ids, Neighbours, Vectors
from rapipe.retrieval.search.exact import Exact
from rapipe.retrieval.search.faiss_index import BLOCK, FLAT, Faiss
from rapipe.retrieval.search.lance_index import KINDS, Lance
from rapipe.retrieval.search.on_ray import rank_on_ray
from rapipe.retrieval.search.ranking import (
    Bank,
    TopK,
    VectorsWithIds,
    check_k,
    rank,
    similarities_of,
)

BACKENDS = ("torch", "faiss", "lance", "auto")
EXACT = "exact"
INDEXES = {"torch": (EXACT,), "auto": (EXACT,), "lance": KINDS}
"""Of faiss any index that its factory makes."""
KEY = re.compile(r"[0-9a-f]{16}(\.part|\.old)?")
SAMPLE = 1000
"""Queries on which recall is measured; half of them choose the effort, half are the figure."""
EXACT_PRODUCTS = 1e10
"""Queries times bank rows up to which `auto` is exact, on a CPU; see benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class SearchMethod:
    """How neighbours are searched.

    Args:
        backend: torch, faiss, lance, or auto.
        index: `exact`; for faiss also a factory string, for lance IVF_FLAT or IVF_RQ.
        min_recall: share of the true neighbours, 0 to 1, below which `search` raises.
        cache: folder that keeps indexes, each under a hash of what it was made from.
        cluster: address of a Ray cluster whose nodes share the queries: `local` for one that is
            started on this machine, HOST:PORT, or `auto`; empty for this process alone.

    Raises:
        ArgumentError: there is no such backend, or it has no such index, or it cannot be shared.
    """

    backend: str = "torch"
    index: str = EXACT
    min_recall: float = 0.95
    cache: Path | None = None
    cluster: str = ""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            choices = ", ".join(BACKENDS)
            raise ArgumentError(f"`backend` is {self.backend!r}; it must be one of {choices}")
        indexes = INDEXES.get(self.backend, (self.index,))
        if self.index not in indexes:
            raise ArgumentError(
                f"`index` is {self.index!r}; with `backend`: {self.backend} it must be "
                f"{' or '.join(indexes)}"
            )
        if self.cluster and self.backend == "lance":
            raise ArgumentError(
                f"`backend` is {self.backend!r}, whose index stays on one machine; with `engine`: "
                "ray it must be torch, faiss or auto"
            )

    def resolved(self, queries: int, rows: int) -> SearchMethod:
        """What `auto` means for so many queries and bank rows; other methods are themselves."""
        if self.backend != "auto":
            return self
        if device().type == "cuda" or queries * rows <= EXACT_PRODUCTS:
            return replace(self, backend="torch")
        cells = 2 ** round(np.log2(4 * rows**0.5))
        return replace(self, backend="faiss", index=f"IVF{cells},SQfp16")


def search(
    queries: Vectors, bank: Bank, k: int, exclude: Ids, method: SearchMethod | None = None
) -> Neighbours:
    """The k most similar bank rows of each query.

    Queries and bank are read in chunks, so both may be mapped from files larger
    than memory.

    Args:
        queries: (Q, D) float32 of unit length.
        bank: ids (N,), and vectors (N, D) float32 of unit length.
        k: from 1 to the number of rows that no query excludes.
        exclude: (Q,) for each query the id that it may not find: that of its image.
        method: exact, by torch, by default.

    Returns:
        Neighbours (Q, K), by falling similarity, equal ones by rising id (and
        then row); `found_by` holds the method and its recall.

    Raises:
        ArgumentError: `k` is out of range, the backend cannot build the index, or its
            recall is below `method.min_recall` with its greatest effort.
    """
    check_k(k, exclude, bank.ids)
    method = (method or SearchMethod()).resolved(len(queries), len(bank.ids))
    with ExitStack() as stack:
        index = build_index(bank.vectors, method, stack)
        if isinstance(index, Exact) or index.exact:
            top = _rank(index, queries, bank, k, exclude, method)
            facts: Facts = {"effort": "", "recall": 1.0, "sample": 0}
        else:
            top, facts = _approximate(index, queries, bank, k, exclude, method)
    facts = {"backend": method.backend, "index": method.index, **facts}
    return Neighbours(exclude, top.rows, top.similarities, facts)


def describe_search(found_by: Facts, k: int) -> str:
    """The search that made a table of k neighbours, in words, from `Neighbours.found_by`."""
    if not found_by["sample"]:
        return f"{found_by['backend']}, exact"
    searched = found_by.get("pool", k)  # from which k were chosen
    return (
        f"{found_by['backend']} {found_by['index']} ({found_by['effort']}), which finds "
        f"{found_by['recall']:.1%} of the {searched} nearest of {found_by['sample']} queries"
    )


def _approximate(
    index: Faiss | Lance, queries: Vectors, bank: Bank, k: int, exclude: Ids, method: SearchMethod
) -> tuple[TopK, Facts]:
    """Search with the least effort that reaches `min_recall`; measure the recall."""
    sample = np.sort(np.random.default_rng(0).permutation(len(queries))[:SAMPLE])
    truth = _rank_part(Exact(bank.vectors), queries, sample, bank, k, exclude).rows
    tuning, held_out = slice(0, None, 2), slice(len(sample) > 1, None, 2)
    best = 0.0
    for level in range(index.levels):
        index.set_effort(level)
        top = _rank_part(index, queries, sample[tuning], bank, k, exclude)
        recall = recall_at_k(top.rows, truth[tuning])
        if recall >= method.min_recall:
            top = _rank(index, queries, bank, k, exclude, method)
            recall = recall_at_k(top.rows[sample[held_out]], truth[held_out])
        best = max(best, recall)
        if recall >= method.min_recall:
            short = np.flatnonzero(top.rows[:, -1] < 0)  # cells that held fewer than k
            if len(short):
                exact = _rank_part(Exact(bank.vectors), queries, short, bank, k, exclude)
                top.rows[short], top.similarities[short] = exact
            return top, {
                "effort": index.effort,
                "recall": round(recall, 4),
                "sample": len(truth[held_out]),
            }
    raise ArgumentError(
        f"`min_recall` is {method.min_recall}, but {method.backend} with `index` "
        f"{method.index} finds at most {best:.3f} of the {k} nearest; choose another index, "
        "`backend`: torch, or a lower `min_recall`"
    )


def _rank(
    index: Exact | Faiss | Lance,
    queries: Vectors,
    bank: Bank,
    k: int,
    exclude: Ids,
    method: SearchMethod,
) -> TopK:
    """All queries, by this process or by a cluster."""
    if not method.cluster:
        return rank(index, queries, bank, k, exclude)
    approximate = index if isinstance(index, Faiss) and not index.exact else None
    return rank_on_ray(approximate, queries, bank, k, exclude, method.cluster)


def _rank_part(
    index: Exact | Faiss | Lance,
    queries: Vectors,
    part: np.ndarray,
    bank: Bank,
    k: int,
    exclude: Ids,
) -> TopK:
    return rank(index, memory_map.lazy_rows(queries, part), bank, k, exclude[part])


def build_index(bank: Vectors, method: SearchMethod, stack: ExitStack) -> Exact | Faiss | Lance:
    """An index of the bank, kept in the cache, or as long as `stack`."""
    if method.backend == "torch":
        return Exact(bank)
    if method.backend == "faiss" and method.index in (EXACT, FLAT):
        return Faiss.build(bank, FLAT)
    cache = method.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder = cache / _fingerprint(bank, method)
    kind = Faiss if method.backend == "faiss" else Lance
    lock = cache.with_name(f"{cache.name}.lock")
    with file_lock(lock, "builds an index") if method.cache else nullcontext():
        if not is_intact(folder):
            say(f"building {method.backend} {method.index} of {len(bank):,} vectors")
            cache.mkdir(parents=True, exist_ok=True)
            for stale in cache.iterdir():  # one index at a time: they are large
                if KEY.fullmatch(stale.name):
                    shutil.rmtree(stale)
            with atomic_folder(folder) as partial:
                if method.backend == "faiss":
                    Faiss.build(bank, method.index).write(partial)
                else:
                    Lance.build(bank, method.index, partial)
                memory_map.trim_heap()
        return kind.read(folder, method.index)


def _fingerprint(bank: Vectors, method: SearchMethod) -> str:
    """Hash of the bank, the index, and the library that makes it."""
    library = {"faiss": "faiss-cpu", "lance": "lancedb"}[method.backend]
    facts = [method.backend, method.index, version(library), list(bank.shape)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for start in range(0, len(bank), BLOCK):
        digest.update(np.ascontiguousarray(bank[start : start + BLOCK]).tobytes())
        memory_map.release_pages()
    return digest.hexdigest()[:16]


__all__ = [
    "BACKENDS",
    "EXACT",
    "Bank",
    "Exact",
    "SearchMethod",
    "VectorsWithIds",
    "build_index",
    "check_k",
    "describe_search",
    "rank",
    "search",
    "similarities_of",
]
