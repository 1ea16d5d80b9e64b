"""`rapipe corpus --describe`: print the corpus card."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rapipe import paths
from rapipe.pipeline.inputs import corpus_card

CLASSES = 30
SKIPPED = 10
"""Most lines of each that are printed; the card has all."""


def run() -> None:
    """Print images by split, source and class, sizes, duplicates, pixels, and skipped images."""
    card = corpus_card()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in (_splits(card), _sources(card), _classes(card)):
        console.print(table)
        console.print()
    pairs = ", ".join(f"{name} {count:,}" for name, count in card["duplicates"].items())
    console.print(f"exact duplicates: {pairs}")
    for name in ("mean", "std"):
        console.print(f"{name} of train: {', '.join(f'{value:.4f}' for value in card[name])}")
    console.print(f"hash: {card['hash']}")
    console.print(f"contact sheet: {paths.CONTACT_SHEET}")
    for name, source in card["sources"].items():
        for line in source["skipped_list"][:SKIPPED]:
            console.print(f"skipped from {name}: {line}", markup=False, soft_wrap=True)
        if source["skipped"] > SKIPPED:
            more = f"{source['skipped'] - SKIPPED:,} more"
            console.print(f"skipped from {name}: {more} (see {paths.CORPUS_CARD})", markup=False)


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
    table = Table(first, box=None)  # names are `Text`, so that they are no markup
    for name in others:
        table.add_column(Text(name), justify="right")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in cells))
