"""Inputs drawn at random: the properties that the tests state, with other examples each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.faults import images, params
from tests.faults.outcome import Outcome

EXAMPLES = 100
"""Of one property, before the next is checked."""


def run_all(seconds: float, first_seed: int) -> Iterator[Outcome]:
    """Every property in turn, until the time is over; an outcome an example."""
    stop = time.monotonic() + seconds
    properties = {**params.PROPERTIES, **images.PROPERTIES}
    turn = first_seed
    while time.monotonic() < stop:
        for name, (strategy, holds) in properties.items():
            if time.monotonic() > stop:
                return
            yield from _examples(name, strategy, holds, turn)
        turn += 1


def _examples(
    name: str, strategy: SearchStrategy[Any], holds: Callable[[Any], None], turn: int
) -> Iterator[Outcome]:
    count = 0

    def one(value: Any) -> None:
        nonlocal count
        count += 1
        holds(value)

    checked = given(strategy)(one)
    checked = seed(turn)(
        settings(
            max_examples=EXAMPLES,
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
        message = f"{name} (seed {turn}): {error!r:.2000}"
    for _ in range(count - bool(message)):
        yield Outcome(f"input: {name}", True)
    if message:
        yield Outcome(f"input: {name}", False, None, message)
