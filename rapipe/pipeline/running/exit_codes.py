"""What a command prints, and its exit code, after a user's mistake or an interruption."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rapipe.errors import DISK_ERRORS, Interrupted, UserError, printable
from rapipe.pipeline.running.streams import prepare_streams
from rapipe.progress import say_why

USER_ERROR, INTERRUPTED = 2, 130
"""Exit codes."""
FILE_REMOVED = (
    "is gone: another process removed it, as dvc repro does before it makes something again; run "
    "the same again"
)
OUT_OF_MEMORY = (
    "error: there is not enough memory for this: lower pretrain.batch_size, train.batch_size, "
    "retrieval.k or a width"
)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print what went wrong as one sentence and exit with its code.

    The code is 2 for a `UserError`, an error of the disk and a lack of memory, and 130 for
    Ctrl-C (143 where a training got SIGTERM). Anything else is a bug and keeps its traceback.
    """
    try:
        prepare_streams()
        yield
    except UserError as error:
        _exit(f"error: {error}", USER_ERROR)
    except Interrupted as stop:
        _exit(f"interrupted: {stop}", stop.code)
    except KeyboardInterrupt:
        _exit("interrupted: the same command starts this again", INTERRUPTED)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _exit(OUT_OF_MEMORY, USER_ERROR)
        if error.errno == errno.ENOENT and error.filename:
            _exit(f"error: {printable(str(error.filename))} {FILE_REMOVED}", USER_ERROR)
        if error.errno == errno.ENOENT:  # that names no file: there is no folder for those
            _exit(f"error: {error.strerror}: let TMPDIR name one that can be written", USER_ERROR)
        if error.errno not in DISK_ERRORS:
            raise
        path = printable(str(error.filename or "a file"))
        _exit(f"error: {path} cannot be read or written: {error.strerror}", USER_ERROR)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _exit(OUT_OF_MEMORY, USER_ERROR)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so in several ways."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def _exit(sentence: str, code: int) -> None:
    say_why(sentence)
    sys.exit(code)
