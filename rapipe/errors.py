"""What ends a command: a mistake that a user can mend, and an interruption."""

import errno
import re
import unicodedata
from collections.abc import Mapping

OF_THE_DISK = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    )
)
"""Errors of the operating system that come from where a file lies, so that a user can mend them."""

MOST_LETTERS, MOST_SAID = 4000, 600
"""Of a sentence, whatever it quotes, and of what it quotes of an exception."""
MOST_OF_A_NAME = 500
"""Letters of a name that a user gave to something."""
ARGUMENT = re.compile("`([a-z_]+)`")
"""An argument's name in a message."""
JOINERS = "\u200c\u200d\xad"
"""Letters that cannot be seen and that names are spelled with all the same."""


class UserError(Exception):
    """A mistake in parameters or data, told in one sentence.

    The sentence names the value, the place and the choices. Commands print it
    without a traceback and exit with code 2. It is one line that any terminal
    can show, whatever it quotes.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(shortened(printable(sentence), MOST_LETTERS))


class ArgumentError(UserError, ValueError):
    """A mistake in an argument of a library function, whose name stands in backticks.

    Whoever has another name for the argument, such as a key of params.yaml, says it so:

        >>> raise ArgumentError("`k` is 9, but the bank has 5 rows").renamed({"k": "retrieval.k"})
        Traceback (most recent call last):
        rapipe.errors.UserError: retrieval.k is 9, but the bank has 5 rows
    """

    def renamed(self, names: Mapping[str, str]) -> UserError:
        """The same mistake, with other names for arguments; those without one stay."""
        named = ARGUMENT.sub(lambda found: names.get(found[1], found[0]), str(self))
        return UserError(named)


class Interrupted(KeyboardInterrupt):
    """Somebody asked for an end; the sentence says where the same command goes on.

    Args:
        code: exit code, as a shell has it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, sentence: str, code: int = 130) -> None:
        super().__init__(sentence)
        self.code = code


def printable(text: str) -> str:
    """Text as one line: what no terminal should get is escaped as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(own if own.isprintable() else ascii(own)[1:-1] for own in text)


def sentence(error: BaseException) -> str:
    """What an exception says, in one line of bounded length; else its kind."""
    return shortened(printable(" ".join(str(error).split())), MOST_SAID) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, of bounded length; else its kind."""
    line = next(iter(str(error).strip().splitlines()), "")
    return shortened(printable(line), MOST_SAID) or type(error).__name__


def shortened(text: str, most: int) -> str:
    """At most so many letters: where there are more, the middle is left out."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 3]} … {text[-end:]}"


def unreadable(name: str) -> str:
    """Why nobody could read a name where it is shown, as a clause; or "" if it can be read."""
    if not name.strip():
        return "is empty"
    if len(name) > MOST_OF_A_NAME:
        return f"has {len(name):,} letters, more than {MOST_OF_A_NAME}"
    for own in name:
        if own not in JOINERS and unicodedata.category(own) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return f"holds {own!a}, which cannot be shown"
    return ""
