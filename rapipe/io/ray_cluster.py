"""A Ray cluster, of this machine or of others.

Import rule: nothing of ours but `errors`.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rapipe.errors import ArgumentError, first_line

LOCAL = "local"
"""Address of a cluster that is started on this machine, and ends with this process."""
EXTRA = "pip install 'rapipe[scale]'"
HOST_AND_PORT = re.compile(r"([^:/]+):(\d+)")
CONNECT_SECONDS = 10


def require(package: str, module: str) -> None:
    """Raise `ArgumentError` unless a package is installed, which is not imported."""
    if find_spec(module) is None:
        raise ArgumentError(
            f"`engine` is 'ray', which needs the package {package}: {EXTRA}; or choose local"
        )


@contextmanager
def connection(address: str, cpus: int | None = None, logs: bool = False) -> Iterator[None]:
    """A connection to a cluster; the one that there is, if this process has one.

    Args:
        address: `LOCAL`, HOST:PORT, or `auto` for the one that this machine belongs to.
        cpus: of a cluster that is started here; those of this machine unless given.
        logs: whether what workers print is printed here.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers.
    """
    require("ray[data]", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is run
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"include_dashboard": False, "num_cpus": cpus} if address == LOCAL else {}
    try:
        if host := HOST_AND_PORT.fullmatch(address):  # Ray itself would try for minutes
            socket.create_connection((host[1], int(host[2])), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=logs, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ArgumentError(
            f"`address` is {address!r}, where no Ray cluster answers ({first_line(error)}): start "
            "one by ray start --head, or name another"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def reason(error: BaseException) -> str:
    """What went wrong on a worker, in one line."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return first_line(cause)
