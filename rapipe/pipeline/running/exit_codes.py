"""How a user's mistake is told, and how an interruption is."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rapipe.errors import OF_THE_DISK, Interrupted, UserError, printable

MISTAKE, INTERRUPTED = 2, 130
"""Exit codes."""
GONE = (
    "is gone: another process removed it, as dvc repro does before it makes something again; run "
    "the same again"
)
MEMORY = (
    "error: there is not enough memory for this: lower pretrain.batch_size, train.batch_size, "
    "retrieval.k or a width"
)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print what went wrong as one sentence and exit with its code.

    That is 2 for a `UserError`, for what the disk refuses and for want of memory, and
    130 for Ctrl-C (143 where a training heard SIGTERM). Anything else is a defect of ours
    and keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        _end(f"error: {error}", MISTAKE)
    except Interrupted as stop:
        _end(f"interrupted: {stop}", stop.code)
    except KeyboardInterrupt:
        _end("interrupted: the same command starts this again", INTERRUPTED)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _end(MEMORY, MISTAKE)
        if error.errno == errno.ENOENT and error.filename:
            _end(f"error: {printable(str(error.filename))} {GONE}", MISTAKE)
        if error.errno not in OF_THE_DISK:
            raise
        what = printable(str(error.filename or "a file"))
        _end(f"error: {what} cannot be read or written: {error.strerror}", MISTAKE)
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        _end(MEMORY, MISTAKE)


def _of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so in several ways."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(own in str(error).lower() for own in words)


def _end(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(code)
