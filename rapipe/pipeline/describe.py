"""`rapipe corpus --describe`: print the corpus card."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from rapipe import paths
from rapipe.corpus.conflicts import Conflict, LabelledCopy
from rapipe.corpus.labels import absence_words
from rapipe.corpus.shifts import Shift
from rapipe.corpus.sources.base import remarks
from rapipe.errors import UserError, printable
from rapipe.pipeline.inputs import corpus_card, shifts_card
from rapipe.progress import console, print_line

CLASSES = 30
SKIPPED = 10
CONFLICTS = 10
"""Most lines of each that are printed; the card has all."""


def run() -> None:
    """Print images by split, source and class, sizes, duplicates, pixels, and skipped images."""
    card = corpus_card()
    if "conflicts" not in card:
        raise UserError(f"{paths.CORPUS_CARD} is of an older version: run rapipe corpus")
    tables = console()
    for table in (_splits(card), _sources(card), _classes(card)):
        tables.print(table)
        tables.print()
    pairs = ", ".join(f"{name} {count:,}" for name, count in card["duplicates"].items())
    print_line(f"exact duplicates: {pairs}")
    _print_conflicts(card["conflicts"])
    for split, absent in card["absent_classes"].items():
        if absent:
            words = absence_words(split, absent, len(card["classes"]))
            print_line(words)
    for name in ("mean", "std"):
        print_line(f"{name} of train: {', '.join(f'{value:.4f}' for value in card[name])}")
    print_line(f"hash: {card['hash']}")
    print_line(f"contact sheet: {paths.CONTACT_SHEET}")
    shifts = shifts_card()["sources"]
    for name, source in shifts.items():
        print_line(f"{name}: {Shift(**source['shift'])}")
    for name, source in {**card["sources"], **shifts}.items():
        for remark in remarks(source["passed_over"], source["hints"]):
            print_line(f"{name}: {remark}")
        for line in source["skipped_list"][:SKIPPED]:
            print_line(f"skipped from {name}: {line}")
        if source["skipped"] > SKIPPED:
            more = f"{source['skipped'] - SKIPPED:,} more"
            listed = paths.SHIFTS_CARD if name in shifts else paths.CORPUS_CARD
            print_line(f"skipped from {name}: {more} (see {listed})")


def _print_conflicts(conflicts: dict[str, Any]) -> None:
    """The same pixels in several classes: how many, and some of them."""
    if not conflicts["ids"]:
        return
    left_out = f", {conflicts['left_out']:,} left out" if conflicts["left_out"] else ""
    count = f"{conflicts['ids']:,}, in {conflicts['images']:,} images{left_out}"
    print_line(f"the same pixels in several classes: {count}")
    for conflict in conflicts["list"][:CONFLICTS]:
        copies = [LabelledCopy(**copy) for copy in conflict["images"]]
        print_line(f"  {Conflict(conflict['id'], copies)}")
    if conflicts["ids"] > CONFLICTS:
        more = f"{conflicts['ids'] - CONFLICTS:,} more"
        print_line(f"  {more} (see {paths.CORPUS_CARD})")


def _splits(card: dict[str, Any]) -> Table:
    sources = list(card["sources"])
    table = _table("split", "images", "unlabelled", *sources)
    for name, split in card["splits"].items():
        counts = [split["by_source"].get(source, 0) for source in sources]
        _row(table, name, split["images"], split["unlabelled"], *counts)
    return table


def _sources(card: dict[str, Any]) -> Table:
    table = _table("source", "read", "skipped", "width", "height", "most common", "role")
    for name, source in card["sources"].items():
        sides = [
            f"{source[side]['smallest']} to {source[side]['largest']}"
            for side in ("width", "height")
        ]
        common = next(iter(source["common_sizes"]))
        _row(table, name, source["read"], source["skipped"], *sides, common, source["role"])
    return table


def _classes(card: dict[str, Any]) -> Table:
    table = _table("class", *card["splits"])
    names = card["classes"]
    for name in names[:CLASSES]:
        _row(table, name, *(split["by_class"][name] for split in card["splits"].values()))
    if len(names) > CLASSES:
        _row(table, f"and {len(names) - CLASSES} more")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None)
    for name in others:
        table.add_column(printable(name), justify="right")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(f"{c:,}" if isinstance(c, int) else printable(str(c)) for c in cells))
