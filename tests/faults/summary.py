"""Counts of outcomes: as a table in a terminal, as JSON, and in docs/reliability.md.

python -m tests.faults.summary one.json two.json                     the table of these runs
python -m tests.faults.summary --write docs/reliability.md one.json  put it there
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rapipe.io.atomic import atomic_write
from tests.faults.outcome import Outcome

COLUMNS = ("injected", "survived", "compared", "identical")
INPUT = "input: "
"""How the faults begin that are one row of the page."""
SECTION = re.compile(r"^\| fault \|.*?\n\n.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
"""Of the page: the table, and the paragraph below it."""


@dataclass
class Summary:
    """The faults of one run or of several."""

    faults: dict[str, Counter[str]] = field(default_factory=dict)
    """By kind: how many were injected, survived, compared, and identical."""
    counted: Counter[str] = field(default_factory=Counter)
    """What else was counted."""
    wrong: list[str] = field(default_factory=list)
    """What was not survived, and how to repeat it."""

    def add(self, outcome: Outcome, repeat: str) -> None:
        """Count an outcome, and print it if it was not survived.

        Args:
            repeat: the command that repeats the trial.
        """
        self.counted += outcome.notes
        if not outcome.count:
            return
        counts = self.faults.setdefault(outcome.fault, Counter())
        counts["injected"] += outcome.count
        counts["survived"] += outcome.count - (not outcome.survived)
        if outcome.identical is not None:
            counts["compared"] += 1
            counts["identical"] += outcome.identical
        if not outcome.survived:
            self.fail(f"{outcome.fault}: {outcome.message}; again: {repeat}")

    def fail(self, message: str) -> None:
        """Record what went wrong, and print it."""
        self.wrong.append(message)
        print(message, file=sys.stderr, flush=True)

    def merge(self, facts: dict[str, Any]) -> None:
        """Add what `facts` of another run has."""
        for fault, counts in facts["faults"].items():
            self.faults.setdefault(fault, Counter()).update(counts)
        self.counted.update(facts["counted"])
        self.wrong += facts["wrong"]

    @property
    def total(self) -> Counter[str]:
        return sum(self.faults.values(), Counter())

    def facts(self) -> dict[str, Any]:
        """What JSON holds; `merge` reads it."""
        rows = {**dict(sorted(self.faults.items())), "all": self.total}
        faults = {fault: {name: row[name] for name in COLUMNS} for fault, row in rows.items()}
        total = faults.pop("all")
        counted = dict(sorted(self.counted.items()))
        return {"faults": faults, "all": total, "counted": counted, "wrong": self.wrong}

    def print(self) -> None:
        """Print the table, and what else was counted."""
        table: Any = Table("fault", *COLUMNS, box=None)
        facts = self.facts()
        for fault, row in {**facts["faults"], "all": facts["all"]}.items():
            table.add_row(fault, *(f"{row[name]:,}" for name in COLUMNS))
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        for what, count in facts["counted"].items():
            print(f"{what}: {count:,}")

    def markdown(self) -> str:
        """The table; all drawn inputs are one row."""
        facts = self.facts()
        rows = {f: row for f, row in facts["faults"].items() if not f.startswith(INPUT)}
        inputs = {f: row for f, row in facts["faults"].items() if f.startswith(INPUT)}
        if inputs:
            counts = {name: sum(row[name] for row in inputs.values()) for name in COLUMNS}
            rows[f"an input, of {len(inputs)} kinds"] = counts
        lines = [f"| fault | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
        for fault, row in {**rows, "all": facts["all"]}.items():
            cells = [f"{row[n]:,}" if row["compared"] or n in COLUMNS[:2] else "" for n in COLUMNS]
            lines.append(f"| {fault} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def paragraph(runs: Sequence[dict[str, Any]], summary: Summary) -> str:
    """How the figures of a table were measured."""
    commands = " and ".join(
        f"`python -m tests.faults --minutes {run['budget']:g} --seed {run['seed']}`" for run in runs
    )
    minutes = sum(run["minutes"] for run in runs)
    run = runs[0]
    counted = "; ".join(f"{what} {count:,}" for what, count in sorted(summary.counted.items()))
    return (
        f"{commands} on {run['workers']} cores, {minutes:.0f} minutes, version {run['rapipe']}, "
        f'Python {run["python"]}, {run["machine"]}. "Compared" are the trials with outputs to '
        f"compare with an undisturbed run's. Counted besides: {counted}.\n"
    )


def wrapped(text: str, width: int = 100) -> str:
    """Lines of at most so many letters."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False) + "\n"


def main() -> None:
    """Print the table of runs, or put it into a page."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.summary", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in arguments.runs]
    summary = Summary()
    for run in runs:
        summary.merge(run)
    text = paragraph(runs, summary)
    if not arguments.write:
        print(f"{summary.markdown()}\n{wrapped(text)}", end="")
        return
    page = arguments.write.read_text()
    if not SECTION.search(page):
        sys.exit(f"{arguments.write} has no table of faults")
    section = f"{summary.markdown()}\n{wrapped(text)}"
    atomic_write(arguments.write, SECTION.sub(lambda _: section, page, count=1).encode())


if __name__ == "__main__":
    main()
