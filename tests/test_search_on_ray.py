"""Neighbour tables of a Ray cluster are those of this machine, whatever breaks on the way.

The cluster is real, with nodes of one CPU on this machine; what is killed is killed.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray_nodes
from conftest import make_embeddings

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.errors import UserError
from rapipe.io import checksums
from rapipe.pipeline import prefetch
from rapipe.records import Embeddings
from rapipe.retrieval.search import SearchMethod, on_ray, search

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

K = 9


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A node, to which this process is connected."""
    with ray_nodes.first() as nodes:
        yield nodes


@pytest.fixture
def node(cluster: Any) -> Iterator[Any]:
    """A second node."""
    with ray_nodes.second(cluster) as added:
        yield added


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Embeddings:
    """Of 4,000 rows in seven shards, of which each tenth vector stands twice."""
    made = make_embeddings(4000, d=16, seed=1)
    vectors = made.vectors.copy()
    vectors[2000:2200] = vectors[:2000:10]
    monkeypatch.setattr(on_ray, "SHARD_BYTES", 4000 * 16 * 4 // 7 + 1)
    monkeypatch.setattr(on_ray, "QUERIES", 256)
    return replace(made, vectors=vectors)


def check(bank: Embeddings, method: SearchMethod) -> None:
    """The table of the bank's own images is that of this process."""
    here = search(bank.vectors, bank, K, bank.ids, method)
    there = search(bank.vectors, bank, K, bank.ids, replace(method, cluster="auto"))
    assert np.array_equal(here.indices, there.indices)
    assert np.array_equal(here.similarities, there.similarities)
    assert here.found_by == there.found_by


def test_an_exact_table_of_two_nodes(bank: Embeddings, node: Any) -> None:
    check(bank, SearchMethod())


@pytest.mark.parametrize("index", ["IVF32,SQfp16", "PQ8x4fs"])
def test_a_table_by_an_index_that_was_trained_once(
    index: str, bank: Embeddings, node: Any, tmp_path: Path
) -> None:
    check(bank, SearchMethod("faiss", index, 0.9, tmp_path / "index"))


def lose(harm: Callable[[], None], bank: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the tables, when harm is done while the second is made."""
    here = search(bank.vectors, bank, K, bank.ids)
    merge, merged = on_ray.merge, []

    def slowly(*arguments: Any) -> Any:
        merged.append(1)
        if len(merged) == 3:
            thread = threading.Thread(target=harm)
            thread.start()
            thread.join()
        return merge(*arguments)

    monkeypatch.setattr(on_ray, "merge", slowly)
    there = search(bank.vectors, bank, K, bank.ids, SearchMethod(cluster="auto"))
    assert len(merged) == 16
    assert np.array_equal(here.indices, there.indices)
    assert np.array_equal(here.similarities, there.similarities)


def test_a_node_is_lost(
    bank: Embeddings, cluster: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(lambda: cluster.remove_node(node, allow_graceful=False), bank, monkeypatch)


def test_workers_are_killed(
    bank: Embeddings, cluster: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = []

    def kill() -> None:
        names = ("ray::rank_block",)
        killed.extend(ray_nodes.kill_workers(each, names) for each in (cluster.head_node, node))

    lose(kill, bank, monkeypatch)
    assert sum(killed), "no worker was there"


def on_cluster(params: Params, **embed: str) -> Params:
    """The same parameters, with tables made on a cluster."""
    return replace(
        params,
        embed=replace(params.embed, **embed),
        retrieval=replace(params.retrieval, engine="ray", strategies=("knn", "sampled", "diverse")),
    )


def test_the_stage_writes_the_same_files(in_tiny: Params, cluster: Any) -> None:
    """With the parameters of the stage; a card says nothing of who searched."""
    there = on_cluster(in_tiny, address=cluster.address)
    hashes = []
    for params in (replace(there, retrieval=replace(there.retrieval, engine="local")), there):
        shutil.rmtree(paths.NEIGHBOURS)
        prefetch.run(params)
        files = sorted(path for path in paths.NEIGHBOURS.rglob("*") if path.is_file())
        hashes.append({str(file): checksums.sha256(file) for file in files})
    assert hashes[0] == hashes[1]
    assert str(paths.table("knn", "train")) in hashes[0]


def test_where_there_is_no_cluster(in_tiny: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"^embed\.address is '127\.0\.0\.1:1', where no Ray"):
        prefetch.run(on_cluster(in_tiny, address="127.0.0.1:1"))
    params = on_cluster(in_tiny)
    by_lance = replace(params, retrieval=replace(params.retrieval, backend="lance"))
    with pytest.raises(UserError, match=r"^retrieval\.backend is 'lance', whose index stays"):
        prefetch.run(by_lance)
