"""A Ray cluster of nodes of one CPU on this machine; what is killed is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil


@contextmanager
def first() -> Iterator[Any]:
    """A cluster of one node, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(nodes.address, log_to_driver=False)
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@contextmanager
def second(cluster: Any) -> Iterator[Any]:
    """Another node, which may be lost."""
    added = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield added
    if added in cluster.worker_nodes:
        cluster.remove_node(added)


def kill_workers(node: Any, names: tuple[str, ...]) -> int:
    """Kill the processes of a node that Ray calls so; how many there were."""
    (raylet,) = node.all_processes["raylet"]
    killed = 0
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        if process.cmdline()[0].startswith(names):
            process.kill()
            killed += 1
    return killed
