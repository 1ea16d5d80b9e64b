"""Which images of a source classifiers are only evaluated on: those of the role `shift`.

Its classes are those of the task by name, exactly. What is evaluated has never been learned or
looked up, and nothing was chosen on it: copies of training and validation images are left out.
Copies of test images stay.

Letters: N images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rapipe.corpus.labels import NAMED, limit_mask
from rapipe.corpus.split_rows import SplitRows
from rapipe.errors import ArgumentError
from rapipe.records import UNLABELLED, Ids


@dataclass(frozen=True)
class Shift:
    """What became of the images of a source of the role shift."""

    splits: Sequence[str]
    """Of the source, that were read: its test split, or all if it has none."""
    images: int
    """Those that are left."""
    other_classes: Mapping[str, int]
    """Images that were left out, by class that the task lacks."""
    unlabelled: int
    """Images that were left out since they have no label."""
    copies: Mapping[str, int]
    """Images that were left out since they are in this split too: train, validation."""

    def __str__(self) -> str:
        of = " and ".join(self.splits)
        return f"{self.images:,} images ({of}) are evaluated only{self._left_out()}"

    def _left_out(self) -> str:
        parts = [f"{count:,} also in {split}" for split, count in self.copies.items() if count]
        if self.unlabelled:
            parts.append(f"{self.unlabelled:,} without a label")
        if self.other_classes:
            words = [f"{count:,} {class_name}" for class_name, count in self.other_classes.items()]
            parts.append(f"of classes that the task lacks {_named(words)}")
        return f"; left out: {'; '.join(parts)}" if parts else ""


def select_shift(
    name: str,
    pieces: Mapping[str, SplitRows],
    source_classes: Sequence[str],
    classes: Sequence[str],
    used: Mapping[str, Ids],
    limit: int | float,
    rng: np.random.Generator,
) -> tuple[list[SplitRows], Shift]:
    """The images to evaluate, with labels of the task, and what was left out.

    Args:
        name: of the source.
        pieces: its images by split, with its own labels.
        source_classes: their names.
        classes: of the task.
        used: by split, ids of the images that may not be evaluated.
        limit: number of images, or share of those that are left (1.0 = all); drawn by class.

    Raises:
        ArgumentError: it shares no class with the task, or no image is left.
    """
    number = {class_name: label for label, class_name in enumerate(classes)}
    if number.keys().isdisjoint(source_classes):
        raise ArgumentError(
            f"`sources`: {name}, whose role is shift, has no class of the task: its classes are "
            f"{_named(source_classes)}, those of the task {_named(classes)}"
        )
    of_source = np.concatenate([piece.labels for piece in pieces.values()])
    names = (source_classes[label] for label in of_source[of_source >= 0].tolist())
    other_classes = Counter(class_name for class_name in names if class_name not in number)
    label_of = np.array([*(number.get(c, UNLABELLED) for c in source_classes), UNLABELLED])
    kept = [replace(piece, labels=label_of[piece.labels]) for piece in pieces.values()]
    kept = [piece.select(piece.labels >= 0) for piece in kept]
    copies = {}
    for split, ids in used.items():
        before = sum(map(len, kept))
        kept = [piece.select(~np.isin(piece.ids, ids)) for piece in kept]
        copies[split] = before - sum(map(len, kept))
    mask = limit_mask(np.concatenate([piece.labels for piece in kept]), limit, rng)
    masks = np.split(mask, np.cumsum([len(piece) for piece in kept])[:-1])
    kept = [piece.select(part) for piece, part in zip(kept, masks, strict=True)]
    unlabelled = int((of_source < 0).sum())
    shift = Shift([*pieces], int(mask.sum()), dict(other_classes), unlabelled, copies)
    if not shift.images:
        raise ArgumentError(f"`sources`: of {name}, {shift}")
    return kept, shift


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "none") + more
