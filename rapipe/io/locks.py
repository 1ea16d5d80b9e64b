"""Processes that must not do the same thing at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rapipe.progress import say


@contextmanager
def file_lock(path: Path, doing: str, wait: bool = True) -> Iterator[bool]:
    """Keep other processes out of what this lock stands for; gives whether that was possible.

    Args:
        path: its file, which is made beside what it protects.
        doing: what the others are doing, for the message to who waits.
        wait: until nobody else is in there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait:
            say(f"waiting for another process that {doing}")
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()
