"""The outcome of a trial.

Each part of the harness (kills, damage, ...) is a `Part`: it prepares what its trials need, and
gives the function that makes one. All that a trial draws follows from the seed and its number, so
one that failed can be repeated alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.reference import Reference


@dataclass(frozen=True)
class Outcome:
    """The faults of one trial, and what came of them."""

    fault: str
    """The kind of fault: all faults of one kind have the same text."""
    survived: bool
    """It went on to a correct result, or was refused in one clear sentence with exit code 2."""
    identical: bool | None = None
    """Whether the results are those of an undisturbed run; None where there is none to compare."""
    message: str = ""
    """What was wrong; empty if it was survived."""
    count: int = 1
    """How many faults were injected; all but the last of them were survived."""
    notes: Counter[str] = field(default_factory=Counter)
    """What else is counted."""


@dataclass(frozen=True)
class Setting:
    """What the trials of a part have in common."""

    reference: Reference
    folder: Path
    """For folders of trials; those of trials that fail stay."""
    seed: int


Attempt = Callable[[int], Outcome]
"""Makes the trial with this number."""
Part = Callable[[Setting], AbstractContextManager[Attempt]]


def dice(part: str, seed: int, number: int) -> random.Random:
    """What draws everything of one trial."""
    return random.Random(f"{part} {seed} {number}")
