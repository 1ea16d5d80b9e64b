"""What commands print. Bars for long steps are on stderr, and only if stderr is a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rapipe.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")
WIDE = 10_000
"""Columns."""
GRACE = 10.0
"""Seconds that a muted process waits before it says why it ends."""
_label = ""
"""What lines begin with."""
_is_muted = False


def label_lines(label: str) -> None:
    """From now on lines begin with this, and there are no bars: other processes print too."""
    global _label
    _label = f"{label}: "


def mute(label: str) -> None:
    """From now on this process says nothing but why it ends, behind this label.

    It is one of several that do the same, of which another one speaks.
    """
    global _is_muted
    label_lines(label)
    _is_muted = True


def is_muted() -> bool:
    """Whether another process speaks."""
    return _is_muted


def say_why(message: str) -> None:
    """Print why this process ends.

    Where it is muted, the one that speaks has the first word: what all of them meet is said once,
    since its end is theirs too.
    """
    global _is_muted
    if _is_muted:
        time.sleep(GRACE)
        _is_muted = False
    say(message)


def is_interactive() -> bool:
    """Whether stderr is a terminal."""
    return not _label and bool(sys.stderr and not sys.stderr.closed and sys.stderr.isatty())


def say(message: str) -> None:
    """Print one line on stderr, if there is one."""
    if not _is_muted and sys.stderr and not sys.stderr.closed:
        print(printable(_label + message), file=sys.stderr, flush=True)


def print_line(text: str) -> None:
    """Print one line on stdout, whatever the names in it are."""
    print(printable(text))


def console(stderr: bool = False) -> Console:
    """A console of rich that prints text as it is: a name such as [red] or :cat: is no markup.

    Where stdout is no terminal, its tables are as wide as they need, so that no name is cut.
    """
    from rich.console import Console

    width = None if stderr or sys.stdout.isatty() else WIDE
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with the same keys on stdout: floats to 4 digits, None as an empty cell."""
    from rich.table import Table

    table = Table(*map(printable, rows[0] if rows else ()), box=None)
    for row in rows:
        values = ("" if v is None else v for v in row.values())
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)
        table.add_row(*map(printable, cells))
    console().print(table)


def show(rows: Any, as_json: bool) -> None:
    """Print rows with the same keys as JSON, or as a table, where None is an empty cell."""
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Iterate over `items` with a bar of this label, unless there are too few to need one."""
    if not is_interactive() or total < 3:
        yield from items
        return
    from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn

    with _bars(BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) as bars:
        yield from bars.track(items, total=total, description=printable(label))


@contextmanager
def transfer(label: str, done: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar of bytes, `done` of them already; yields the function that advances it."""
    if not is_interactive():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

    with _bars(BarColumn(), DownloadColumn(), TransferSpeedColumn()) as bars:
        task = bars.add_task(printable(label), total=total, completed=done)
        yield lambda count: bars.advance(task, count)


def _bars(*columns: ProgressColumn) -> Progress:
    """Bars behind their labels, on stderr."""
    from rich.progress import Progress, TextColumn

    label = TextColumn("{task.description}", markup=False)
    return Progress(label, *columns, console=console(stderr=True))
