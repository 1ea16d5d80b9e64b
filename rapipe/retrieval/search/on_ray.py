"""Searches on a Ray cluster: the table of one machine, whatever the number of nodes.

A task ranks a block of queries against a shard of the bank. Shards lie in Ray's store of objects:
each node fetches one once, its processes map it, and what does not fit into memory is spilled to
disk. Ray repeats the task of a worker or a node that is lost. The best of all shards are merged
here by the one rule, which gives the same pair the same similarity in every shard.

An approximate index is trained once, here, and of all rows: it goes to the nodes beside the bank,
which is one shard then.

Letters: Q queries, N bank rows, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe.errors import UserError
from rapipe.io import memory_map, ray_cluster
from rapipe.progress import track
from rapipe.records import Ids, Vectors
from rapipe.retrieval.search.exact import Exact
from rapipe.retrieval.search.faiss_index import Faiss
from rapipe.retrieval.search.ranking import (
    Bank,
    TopK,
    VectorsWithIds,
    count_excluded,
    rank_up_to,
    top_k,
)

QUERIES = 8192
"""Of a block."""
SHARD_BYTES = 1 << 30
"""Of the vectors of a shard, at most."""
PENDING = 2
"""Tasks for each CPU or GPU that are begun before others have ended."""
RETRIES = 5
"""Of a task whose worker or node is lost."""


def rank_on_ray(
    index: Faiss | None, queries: Vectors, bank: Bank, k: int, exclude: Ids, address: str
) -> TopK:
    """The k best of each query, as `rank` gives them.

    Args:
        k: as `check_k` passes it.
        index: approximate, at the effort to search with; None for an exact search.
        address: of the cluster, as `ray_cluster.connection` has it.

    Raises:
        ArgumentError: there is no cluster.
        UserError: it fails for good.
    """
    top = TopK(np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32))
    with ray_cluster.connection(address):
        import ray

        try:
            _fill(ray, top, index, queries, bank, exclude)
        except ray.exceptions.RayError as error:
            raise UserError(
                f"searching on Ray failed ({ray_cluster.reason(error)}): run the same again"
            ) from None
    return top


def _fill(
    ray: Any, top: TopK, index: Faiss | None, queries: Vectors, bank: Bank, exclude: Ids
) -> None:
    """Rank all queries into `top`."""
    shards = [len(bank.ids)] if index else _shard_sizes(bank.vectors)
    ends = np.cumsum(shards)
    parts = [slice(end - size, end) for end, size in zip(ends.tolist(), shards, strict=True)]
    shared = [ray.put(_shard(bank, part)) for part in parts]
    content = ray.put(index.to_bytes()) if index else None
    factory, level = (index.factory, index.level) if index else ("", 0)
    k = top.rows.shape[1]
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    share = {"num_gpus": 1} if gpus and index is None else {"num_cpus": 1}
    remote = ray.remote(max_retries=RETRIES, **share)(rank_block)
    blocks = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]

    def begun() -> Iterator[tuple[Any, int, int]]:
        """Tasks, each with its block and its shard."""
        for number, block in enumerate(blocks):
            vectors = ray.put((np.array(queries[block]), exclude[block]))
            memory_map.release_pages()
            for shard, rows in enumerate(shared):
                yield remote.remote(vectors, rows, content, factory, level, k), number, shard

    tasks = begun()
    pending: dict[Any, tuple[int, int]] = {}
    ranked: dict[int, dict[int, TopK]] = {}
    total = len(blocks) * len(parts)
    for _ in track(range(total), "searching on Ray", total):
        while len(pending) < PENDING * max(gpus, cpus) and (task := next(tasks, None)):
            pending[task[0]] = task[1:]
        (done, *_), _ = ray.wait(list(pending))
        number, shard = pending.pop(done)
        rows, similarities = ray.get(done)
        found = np.where(rows < 0, -1, rows + parts[shard].start).astype(np.int32)
        ranked.setdefault(number, {})[shard] = TopK(found, similarities)
        if len(ranked[number]) == len(parts):
            best = merge([ranked[number][i] for i in range(len(parts))], bank.ids, k)
            top.rows[blocks[number]], top.similarities[blocks[number]] = best
            del ranked[number]


def _shard_sizes(vectors: Vectors) -> list[int]:
    """Rows of shards of about the same size."""
    rows, d = vectors.shape
    count = max(1, -(-4 * rows * d // SHARD_BYTES))
    return [len(part) for part in np.array_split(range(rows), count) if len(part)]


def _shard(bank: Bank, part: slice) -> VectorsWithIds:
    shard = VectorsWithIds(bank.ids[part], np.array(bank.vectors[part]))
    memory_map.release_pages()
    return shard


def merge(parts: list[TopK], bank_ids: Ids, k: int) -> TopK:
    """The k best of each query (Q, K), of those of each shard, ranked by the one rule."""
    if len(parts) == 1:
        return parts[0]
    rows, similarities = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return top_k(rows, similarities, bank_ids, k)


def rank_block(
    queries: tuple[Vectors, Ids],
    shard: VectorsWithIds,
    content: npt.NDArray[np.uint8] | None,
    factory: str,
    level: int,
    k: int,
) -> TopK:
    """A task: up to k rows of a shard for each query of a block, ranked; row -1 for the rest."""
    import torch

    torch.set_num_threads(1)
    vectors, exclude = queries
    if content is None:
        index: Exact | Faiss = Exact(shard.vectors)
    else:
        index = Faiss.parse(content, factory)
        index.set_effort(level)
    most_excluded = count_excluded(exclude, shard.ids)
    return rank_up_to(index, vectors, shard, min(k, len(shard.ids)), exclude, most_excluded)
