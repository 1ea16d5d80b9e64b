"""Nearest neighbours by cosine similarity: one contract, three backends, one rule for ties.

    >>> found = search(queries, bank, k=32, exclude=ids)
    >>> found = search(queries, bank, 32, ids, Method("faiss", "IVF1024,Flat"))

Exact methods give the same table, to the byte. An approximate one works as hard
as it must to find `min_recall` of the true neighbours of some queries; what it
then finds of those of others is written on the table.

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
from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.locks import file_lock
from rapipe.metrics import recall_at_k
from rapipe.progress import say
from rapipe.records import Ids, Neighbours, Vectors
from rapipe.retrieval.search.exact import Exact
from rapipe.retrieval.search.faiss_index import BLOCK, FLAT, Faiss
from rapipe.retrieval.search.lance_index import KINDS, Lance
from rapipe.retrieval.search.ranking import (
    Keyed,
    KeyedVectors,
    Proposed,
    check_k,
    rank,
    similarities_of,
)

BACKENDS = ("torch", "faiss", "lance", "auto")
EXACT = "exact"
KEY = re.compile(r"[0-9a-f]{16}(\.part|\.old)?")
SAMPLE = 1000
"""Queries on which recall is measured; half of them choose the effort, half are the figure."""
EXACT_PRODUCTS = 1e10
"""Queries times bank rows up to which `auto` is exact, on a CPU; see benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class SearchMethod:
    """How neighbours are found.

    Args:
        backend: torch, faiss, lance, or auto.
        index: `exact`; for faiss also a factory string, for lance IVF_FLAT or IVF_RQ.
        min_recall: share of the true neighbours, 0 to 1, below which `search` raises.
        cache: folder that keeps indexes, each under a hash of what it was made from.
    """

    backend: str = "torch"
    index: str = EXACT
    min_recall: float = 0.95
    cache: Path | None = None

    def check(self) -> None:
        """Raise `UserError` if the backend has no such index."""
        known = {"torch": (EXACT,), "auto": (EXACT,), "lance": KINDS}.get(self.backend)
        if known and self.index not in known:
            choices = " or ".join(known)
            raise UserError(
                f"retrieval.index is {self.index!r}; with retrieval.backend: {self.backend} it "
                f"must be {choices}"
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
    queries: Vectors, bank: Keyed, k: int, exclude: Ids, method: SearchMethod | None = None
) -> Neighbours:
    """The k most similar bank rows of each query.

    Queries and bank are read in chunks, so both may be mapped from files larger
    than memory.

    Args:
        queries: (Q, D) float32 of unit length.
        bank: ids (N,), and vectors (N, D) float32 of unit length.
        k: from 1 to the number of rows that every query may find.
        exclude: (Q,) for each query the id that it may not find: its own.
        method: exact, by torch, unless given.

    Returns:
        Neighbours (Q, K), by falling similarity, equal ones by rising id (and
        then row); `found_by` says how, and with what recall.

    Raises:
        UserError: k is out of range, the backend has no such index, or its
            recall is below `method.min_recall` however hard it tries.
    """
    method = method or SearchMethod()
    method.check()
    check_k(k, exclude, bank.ids)
    method = method.resolved(len(queries), len(bank.ids))
    with ExitStack() as stack:
        index = build_index(bank.vectors, method, stack)
        if isinstance(index, Exact) or index.exact:
            found = rank(index, queries, bank, k, exclude)
            facts: dict[str, object] = {"effort": "", "recall": 1.0, "sample": 0}
        else:
            found, facts = _approximate(index, queries, bank, k, exclude, method)
    facts = {"backend": method.backend, "index": method.index, **facts}
    return Neighbours(exclude, found.rows, found.similarities, facts)


def _approximate(
    index: Faiss | Lance, queries: Vectors, bank: Keyed, k: int, exclude: Ids, method: SearchMethod
) -> tuple[Proposed, dict[str, object]]:
    """Search with the least effort that finds enough, and say how much it found."""
    sample = np.sort(np.random.default_rng(0).permutation(len(queries))[:SAMPLE])
    truth = rank(
        Exact(bank.vectors), memory_map.lazy_rows(queries, sample), bank, k, exclude[sample]
    ).rows
    tuned, judged = slice(0, None, 2), slice(len(sample) > 1, None, 2)
    best = 0.0
    for level in range(index.levels):
        index.try_harder(level)
        tried = sample[tuned]
        found = rank(index, memory_map.lazy_rows(queries, tried), bank, k, exclude[tried])
        recall = recall_at_k(found.rows, truth[tuned])
        if recall >= method.min_recall:
            found = rank(index, queries, bank, k, exclude)
            recall = recall_at_k(found.rows[sample[judged]], truth[judged])
        best = max(best, recall)
        if recall >= method.min_recall:
            few = np.flatnonzero(found.rows[:, -1] < 0)  # cells that held fewer than k
            if len(few):
                own = memory_map.lazy_rows(queries, few)
                whole = rank(Exact(bank.vectors), own, bank, k, exclude[few])
                found.rows[few], found.similarities[few] = whole
            return found, {
                "effort": index.effort,
                "recall": round(recall, 4),
                "sample": len(truth[judged]),
            }
    raise UserError(
        f"retrieval.min_recall is {method.min_recall}, but {method.backend} with retrieval.index "
        f"{method.index} finds at most {best:.3f} of the {k} nearest; choose another index, "
        "retrieval.backend: torch, or a lower retrieval.min_recall"
    )


def build_index(bank: Vectors, method: SearchMethod, stack: ExitStack) -> Exact | Faiss | Lance:
    """The bank made ready to be searched; an index is kept in the cache, or as long as `stack`."""
    if method.backend == "torch":
        return Exact(bank)
    if method.backend == "faiss" and method.index in (EXACT, FLAT):
        return Faiss.build(bank, FLAT)
    home = method.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder = home / _fingerprint(bank, method)
    kind = Faiss if method.backend == "faiss" else Lance
    lock = home.with_name(f"{home.name}.lock")
    with file_lock(lock, "builds an index") if method.cache else nullcontext():
        if not is_intact(folder):
            say(f"building {method.backend} {method.index} of {len(bank):,} vectors")
            home.mkdir(parents=True, exist_ok=True)
            for old in home.iterdir():  # one index at a time: they are large
                if KEY.fullmatch(old.name):
                    shutil.rmtree(old)
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
    "Exact",
    "Keyed",
    "KeyedVectors",
    "SearchMethod",
    "build_index",
    "check_k",
    "rank",
    "search",
    "similarities_of",
]
