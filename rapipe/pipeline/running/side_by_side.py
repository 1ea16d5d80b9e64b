"""Several variants at once, each in a process of its own.

Networks of this size gain little from a second thread, and lose most of their speed where a thread
waits for a core that another process uses. So the threads are shared out among the variants.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from rapipe import progress
from rapipe.cores import cores
from rapipe.errors import UserError
from rapipe.pipeline.running.exit_codes import INTERRUPTED, exit_on_user_error
from rapipe.progress import say

T = TypeVar("T")
JOBS, THREADS = "RAPIPE_JOBS", "OMP_NUM_THREADS"
"""Environment variables: how many at once, and the threads of all together."""
MOST = 4
"""At once, unless `RAPIPE_JOBS` says more: each may take a gigabyte."""
PATIENCE = 2.0
"""Seconds for a process to end after Ctrl-C, which a terminal sends to all, before it is told."""
BY_SIGNAL = 128
"""What shells add to the number of the signal that ended a process."""


def shares() -> tuple[int, int]:
    """How many at once, and the threads of each; on a GPU one at once."""
    text, wanted = os.environ.get(THREADS, ""), os.environ.get(JOBS, "")
    threads = int(text) if text.isdecimal() and int(text) else cores()
    if wanted and not (wanted.isdecimal() and int(wanted)):
        raise UserError(f"{JOBS} is {wanted!r}; it must be a whole number from 1")
    jobs = 1 if torch.cuda.is_available() else min(MOST, threads)
    jobs = int(wanted) if wanted else jobs
    return jobs, max(1, threads // jobs)


class Workers(Generic[T]):
    """Processes that do the same work for different items.

    Args:
        imports: modules that all of them need. They are imported once, from now on, and the
            processes begin with them.
    """

    def __init__(self, *imports: str) -> None:
        self.jobs, self._threads = shares()
        self._running: dict[Any, tuple[BaseProcess, T]] = {}
        self._begun: list[BaseProcess] = []
        is_linux = sys.platform == "linux"
        self._context: Any = multiprocessing.get_context("forkserver" if is_linux else "spawn")
        if self.jobs > 1 and is_linux:
            from multiprocessing import forkserver

            forkserver.set_forkserver_preload(list(imports))
            with self._environment():
                forkserver.ensure_running()

    def run(
        self,
        work: Callable[[T], None],
        items: Sequence[T],
        name: Callable[[T], str],
        done: Callable[[T], None],
    ) -> None:
        """Do the work for each item; where only one runs at once, in this process.

        Where one fails none is begun any more, those that run are ended, as by Ctrl-C, and this
        process exits with the code of the one that failed.

        Args:
            name: what the lines of its process begin with.
            done: called in this process after each.

        Raises:
            UserError: one of the processes was killed.
        """
        if self.jobs == 1:
            for item in items:
                if len(items) > 1:
                    say(name(item))
                work(item)
                done(item)
            return
        waiting, finished = list(items), 0
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    self._start(work, waiting.pop(0), name)
                for sentinel in connection.wait(list(self._running)):
                    process, item = self._running.pop(sentinel)
                    process.join()
                    _check(process.exitcode or 0, name(item))
                    done(item)
                    finished += 1
                    if len(items) > 1:
                        say(f"{finished} of {len(items)}: {name(item)}")
        except KeyboardInterrupt:
            self._end(PATIENCE)
            sys.exit(INTERRUPTED)  # they have said how it goes on
        finally:
            self._end(0)

    def _start(self, work: Callable[[T], None], item: T, name: Callable[[T], str]) -> None:
        process = self._context.Process(target=_begin, args=(work, item, name(item)))
        self._begun.append(process)  # before: Ctrl-C may come while it starts
        with self._environment():
            process.start()
        self._running[process.sentinel] = process, item

    def _end(self, patience: float) -> None:
        """Wait until all have ended; they are told to after so many seconds."""
        stop = time.monotonic() + patience
        alive = [process for process in self._begun if process.is_alive()]
        for process in alive:
            process.join(max(0, stop - time.monotonic()))
        for process in alive:
            process.terminate()
        for process in alive:
            process.join()
        self._running.clear()
        self._begun.clear()

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Processes that are begun within it have the right number of threads."""
        before = os.environ.get(THREADS)
        os.environ[THREADS] = str(self._threads)
        try:
            yield
        finally:
            del os.environ[THREADS]
            if before is not None:
                os.environ[THREADS] = before


def _check(code: int, name: str) -> None:
    """Exit if a process did not end well."""
    if code == -signal.SIGKILL:
        raise UserError(
            f"{name}: its process was killed, as systems do where memory is short: set {JOBS} to "
            "a smaller number"
        )
    if code:
        sys.exit(code if code > 0 else BY_SIGNAL - code)


def _begin(work: Callable[[T], None], item: T, label: str) -> None:
    """What a process does."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    progress.label_lines(label)
    with exit_on_user_error():
        work(item)


def _follow_parent() -> None:
    """End this process when the one ends that began it, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
