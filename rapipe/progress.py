"""Progress bars for long steps, on stderr, and only if stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rapipe.errors import printable

T = TypeVar("T")


def is_interactive() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


def say(message: str) -> None:
    """Print one line on stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Iterate over `items` with a bar of this label, unless there are too few to need one."""
    if not is_interactive() or total < 3:
        yield from items
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track as bar

    description = escape(printable(label))
    yield from bar(items, description=description, total=total, console=Console(stderr=True))


@contextmanager
def transfer(label: str, done: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar of bytes, `done` of them already; yields the function that advances it."""
    if not is_interactive():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda count: bars.advance(task, count)
