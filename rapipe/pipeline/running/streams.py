"""Standard output and error of a command, wherever they go: a file, a pipe that ends, nowhere."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

PIPE_ENDED = 141
"""Exit code, as a shell has it, where nobody reads standard output to its end (`| head -1`)."""


def prepare_streams() -> None:
    """Let standard output and error take every text, and no loss of theirs end any work.

    What their encoding lacks is escaped. Standard error that is closed, full or gone is given up
    in silence: a training does not end because nobody sees how it goes on. Standard output that
    nobody reads any more ends the command; where a disk is full, an `OSError` says so.
    """
    for number in range(3):  # one that is closed would be given to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is not original or isinstance(getattr(stream, "buffer", None), _Writer):
            continue  # somebody else's, such as a test's; or prepared before
        encoding = stream.encoding if stream else "utf-8"
        if stream:
            stream.flush()
        buffer = _Writer(_File(number, "w", closefd=False))
        lines = number == 2 or buffer.isatty()
        setattr(sys, name, io.TextIOWrapper(buffer, encoding, "backslashreplace", None, lines))


class _Writer(io.BufferedWriter):
    """Marks a stream as prepared."""


class _File(io.FileIO):
    """A standard stream; what cannot be written is said once, and then discarded."""

    failed = False

    def write(self, data: Any) -> int:
        if self.failed:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self.failed = True
            if self.fileno() == 2:
                return len(data)
            if error.errno == errno.EPIPE:
                raise SystemExit(PIPE_ENDED) from None
            error.filename = "standard output"
            raise
