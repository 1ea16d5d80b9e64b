"""One progress bar for every long step: on stderr, and only when someone is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rapipe.errors import printable

T = TypeVar("T")


def watched() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


def say(message: str) -> None:
    """One line of narration on stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Walk through `items` with a bar named `what`, unless there are too few to need one."""
    if not watched() or total < 3:
        yield from items
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track as bar

    yield from bar(
        items, description=escape(printable(what)), total=total, console=Console(stderr=True)
    )


@contextmanager
def transfer(what: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar of bytes named `what`, of which `have` are there; gives what advances it."""
    if not watched():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, completed=have)
        yield lambda count: bars.advance(task, count)
