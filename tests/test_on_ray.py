"""Embedding on a Ray cluster gives the rows of this machine, whatever breaks on the way.

The cluster is real, with two nodes of one CPU on this machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.embed import make
from rapipe import paths
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.pipeline import embed
from rapipe.retrieval.store import Store

pytest.importorskip("lance")
pytest.importorskip("ray.data")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

IMAGES, BLOCK = 400, 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A corpus of random images and an encoder; the params embed on Ray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embed, "BLOCK", BLOCK)
    make(IMAGES, "resnet18", 4, "half", 32)
    params = load(paths.PARAMS)
    return dataclasses.replace(params, embed=dataclasses.replace(params.embed, engine="ray"))


def embedded(params: Params, engine: str = "ray") -> tuple[dict[str, Any], pa.Table]:
    """The manifest, and all columns of all rows in their order, after the stage has run."""
    embed.run(dataclasses.replace(params, embed=dataclasses.replace(params.embed, engine=engine)))
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    store.verify(None)
    return json.loads(paths.STORE_MANIFEST.read_text()), store.table.to_arrow()


def test_the_rows_are_those_of_this_machine(project: Params, cluster: Any) -> None:
    local = embedded(project, "local")
    paths.STORE_MANIFEST.unlink()
    assert embedded(project) == local
    assert local[0]["rows"] == IMAGES
    assert not list(paths.SHARED.iterdir())
