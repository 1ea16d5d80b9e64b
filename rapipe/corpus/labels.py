"""What labels decide: what is held out, what a limit leaves, whose labels are hidden.

Besides, what labels lack, and where they contradict each other.

Letters: N images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rapipe.records import Ids, Labels

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]  # (N,)
NAMED = 20
"""Classes that a sentence names."""


def held_out_mask(ids: Ids, labels: Labels, fraction: float, rng: np.random.Generator) -> Mask:
    """Mask (N,) of a share of the labelled images of each class; equal ids stay together.

    Of a class with several at least one is held out, unless the share is 0, and one is left.
    """
    unique, first = np.unique(ids, return_index=True)
    label_of = labels[first]
    drawn = [unique[:0]]
    for rows in _rows_by_label(label_of):
        if label_of[rows[0]] >= 0:
            order = rng.permutation(unique[rows])
            share = max(round(fraction * len(order)), 1 if fraction else 0)
            drawn.append(order[: min(share, len(order) - 1)])
    return np.asarray(np.isin(ids, np.concatenate(drawn)))


def limit_mask(labels: Labels, limit: int | float, rng: np.random.Generator) -> Mask:
    """Mask (N,) of `limit` images, a number or a share, in the proportions of the labels.

    `rng` ranks the images of each class, and the first of all ranks are taken, so
    a smaller limit is part of a larger one.
    """
    n = len(labels)
    count = min(limit, n) if isinstance(limit, int) else max(1, round(limit * n))
    rank = np.empty(n)
    for rows in _rows_by_label(labels):
        rank[rows] = (rng.permutation(len(rows)) + 0.5) / len(rows)
    mask = np.zeros(n, np.bool_)
    mask[np.argsort(rank, kind="stable")[:count]] = True
    return mask


def hidden_label_ids(ids: Ids, labels: Labels, fraction: float, seed: int) -> Ids:
    """Ids of the labelled images whose labels are hidden: those that `visible_label_mask` lacks."""
    return ids[(labels >= 0) & ~visible_label_mask(ids, labels, fraction, seed)]


def visible_label_mask(ids: Ids, labels: Labels, fraction: float, seed: int) -> Mask:
    """Mask (N,) of the images whose labels are visible: a share of each class, at least one.

    Equal images are treated alike, and a smaller share is part of a larger one. Those that are
    in several classes are drawn in each, so a few more may be visible. The images whose labels
    are hidden stay in the corpus, and may be retrieved.

    Args:
        ids: (N,), in any order.
        labels: (N,), -1 = none, which is never visible.
        fraction: more than 0, up to 1.
    """
    drawn = [ids[:0]]
    for label in np.unique(labels[labels >= 0]).tolist():
        unique = np.unique(ids[labels == label])
        order = np.random.default_rng([seed, label]).permutation(unique)
        drawn.append(order[: math.ceil(fraction * len(unique))])
    return np.asarray((labels >= 0) & np.isin(ids, np.concatenate(drawn)))


def conflicting_ids(ids: Ids, labels: Labels) -> Ids:
    """The ids (N,) that have several labels, ascending; label -1 = none."""
    ids, labels = ids[labels >= 0], labels[labels >= 0]
    order = np.lexsort((labels, ids))
    same_id, same_label = (np.diff(values[order]) == 0 for values in (ids, labels))
    return np.unique(ids[order][1:][same_id & ~same_label])


def absent_classes(labels: Labels, classes: Sequence[str]) -> list[str]:
    """Names of the classes that no label (N,) is of; label -1 = none."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]


def absence_words(split: str, absent: Sequence[str], classes: int) -> str:
    """What a split lacks, as a clause.

    >>> absence_words("test", ["heron"], 3)
    'no test image of 1 of 3 classes: heron'
    """
    more = f" and {len(absent) - NAMED:,} more" if len(absent) > NAMED else ""
    names = ", ".join(absent[:NAMED])
    return f"no {split} image of {len(absent):,} of {classes:,} classes: {names}{more}"


def _rows_by_label(labels: Labels) -> list[Rows]:
    """The rows of each label that occurs, in ascending order."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [rows for rows in groups if len(rows)]
