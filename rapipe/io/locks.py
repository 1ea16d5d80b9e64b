"""Locks between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rapipe.progress import say


@contextmanager
def file_lock(path: Path, activity: str, wait: bool = True) -> Iterator[bool]:
    """Acquire a lock between processes; yields whether it was acquired.

    Args:
        path: the lock file, beside what it protects.
        activity: what the process that has the lock does, for the message while this one waits.
        wait: until the lock is free; otherwise one that is not free is not acquired.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait:
            say(f"waiting for another process that {activity}")
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()
