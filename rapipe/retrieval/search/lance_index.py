"""Lance: a bank on disk, searched there; for banks larger than memory.

`exact` compares every row. `IVF_FLAT` and `IVF_RQ` look into cells of similar
vectors, the second with codes of one bit a dimension (RaBitQ: Gao and Long,
SIGMOD 2024). Candidates are ranked again from the bank.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rapipe.errors import ArgumentError, first_line
from rapipe.io import memory_map
from rapipe.records import Vectors
from rapipe.retrieval.search.ranking import Candidates, Index

EXACT = "exact"
KINDS = (EXACT, "IVF_FLAT", "IVF_RQ")
TABLE = "bank"
METRIC = "dot"
BLOCK = 8192
CACHED_BYTES = 1 << 28
"""What Lance may keep in memory of an index, and of metadata."""
MOST_FACTOR = 64
LEVELS = 9


class Lance:
    """A Lance table of a bank, with or without an index; see `ranking.Index`."""

    chunk = 256

    def __init__(self, table: Any, kind: str) -> None:
        self.table, self.kind = table, kind
        self.exact = kind == EXACT
        self.error = table.schema.field("vector").type.list_size * 2.0**-22
        self.factor, self.probes = 1, 1
        self.levels = 1 if self.exact else LEVELS
        if not self.exact and table.index_stats("vector_idx").distance_type != METRIC:
            raise RuntimeError("Lance would compare every row: the index has another metric")
        self.effort = ""

    @property
    def exact_fallback(self) -> Index:
        """There is no better one."""
        return self

    @classmethod
    def build(cls, bank: Vectors, kind: str, folder: Path) -> Lance:
        """Write a bank (N, D) into a folder, and its index.

        Raises:
            ArgumentError: Lance cannot make such an index.
        """
        from lancedb.index import IvfFlat, IvfRq

        reader = _reader(bank)
        table = _database(folder).create_table(TABLE, reader, schema=reader.schema)
        if kind != EXACT:
            config = {"IVF_FLAT": IvfFlat, "IVF_RQ": IvfRq}[kind]
            try:
                table.create_index("vector", config=config(distance_type=METRIC))
            except (RuntimeError, ValueError) as error:
                n, d = bank.shape
                raise ArgumentError(
                    f"`index` is {kind!r}, and Lance cannot make it for {n} vectors of {d} "
                    f"dimensions ({first_line(error)}); choose exact, or another `backend`"
                ) from None
        return cls(table, kind)

    @classmethod
    def read(cls, folder: Path, kind: str) -> Lance:
        """The table that `build` wrote."""
        return cls(_database(folder).open_table(TABLE), kind)

    def set_effort(self, level: int) -> None:
        """Twice the effort of the level before, from 0 to `levels` - 1."""
        self.probes = 2**level
        self.factor = min(2**level, MOST_FACTOR) if self.kind == "IVF_RQ" else 1
        self.effort = f"nprobes {self.probes}, {self.factor} candidates a neighbour"

    def candidates(self, vectors: Vectors, count: int) -> Candidates:
        """The `count` best rows of each query vector (Q, D) that the index finds."""
        query = self.table.search(list(vectors)).distance_type(METRIC).limit(count)
        query = query.bypass_vector_index() if self.exact else query.nprobes(self.probes)
        hits = query.select(["row", "_distance"]).to_arrow()
        rows = np.full((len(vectors), count), -1, np.int32)
        similarities = np.full(rows.shape, -np.inf, np.float32)
        numbers = hits["query_index"].to_numpy() if len(vectors) > 1 else np.zeros(len(hits), int)
        order = np.lexsort((hits["_distance"].to_numpy(), numbers))
        query_rows = numbers[order]
        ranks = np.arange(len(query_rows)) - np.searchsorted(query_rows, query_rows)
        rows[query_rows, ranks] = hits["row"].to_numpy()[order]
        similarities[query_rows, ranks] = 1 - hits["_distance"].to_numpy()[order]
        return Candidates(rows, similarities)


def _database(folder: Path) -> Any:
    import lancedb

    session = lancedb.Session(CACHED_BYTES, CACHED_BYTES)
    return lancedb.connect(str(folder), session=session)


def _reader(bank: Vectors) -> pa.RecordBatchReader:
    n, d = bank.shape
    schema = pa.schema({"row": pa.int32(), "vector": pa.list_(pa.float32(), d)})

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, n, BLOCK):
            block = np.array(bank[start : start + BLOCK])
            rows = np.arange(start, start + len(block), dtype=np.int32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), d)
            yield pa.record_batch([pa.array(rows), vectors], schema=schema)
            memory_map.release_pages()

    return pa.RecordBatchReader.from_batches(schema, batches())
