"""Stages of one checkout that run at the same time take turns where one writes what another uses.

A lock belongs to a process and ends with it, however it ends. Several processes may read an
artefact at once; only one may write it. The store has its own lock (`rapipe.retrieval.store`),
and its readers need none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import ReadWriteLock, Timeout

from rapipe import paths
from rapipe.errors import UserError
from rapipe.progress import say

RETRY_SECONDS = 0.5
"""Between two tries Ctrl-C is heard."""


@contextmanager
def artefact_locks(reads: Collection[Path], writes: Collection[Path]) -> Iterator[None]:
    """Keep others from writing what this process reads, and from using what it writes.

    Waits for them, and says so. All locks are acquired in one order, so there is no deadlock.
    """
    with suppress(ImportError, ValueError, OSError):  # a lock takes two open files
        import resource

        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    with ExitStack() as stack:
        for path in sorted({*reads, *writes}):
            _acquire(path, path in writes, stack)
        yield


def _acquire(path: Path, exclusive: bool, stack: ExitStack) -> None:
    name = "+".join(path.parts)
    try:
        paths.LOCKS.mkdir(0o755, parents=True, exist_ok=True)
        lock = ReadWriteLock(paths.LOCKS / f"{name}.lock")
        acquire = lock.acquire_write if exclusive else lock.acquire_read
        try:
            acquire(timeout=0)
        except Timeout:
            use = "uses" if exclusive else "writes"
            say(f"waiting for another rapipe process, which {use} {path}")
            _wait(acquire)
        stack.callback(lock.release)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise UserError(f"{paths.LOCKS / name}.lock cannot be used: {error}") from None


def _wait(acquire: Callable[..., object]) -> None:
    while True:
        with suppress(Timeout):
            acquire(timeout=RETRY_SECONDS)
            return
