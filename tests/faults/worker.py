"""A process that makes trials of every part, one after the other."""

from __future__ import annotations

import faulthandler
import itertools
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any

from tests.faults import damage, disk, inputs, kill, repro
from tests.faults.outcome import Attempt, Outcome, Part, Setting

PARTS: dict[str, tuple[Part, float]] = {
    "kill": (kill.part, 0.35),
    "repro": (repro.part, 0.25),
    "damage": (damage.part, 0.1),
    "disk": (disk.part, 0.1),
    "inputs": (inputs.part, 0.2),
}
"""Each part, and its share of the time."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that make the trials: its trials are every `count`-th."""

    setting: Setting
    parts: tuple[str, ...]
    index: int
    count: int
    stop: float
    """When to end, as `time.time` says it."""
    trial: int | None
    """Only this one."""

    def numbers(self, name: str) -> Iterator[int]:
        """Numbers of the trials, until the share of the time is over."""
        if self.trial is not None:
            yield self.trial
            return
        left = self.parts[self.parts.index(name) :]
        share = PARTS[name][1] / sum(PARTS[other][1] for other in left)
        stop = time.time() + share * (self.stop - time.time())
        for number in itertools.count(self.index, self.count):
            if time.time() >= stop:
                return
            yield number

    def run(self, results: Queue[Any]) -> None:
        """Put the name of the part, the trial's number and the outcome; None at the end."""
        faulthandler.enable()
        signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which children inherit
        for name in self.parts:
            try:
                with PARTS[name][0](self.setting) as attempt:
                    for number in self.numbers(name):
                        results.put((name, number, outcome_of(attempt, number)))
            except PermissionError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
        results.put(None)


def outcome_of(attempt: Attempt, number: int) -> Outcome:
    """The outcome of one trial; what breaks the harness is one, too."""
    try:
        return attempt(number)
    except Exception:
        return Outcome("the harness", False, message=traceback.format_exc())
