"""The same pixels in several classes: at most one of the labels is right.

Unlabelled copies contradict nothing.

Letters: N images of all pieces of the corpus, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rapipe.corpus.labels import conflicting_ids
from rapipe.corpus.split_rows import SplitRows
from rapipe.errors import ArgumentError
from rapipe.records import Ids, Labels

LISTED = 1000
"""Conflicts that are listed; the rest are only counted."""
CLASSES = 10
"""Classes of one conflict that are listed."""
NAMED = 3
"""Conflicts that a sentence names."""


class LabelledCopy(NamedTuple):
    """An image whose pixels are in another class too."""

    location: str
    """File or row."""
    class_name: str
    split: str
    source: str

    def __str__(self) -> str:
        return f"{self.location} ({self.class_name}, {self.split})"


class Conflict(NamedTuple):
    """Pixels in several classes, and the first copy in each of these."""

    image_id: int
    copies: Sequence[LabelledCopy]

    def __str__(self) -> str:
        return " = ".join(map(str, self.copies))


@dataclass(frozen=True)
class Conflicts:
    """All conflicts of a corpus."""

    ids: int = 0
    """Different pixels that are in several classes."""
    images: int = 0
    """Their labelled copies."""
    left_out: int = 0
    """Images that were left out for it, labelled or not."""
    first: Sequence[Conflict] = ()
    """At most `LISTED`, in the order of the images."""

    def __str__(self) -> str:
        examples = "; ".join(map(str, self.first[:NAMED]))
        more = f"; and {self.ids - NAMED:,} more" if self.ids > NAMED else ""
        return f"{self.images:,} images have the pixels of another class's image: {examples}{more}"


def settle(pieces: dict[str, list[SplitRows]], classes: Sequence[str], policy: str) -> Conflicts:
    """Find the pixels that are in several classes; with `drop` remove all their copies.

    Copies in different splits count too, though only one of these splits keeps them.

    Args:
        pieces: by split; changed in place.
        classes: their names, by label.
        policy: keep, drop or stop.

    Raises:
        ArgumentError: there are such, and the policy is `stop`.
    """
    in_order = [(split, piece) for split, of_split in pieces.items() for piece in of_split]
    ids = np.concatenate([piece.ids for _, piece in in_order])
    labels = np.concatenate([piece.labels for _, piece in in_order])
    contradicted = np.isin(ids, conflicting_ids(ids, labels))
    labelled = np.flatnonzero(contradicted & (labels >= 0))
    if not len(labelled):
        return Conflicts()
    first = _first(in_order, ids, labels, labelled, classes)
    count = len(np.unique(ids[labelled]))
    if policy == "stop":
        more = f", and {count - 1:,} more" if count > 1 else ""
        raise ArgumentError(
            f"the same pixels are in several classes: {first[0]}{more}; correct the labels, or "
            "set `on_conflict` to keep, or to drop, which leaves out all copies"
        )
    if policy == "keep":
        return Conflicts(count, len(labelled), 0, first)
    for split, of_split in pieces.items():
        pieces[split] = [piece.select(~np.isin(piece.ids, ids[labelled])) for piece in of_split]
    return Conflicts(count, len(labelled), int(contradicted.sum()), first)


def _first(
    pieces: Sequence[tuple[str, SplitRows]],
    ids: Ids,
    labels: Labels,
    rows: np.ndarray,
    classes: Sequence[str],
) -> list[Conflict]:
    """The first conflicts, each with the first copy in each class.

    Args:
        pieces: with their splits.
        rows: of N, of the images in conflicts.
    """
    row_of: dict[int, dict[int, int]] = {}  # by id and label
    values = (column.tolist() for column in (rows, ids[rows], labels[rows]))
    for row, image_id, label in zip(*values, strict=True):
        if image_id in row_of or len(row_of) < LISTED:
            row_of.setdefault(image_id, {}).setdefault(label, row)
    listed = {image_id: [*of.values()][:CLASSES] for image_id, of in row_of.items()}
    copies = _describe(pieces, np.sort(np.concatenate([*listed.values()])), classes)
    return [
        Conflict(image_id, [copies[row] for row in of_id]) for image_id, of_id in listed.items()
    ]


def _describe(
    pieces: Sequence[tuple[str, SplitRows]], rows: np.ndarray, classes: Sequence[str]
) -> dict[int, LabelledCopy]:
    """Location, class, split and source of images, by row of N."""
    copies, start = {}, 0
    for split, piece in pieces:
        inside = {*rows[(rows >= start) & (rows < start + len(piece))].tolist()}
        for row, location in enumerate(piece.locations() if inside else (), start):
            if row in inside:
                name = classes[int(piece.labels[row - start])]
                copies[row] = LabelledCopy(location, name, split, piece.name)
        start += len(piece)
    return copies
