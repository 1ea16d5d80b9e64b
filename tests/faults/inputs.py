"""Inputs drawn at random: the properties that the tests state, with other examples each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.faults import images, params
from tests.faults.outcome import Attempt, Outcome, Setting

EXAMPLES = 200
"""Of one property, in one trial."""
MODULES = {"params": params, "images": images}
"""With a table `PROPERTIES` each: a property there is drawn here, too."""


@contextmanager
def part(setting: Setting) -> Iterator[Attempt]:
    """A property a trial, one after the other."""
    every = [entry for module in MODULES.values() for entry in module.PROPERTIES.items()]

    def attempt(number: int) -> Outcome:
        name, (strategy, holds) = every[number % len(every)]
        return examples(name, strategy, holds, f"inputs {setting.seed} {number}")

    yield attempt


def examples(
    name: str,
    strategy: SearchStrategy[Any],
    holds: Callable[[Any], None],
    drawn_from: str,
    most: int = EXAMPLES,
) -> Outcome:
    """The outcome of so many examples.

    Args:
        drawn_from: any text; the same text draws the same examples.
    """
    count = 0

    def one(value: Any) -> None:
        nonlocal count
        count += 1
        holds(value)

    checked = given(strategy)(one)
    checked = seed(int.from_bytes(hashlib.sha256(drawn_from.encode()).digest()[:8]))(
        settings(
            max_examples=most,
            deadline=None,
            database=None,
            derandomize=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(checked)
    )
    message = ""
    try:
        checked()
    except Exception as error:  # whatever breaks the promise
        notes = " ".join(getattr(error, "__notes__", ()))  # the example
        message = f"{error!r:.1500} {notes:.1500}"
    return Outcome(f"input: {name}", not message, None, message, count)
