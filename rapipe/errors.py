"""What ends a command: a mistake that a user can mend, and an interruption."""

import errno
import re
import unicodedata
from collections.abc import Mapping

DISK_ERRORS = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    )
)
"""Error numbers of the operating system that a user can mend: a full disk, a missing right, ..."""

MAX_SENTENCE, MAX_QUOTE, MAX_NAME = 4000, 600, 500
"""Characters of a message, of an exception that it quotes, and of a name that a user chose."""
ARGUMENT = re.compile("`([a-z_]+)`")
"""An argument's name in a message."""
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, format characters, surrogates and line ends."""
JOINERS = "\u200c\u200d\xad"
"""Characters that cannot be seen but belong to the spelling of some names."""


class UserError(Exception):
    """A mistake in parameters or data, in one sentence.

    The sentence names the value, the place and the choices. Commands print it
    without a traceback and exit with code 2. It is one line that any terminal
    can show, whatever it quotes.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(shortened(printable(sentence), MAX_SENTENCE))


class ArgumentError(UserError, ValueError):
    """A mistake in an argument of a library function, whose name stands in backticks.

    Whoever has another name for the argument, such as a key of params.yaml, says it so:

        >>> raise ArgumentError("`k` is 9, but the bank has 5 rows").renamed({"k": "retrieval.k"})
        Traceback (most recent call last):
        rapipe.errors.UserError: retrieval.k is 9, but the bank has 5 rows
    """

    def renamed(self, names: Mapping[str, str]) -> UserError:
        """The same mistake, with other names for its arguments."""
        return UserError(rename_arguments(str(self), names))


def rename_arguments(text: str, names: Mapping[str, str]) -> str:
    """Text with other names for the arguments in backticks; those that `names` lacks stay."""
    return ARGUMENT.sub(lambda match: names.get(match[1], match[0]), text)


class Interrupted(KeyboardInterrupt):
    """The user stopped the command; the sentence says where the same command goes on.

    Args:
        code: exit code, as a shell has it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, sentence: str, code: int = 130) -> None:
        super().__init__(sentence)
        self.code = code


def printable(text: str) -> str:
    """Text as one line: control characters are escaped as Python escapes them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def sentence(error: BaseException) -> str:
    """The message of an exception as one line of bounded length; without one, its type."""
    return shortened(printable(" ".join(str(error).split())), MAX_QUOTE) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, of bounded length; without one, its type."""
    line = next(iter(str(error).strip().splitlines()), "")
    return shortened(printable(line), MAX_QUOTE) or type(error).__name__


def shortened(text: str, limit: int) -> str:
    """Text of at most `limit` characters: the middle of a longer one is left out."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end - 3]} … {text[-end:]}"


def unreadable(name: str) -> str:
    """Why a name cannot be read on a screen, as a clause; "" if it can."""
    if not name.strip():
        return "is empty"
    if len(name) > MAX_NAME:
        return f"has {len(name):,} letters, more than {MAX_NAME}"
    for letter in name:
        if letter not in JOINERS and unicodedata.category(letter) in INVISIBLE:
            return f"holds {letter!a}, which cannot be shown"
    return ""
