"""Text that a user wrote: a small file, and values of it in messages.

>>> shown("x" * 1000)
"'xxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

from rapipe.errors import UserError, sentence

MOST_BYTES = 50_000
"""Of a file: some seven times what the committed params.yaml has, and seconds to parse."""
MOST_LETTERS = 1000
"""Of one value."""
DEEPEST = 20
"""Levels of lists and mappings within each other."""
WIDTH = 60
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Letters that are none: they end lines, steer terminals, or belong to no encoding."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = WIDTH
_SHORT.maxlevel = 3


class DepthLimited:
    """Mixed into a composer of YAML: `RecursionError` for what is nested deeply, and at once.

    A parser's own comes after seconds, since each level costs more than the one before.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self.depth -= 1
        return node


def quoted(value: object) -> str:
    """A value for a message: as Python writes it, of bounded length whatever it holds."""
    text = _SHORT.repr(value)
    return text if len(text) <= 4 * WIDTH else f"{text[: 4 * WIDTH]}..."


def read_text(path: Path) -> str:
    """A small text file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is no file, too large, or not in UTF-8.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, so it cannot be read")
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes, so it is not read")
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {sentence(error)}") from None
