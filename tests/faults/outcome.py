"""The outcome of one fault.

Modules of this folder that inject faults have a `Run`. It injects them one after the other,
until the time is over, and yields the outcome of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One fault and its outcome."""

    fault: str
    """The kind of fault: all faults of one kind have the same text."""
    survived: bool
    """It went on to a correct result, or was refused in one clear sentence with exit code 2."""
    identical: bool | None = None
    """Whether the results are those of an undisturbed run; None where there is none to compare."""
    message: str = ""
    """What was wrong, with all that is needed to reproduce it; empty if it was survived."""


Run = Callable[[float, int], Iterator[Outcome]]
"""Of seconds and a seed."""
