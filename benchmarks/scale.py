"""Embedding and search on a Ray cluster of one and of two nodes, beside this machine alone.

    python -m benchmarks.scale [--json] [--quick] [--images 100000] [--width 16] [--stem half]
    python -m benchmarks.scale --images 1000000 --rounds 1

Random images of 32 pixels, from the corpus on disk to the store that is committed:

- local: `embed.engine: local`, with one thread of torch;
- ray, 1 node and 2 nodes: `embed.engine: ray` on clusters whose nodes have one CPU each, all on
  this machine. They run before the clock starts; the actors, which import torch, start after it.

The same three make the exact table of at most 50,000 random vectors, looked up among themselves.

The rows and tables must be the same by digest, or the benchmark fails. Memory is the highest sum
of what the driver and Ray's workers do not share with other processes; Ray's store of objects is
shared, and has a gigabyte a node.
Two nodes on two cores leave none to the driver, nor to whoever else uses the machine.

Beside them, what the cost of 10^8 images is computed from: bytes that are shared and written, and
how fast FAISS trains an index on one core; and that cost. docs/scale.md says how.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
import hashlib
import shutil
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import (
    Result,
    clocked,
    in_turns,
    machine,
    parse_arguments,
    print_result,
    ratio,
    spread,
    target,
)
from benchmarks.embed import make

QUICK_IMAGES = 10_000
TABLED = 50_000
"""Vectors of the table, at most."""
OVERHEAD = 1.15
"""Of Ray on one node over this machine alone, at most."""
SAMPLE_SECONDS = 1.0
TRIES = 5
LISTS, TRAINED, PASSES = 256, 64, 10
"""Of the index that is trained to measure that: lists, vectors of each, and passes of k-means."""
SHARED, ROW, DIMENSION = "bytes an image, shared", "bytes a row, stored", "dimension"
K_MEANS = "k-means, GFLOP a second"
MODELLED = 10**8
MODEL_LISTS, NEIGHBOURS = 65_536, 32
"""Of the index of so many images, and of a table of their neighbours."""
BLOCK = 8192
"""Images of a block of 32 pixels: `pipeline.embed.BLOCK`."""
UPLOADED = 10 * 2**20
"""Bytes that pyarrow puts at once; more are put in parts of so many."""
READS = 9
"""Requests a block: three that compare the length of what was written, and of images, rows and
their description one for the length and one for the content."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        images=(100_000, "of the corpus"),
        width=(16, "channels of the encoder's first stage"),
        stem=("half", "its first convolution"),
        rounds=(3, "turns of each"),
    )
    import torch

    torch.set_num_threads(1)
    count = min(options.images, QUICK_IMAGES) if options.quick else options.images
    rounds = 1 if options.quick else options.rounds
    peaks: dict[str, list[float]] = {}
    tables: set[str] = set()
    vectors = unit_vectors(min(count, TABLED))
    nodes = {"local": 0, "ray, 1 node": 1, "ray, 2 nodes": 2}
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            make(count, "resnet18", options.width, options.stem, 32)
            hashes: set[str] = set()
            peers: dict[str, Callable[[], float]] = {
                name: partial(measured, name, number, peaks, hashes)
                for name, number in nodes.items()
            }
            seconds = in_turns(rounds, peers)
            sizes = bytes_per_image()
        finally:
            os.chdir(before)
    searches: dict[str, Callable[[], float]] = {
        name: partial(searched, vectors, number, tables) for name, number in nodes.items()
    }
    table_seconds = in_turns(rounds, searches)
    if len(hashes) != 1 or len(tables) != 1:
        raise SystemExit("the rows, or the tables, differ")
    rates = {name: [count / s for s in times] for name, times in seconds.items()}
    gigabytes = {name: round(max(values) / 2**30, 2) for name, values in peaks.items()}
    overhead = ratio(seconds["ray, 1 node"], seconds["local"])
    constants = {**sizes, K_MEANS: round(kmeans_rate() / 1e9, 1)}
    model = costs(constants, statistics.median(rates["local"]))
    result: Result = {
        "machine": machine("torch", "ray", "pylance", "lancedb"),
        "load": round(os.getloadavg()[1], 1),
        "setting": {
            "images": count,
            "width": options.width,
            "stem": options.stem,
            "rounds": rounds,
        },
        "images a second": {name: [round(r) for r in values] for name, values in rates.items()},
        "peak gigabytes": gigabytes,
        "seconds of a table": {n: [round(s, 1) for s in v] for n, v in table_seconds.items()},
        "constants": constants,
        "10^8 images": {name: round(value, 1) for name, value in model.items()},
        "targets": [target("ray, 1 node / local, seconds", overhead, OVERHEAD)],
    }
    lines = [f"{count:,} images, load {result['load']}; images a second, and gigabytes at most:"]
    lines += [f"{n:14}{spread(v, digits=0):>24}{gigabytes[n]:>8}" for n, v in rates.items()]
    lines += [
        f"{n:14}{spread(v):>24} s a table of {len(vectors):,}" for n, v in table_seconds.items()
    ]
    lines += [f"{name:28}{value:>12}" for name, value in constants.items()]
    lines += [f"10^8 images: {name:40}{value:>12,.1f}" for name, value in model.items()]
    two = statistics.median(rates["ray, 2 nodes"]) / statistics.median(rates["ray, 1 node"])
    lines.append(f"two nodes / one: {two:.2f}")
    print_result(result, lines, options.json)


def costs(constants: dict[str, Any], rate: float) -> dict[str, float]:
    """What so many images take, computed from what was measured.

    Args:
        rate: images a second that one core embeds.
    """
    shared, row, d = (constants[name] for name in (SHARED, ROW, DIMENSION))
    blocks, flops = -(-MODELLED // BLOCK), 1e9 * constants[K_MEANS]
    parts = [-(-BLOCK * size // UPLOADED) for size in (shared, row)]
    writes = 1 + sum(n if n == 1 else n + 2 for n in parts)  # many parts are begun and ended
    trained = MODEL_LISTS * TRAINED
    return {
        "blocks": blocks,
        "TB of images, put once and read once": MODELLED * shared / 1e12,
        "TB of rows, put once and read once": MODELLED * row / 1e12,
        "1,000 requests that write": blocks * writes / 1000,
        "1,000 requests that read": blocks * READS / 1000,
        "core hours of embedding": MODELLED / rate / 3600,
        "core hours of training the index": 2 * trained * MODEL_LISTS * d * 20 / flops / 3600,
        "core hours of filling the index": 2 * MODELLED * MODEL_LISTS * d / flops / 3600,
        "GB of the bank": MODELLED * 4 * d / 1e9,
        "GB of a neighbour table": MODELLED * NEIGHBOURS * 8 / 1e9,
    }


def measured(name: str, nodes: int, peaks: dict[str, list[float]], hashes: set[str]) -> float:
    """Seconds of the whole stage on so many nodes, or on none."""
    from rapipe import paths
    from rapipe.config.loading import load
    from rapipe.io.tables import parse_checksummed
    from rapipe.pipeline import embed

    shutil.rmtree(paths.STORE, ignore_errors=True)
    paths.STORE_MANIFEST.unlink(missing_ok=True)
    params = load(paths.PARAMS)
    if nodes:
        on_ray = dataclasses.replace(params.embed, engine="ray")
        params = dataclasses.replace(params, embed=on_ray)
    with cluster(nodes) as raylets, peak_memory(raylets) as peak:
        seconds = clocked(lambda: embed.run(params))
    peaks.setdefault(name, []).append(peak[0])
    hashes.add(parse_checksummed(paths.STORE_MANIFEST.read_text())["sha256"])
    return seconds


def unit_vectors(count: int) -> Any:
    """Random, of as many dimensions as the default's."""
    vectors = np.random.default_rng(0).standard_normal((count, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def searched(vectors: Any, nodes: int, tables: set[str]) -> float:
    """Seconds of the exact table of vectors among themselves, on so many nodes, or on none."""
    from rapipe.retrieval.search import SearchMethod, VectorsWithIds, search

    bank = VectorsWithIds(np.arange(len(vectors)), vectors)
    found: list[Any] = []
    with cluster(nodes):
        method = SearchMethod(cluster="auto" if nodes else "")
        seconds = clocked(lambda: found.append(search(vectors, bank, NEIGHBOURS, bank.ids, method)))
    content = found[0].indices.tobytes() + found[0].similarities.tobytes()
    tables.add(hashlib.sha256(content).hexdigest())
    return seconds


@contextmanager
def cluster(nodes: int) -> Iterator[list[int]]:
    """A cluster of nodes of one CPU, to which this process is connected; ids of its raylets."""
    if not nodes:
        yield []
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as this process
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 2**30}
    running = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(nodes - 1):
            running.add_node(**node)
        ray.init(running.address, log_to_driver=False)
        yield [node.all_processes["raylet"][0].process.pid for node in running.list_all_nodes()]
    finally:
        ray.shutdown()
        running.shutdown()


@contextmanager
def peak_memory(raylets: list[int]) -> Iterator[list[float]]:
    """The highest number of bytes, in the end, of this process and what runs below raylets."""
    peak, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], sum(map(own_memory, processes(raylets))))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def processes(raylets: list[int]) -> list[psutil.Process]:
    """This process, and the workers of each raylet."""
    found = [psutil.Process()]
    for raylet in raylets:
        found += psutil.Process(raylet).children(recursive=True)
    return found


def own_memory(process: psutil.Process) -> float:
    """Bytes that it shares with no other process; none if it has ended."""
    try:
        info = process.memory_info()
        return float(info.rss - info.shared)
    except psutil.Error:
        return 0.0


def bytes_per_image() -> dict[str, Any]:
    """Bytes of an image as the nodes share it, and of its row in the store."""
    from rapipe import paths
    from rapipe.encoder.on_ray import ImageBlock
    from rapipe.io.tables import parse_checksummed
    from rapipe.records import Images

    part = Images.read(paths.split("train")).part(slice(0, 4096))
    block = ImageBlock(part, "train", [str(i) for i in range(len(part))])
    manifest = parse_checksummed(paths.STORE_MANIFEST.read_text())
    table = paths.STORE / f"{manifest['table']}.lance/data"
    rows = sum(file.stat().st_size for file in table.iterdir())
    return {
        SHARED: round(len(block.to_bytes()) / len(part)),
        ROW: round(rows / manifest["rows"]),
        DIMENSION: manifest["dimension"],
    }


def kmeans_rate() -> float:
    """Floating-point operations a second of the k-means that trains an IVF index, on one core.

    The best of a few tries, since it is computed with and not compared.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    d = 128
    vectors = np.random.default_rng(0).standard_normal((LISTS * TRAINED, d)).astype(np.float32)
    kmeans = faiss.Kmeans(d, LISTS, niter=PASSES)
    seconds = min(clocked(lambda: kmeans.train(vectors)) for _ in range(TRIES))
    return 2.0 * len(vectors) * LISTS * d * PASSES / seconds


if __name__ == "__main__":
    main()
