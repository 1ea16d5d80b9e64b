"""Embedding on a Ray cluster gives the rows of this machine, whatever breaks on the way.

The cluster is real, with nodes of one CPU on this machine; what is killed is killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray_nodes
from conftest import ROOT
from faulty_s3 import FaultyS3

from benchmarks.embed import make
from rapipe import paths
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.encoder import on_ray
from rapipe.errors import UserError
from rapipe.io import ray_cluster
from rapipe.pipeline import embed
from rapipe.retrieval.store import Store

pytest.importorskip("lance")
pytest.importorskip("ray.data")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

IMAGES, BLOCK = 400, 32
BLOCKS = 14
"""Of 320, 40 and 40 images."""
DRIVER = f"""
from pathlib import Path
from rapipe.config.loading import load
from rapipe.pipeline import embed
embed.BLOCK = {BLOCK}
embed.run(load(Path("params.yaml")))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    """Storage that speaks S3, for this process and for the nodes."""
    with FaultyS3("images") as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: FaultyS3) -> Iterator[Any]:
    """A node, to which this process is connected."""
    with ray_nodes.first() as nodes:
        yield nodes


@pytest.fixture
def node(cluster: Any) -> Iterator[Any]:
    """A second node."""
    with ray_nodes.second(cluster) as added:
        yield added


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A project with a corpus and an encoder that takes a second a block, and its rows."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(embed, "BLOCK", BLOCK)
        make(IMAGES, "resnet18", 48, "cifar", 32)
        rows = embedded(load(paths.PARAMS))
        shutil.rmtree(paths.STORE)
        paths.STORE_MANIFEST.unlink()
    return folder, rows


@pytest.fixture
def project(reference: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of that without rows, to be embedded on Ray."""
    folder = tmp_path / "project"
    shutil.copytree(reference[0], folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(embed, "BLOCK", BLOCK)
    return on_engine(load(paths.PARAMS), engine="ray")


def on_engine(params: Params, **values: str) -> Params:
    """The same parameters with others of `embed`."""
    return dataclasses.replace(params, embed=dataclasses.replace(params.embed, **values))


def embedded(params: Params) -> tuple[dict[str, Any], pa.Table]:
    """The manifest, and all columns of all rows in their order, after the stage has run."""
    embed.run(params)
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    store.verify(None)
    return json.loads(paths.STORE_MANIFEST.read_text()), store.table.to_arrow()


def finished() -> set[str]:
    """Names of the blocks of this project that are finished."""
    return {path.stem for path in paths.SHARED.glob("*/done/*.json")}


@contextmanager
def in_the_middle(harm: Callable[[], None]) -> Iterator[None]:
    """Do harm when some blocks are finished and others are not."""
    done: list[int] = []

    def wait() -> None:
        while len(finished()) < 3:
            time.sleep(0.05)
        harm()
        done.append(len(finished()))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join(10)
    assert done, "nothing was harmed"
    assert done[0] < BLOCKS, "all was over before"


def test_two_nodes_give_the_rows_of_this_machine(
    project: Params, reference: tuple[Path, Any], node: Any
) -> None:
    assert embedded(project) == reference[1]
    assert reference[1][0]["rows"] == IMAGES
    assert not paths.SHARED.exists()


def test_a_node_is_lost(
    project: Params, reference: tuple[Path, Any], cluster: Any, node: Any
) -> None:
    with in_the_middle(lambda: cluster.remove_node(node, allow_graceful=False)):
        assert embedded(project) == reference[1]


def test_workers_are_killed(
    project: Params, reference: tuple[Path, Any], cluster: Any, node: Any
) -> None:
    killed = []

    def kill() -> None:
        names = "ray::Map", "ray::_map"
        killed.extend(ray_nodes.kill_workers(each, names) for each in (cluster.head_node, node))

    with in_the_middle(kill):
        assert embedded(project) == reference[1]
    assert all(killed), "no worker was there"


def test_the_driver_is_killed_and_goes_on(
    project: Params,
    reference: tuple[Path, Any],
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = paths.PARAMS.read_text().replace("engine: local", "engine: ray")
    paths.PARAMS.write_text(text.replace('address: ""', f'address: "{cluster.address}"'))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], env=environment)
    while len(finished()) < 3:
        assert driver.poll() is None, "it ended before"
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert not paths.STORE_MANIFEST.exists()
    time.sleep(3)  # until Ray has ended what the driver had started
    before = finished()
    assert 3 <= len(before) < BLOCKS
    embedded_again: list[str] = []
    library = on_ray._embed

    def noted(names: list[str], *more: Any) -> None:
        embedded_again.extend(names)
        library(names, *more)

    monkeypatch.setattr(on_ray, "_embed", noted)
    assert embedded(project) == reference[1]
    assert len(embedded_again) == BLOCKS - len(before)
    assert not before & set(embedded_again)


def test_storage_that_fails_now_and_then(
    project: Params, reference: tuple[Path, Any], server: FaultyS3, node: Any
) -> None:
    params = on_engine(project, engine="ray", storage="s3://images/some/prefix")
    with server.faults():
        assert embedded(params) == reference[1]
    assert min(server.harmed.values()) > 0, server.harmed
    assert not server.names()


def test_storage_that_is_not_there(project: Params, server: FaultyS3, cluster: Any) -> None:
    params = on_engine(project, engine="ray", storage="s3://nothing/here")
    with pytest.raises(UserError, match=r"^s3://nothing/here.* cannot be .*credentials"):
        embed.run(params)
    assert not paths.STORE_MANIFEST.exists()


def test_shared_images_that_were_damaged(
    project: Params, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong on a node is said here, and what was finished stays."""
    library = on_ray._embed

    def damaged(*more: Any) -> None:
        last = max(paths.SHARED.glob("*/images/*"))
        last.write_bytes(last.read_bytes()[::-1])
        library(*more)

    monkeypatch.setattr(on_ray, "_embed", damaged)
    with pytest.raises(UserError, match=r"^embedding on Ray failed .*is not what was written"):
        embed.run(project)
    assert not paths.STORE_MANIFEST.exists()
    assert len(finished()) < BLOCKS


def test_without_ray_a_sentence_says_what_to_install(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda module: None)
    with pytest.raises(
        UserError, match=r"^embed\.engine is 'ray', .* pip install 'rapipe\[scale\]'"
    ):
        embed.run(project)


def test_a_cluster_of_its_own(project: Params, reference: tuple[Path, Any]) -> None:
    """Without an address one is started for the stage, in a process that has none."""
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("engine: local", "engine: ray"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(paths.STORE_MANIFEST.read_text()) == reference[1][0]
    print(done.stdout, done.stderr)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_where_there_is_no_cluster(
    address: str, project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=rf"^embed\.address is '{address}', where no Ray cluster"):
        embed.run(on_engine(project, engine="ray", address=address))
