"""Which file or row each image of the corpus came from, as a CSV: split, row, location.

Locations are written as `errors.printable` shows them.

Import rule: nothing of ours but `errors`.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from rapipe.errors import printable

COLUMNS = ("split", "row", "location")


def write_locations(path: Path, locations: Mapping[str, Iterable[str]]) -> None:
    """Write the locations of the images of each split, in their order."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for split, of_split in locations.items():
            writer.writerows((split, row, printable(text)) for row, text in enumerate(of_split))


def all_locations(path: Path) -> Iterator[str]:
    """The location of every image, split by split; the file is read line by line."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        yield from (location for _, _, location in rows)


def read_locations(path: Path, images: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """The locations of some images, by split and row; the file is read line by line."""
    wanted = {(split, str(row)) for split, row in images}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (split, int(row)): location
            for split, row, location in csv.reader(file)
            if (split, row) in wanted
        }
