"""How a user's mistake is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rapipe.errors import OF_THE_DISK, UserError


@contextmanager
def told() -> Iterator[None]:
    """Print a `UserError`, or what the disk refuses, as one sentence, and exit with code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        what = error.filename or "a file"
        print(f"error: {what} cannot be read or written: {error.strerror}", file=sys.stderr)
        sys.exit(2)
