"""How a user's mistake is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rapipe.errors import UserError


@contextmanager
def told() -> Iterator[None]:
    """Print a `UserError` as one sentence, and exit with code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
