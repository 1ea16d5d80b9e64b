"""Injects faults for a bounded time, and counts how many were survived.

python -m tests.faults --minutes 30                     all kinds, one after the other
python -m tests.faults --minutes 10 --only kill disk    these
python -m tests.faults --json FILE                      also write the counts to FILE
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rapipe import __version__
from rapipe.io.atomic import atomic_write
from tests.faults import damage, disk, inputs, kill
from tests.faults.outcome import Outcome, Run

KINDS: dict[str, Run] = {
    "kill": kill.run,
    "damage": damage.run_all,
    "disk": disk.run_all,
    "inputs": inputs.run_all,
}
SHARE = {"kill": 0.5, "damage": 0.15, "disk": 0.15, "inputs": 0.2}
"""Of the time."""
COLUMNS = ("injected", "survived", "compared", "identical")


def main() -> None:
    """Print a table; exit code 1 if anything was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    start = time.monotonic()
    for kind in arguments.only:
        seconds = 60 * arguments.minutes * SHARE[kind] / sum(SHARE[name] for name in arguments.only)
        try:
            for outcome in KINDS[kind](seconds, arguments.seed):
                note(outcome, counts[outcome.fault], wrong)
        except PermissionError as error:
            print(f"{kind} is left out: {error}", file=sys.stderr)
    show(counts)
    for what, count in kill.counts.items():
        print(f"{what}: {count}")
    if arguments.json:
        facts = {
            "rapipe": __version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "seed": arguments.seed,
            "minutes": round((time.monotonic() - start) / 60, 1),
            "faults": {fault: {name: row[name] for name in COLUMNS} for fault, row in rows(counts)},
            "counted": dict(kill.counts),
            "wrong": wrong,
        }
        atomic_write(arguments.json, (json.dumps(facts, indent=2) + "\n").encode())
    sys.exit(1 if wrong else 0)


def note(outcome: Outcome, counts: Counter[str], wrong: list[str]) -> None:
    """Count one outcome, and print it if it was not survived."""
    counts["injected"] += 1
    counts["survived"] += outcome.survived
    if outcome.identical is not None:
        counts["compared"] += 1
        counts["identical"] += outcome.identical
    if not outcome.survived:
        wrong.append(f"{outcome.fault}: {outcome.message}")
        print(wrong[-1], file=sys.stderr, flush=True)


def rows(counts: dict[str, Counter[str]]) -> list[tuple[str, Counter[str]]]:
    """By kind of fault, and all together."""
    return [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]


def show(counts: dict[str, Counter[str]]) -> None:
    """Print the table."""
    table: Any = Table("fault", *COLUMNS, box=None)
    for fault, row in rows(counts):
        table.add_row(fault, *(str(row[name]) for name in COLUMNS))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
