"""Draws by label: what is held out, what a limit leaves, and whose labels are hidden.

Letters: N images.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rapipe.records import Ids, Labels

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]  # (N,)


def held_out_mask(ids: Ids, labels: Labels, fraction: float, rng: np.random.Generator) -> Mask:
    """Mask (N,) of a share of the labelled images of each class; equal ids stay together."""
    unique, first = np.unique(ids, return_index=True)
    label_of = labels[first]
    drawn = [unique[:0]]
    for rows in _rows_by_label(label_of):
        if label_of[rows[0]] >= 0:
            order = rng.permutation(unique[rows])
            drawn.append(order[: round(fraction * len(order))])
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

    Equal images are treated alike, and a smaller share is part of a larger one. The images
    whose labels are hidden stay in the corpus, and may be retrieved.

    Args:
        ids: (N,), in any order.
        labels: (N,), -1 = none, which is never visible.
        fraction: more than 0, up to 1.
    """
    visible = np.zeros(len(ids), bool)
    for label in np.unique(labels[labels >= 0]).tolist():
        of_class = labels == label
        unique = np.unique(ids[of_class])
        order = np.random.default_rng([seed, label]).permutation(unique)
        visible |= of_class & np.isin(ids, order[: math.ceil(fraction * len(unique))])
    return visible


def _rows_by_label(labels: Labels) -> list[Rows]:
    """The rows of each label that occurs, in ascending order."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [rows for rows in groups if len(rows)]
