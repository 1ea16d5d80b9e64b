"""Text that a user wrote: small files, paths, and their values in messages.

>>> quoted("x" * 1000)
"'xxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path

from rapipe.errors import UserError, sentence

MAX_BYTES = 50_000
"""Of a file: some seven times what the committed params.yaml has, and seconds to parse."""
MAX_CHARACTERS = 1000
"""Of one value."""
WIDTH = 60
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Line ends, control characters of terminals, and surrogates, which no encoding has."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = WIDTH
_SHORT.maxlevel = 3


def quoted(value: object) -> str:
    """A value for a message: its `repr`, of bounded length."""
    text = _SHORT.repr(value)
    return text if len(text) <= 4 * WIDTH else f"{text[: 4 * WIDTH]}..."


def expand_home(path: str | Path) -> Path:
    """A path with the home folder in place of `~` or `~USER` at its beginning.

    Raises:
        UserError: there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{quoted(str(path))} begins with ~, but there is no such home folder: write "
            "./~ for a name that begins so"
        ) from None


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
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES:,} bytes, so it is not read")
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {sentence(error)}") from None
