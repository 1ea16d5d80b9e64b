"""Labels that neighbours contradict: possible errors.

For each image the labels of its nearest neighbours, itself left out, vote. Whether a vote
contradicts a label is decided as in confident learning: another class has at least the share of
the votes that images of that class have on average, and more than the given class has. Source:
Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
JAIR 2021.

A contradicted label is wrong, or its image is one that the votes get wrong: how often they do is
known from validation. Whoever reads the list decides by looking.

Besides the votes two things contradict a label: the same pixels with another one, and an image
with another one that is nearly a copy.

Letters: N images, K neighbours, C classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe.corpus.labels import conflicting_ids
from rapipe.records import UNLABELLED, Ids, Labels, Neighbours
from rapipe.retrieval.votes import KS, Vote

K = 50
"""Most neighbours that vote."""
MIN_K = 5
VOTE = "softmax"
"""Shares of the votes change smoothly with similarity, also among few neighbours."""
CHUNK = 4096
"""Images judged at once."""
Shares = npt.NDArray[np.float64]  # of the votes


class Judgement(NamedTuple):
    """What the votes say of the labels of images (N,)."""

    confidence: Shares
    """Share of the given class; nan where nobody votes, or no other image has the class."""
    suggested: Labels
    """The class that contradicts the given one; -1 where none does."""
    suggested_confidence: Shares
    """Share of the votes for that class; nan where there is none."""


@dataclass(frozen=True)
class Suspects:
    """Images (M,) whose label something contradicts, the most suspicious first."""

    rows: npt.NDArray[np.int64]
    """Of the N images."""
    suggested: Labels
    """A class of the bank."""
    confidence: Shares
    """Of the votes for the given class; nan where there is no vote."""
    suggested_confidence: Shares
    """Of the votes for the suggested class; nan where the votes do not contradict."""
    by_votes: npt.NDArray[np.bool_]
    by_near_duplicate: npt.NDArray[np.bool_]
    """An image of another class is nearly a copy."""
    by_same_pixels: npt.NDArray[np.bool_]
    """An image of another class has the same pixels."""
    columns: npt.NDArray[np.int64]
    """Of the table: the first neighbour of the suggested class; -1 where there is none."""


def choose_vote(
    table: Neighbours, bank_labels: Labels, labels: Labels, classes: int
) -> Vote | None:
    """The vote with the most neighbours that is not clearly worse than the best.

    Many neighbours outvote a wrong label. Not clearly worse is: by at most one standard error
    of the accuracy. Where classes are small, fewer are better by far.

    Args:
        table: of validation images.
        labels: (N,) of these.

    Returns:
        None without validation images, or if no neighbour has a label of the task.
    """
    neighbour_labels = bank_labels[table.indices]
    if not len(labels) or not ((neighbour_labels >= 0) & (neighbour_labels < classes)).any():
        return None
    _, most = table.indices.shape
    scored = []
    for k in sorted({k for k in KS if MIN_K <= k < most} | {most}):
        right = 0
        for part in _parts(len(labels)):
            counts = Vote(VOTE, k, 0.0)(table.similarities[part], neighbour_labels[part], classes)
            right += int(((counts.argmax(1) == labels[part]) & counts.any(1)).sum())
        scored.append(Vote(VOTE, k, right / len(labels)))
    best = max(vote.validation_top1 for vote in scored)
    error = (best * (1 - best) / len(labels)) ** 0.5
    return next(vote for vote in reversed(scored) if vote.validation_top1 >= best - error)


def judge(
    table: Neighbours, bank_ids: Ids, bank_labels: Labels, labels: Labels, vote: Vote, classes: int
) -> Judgement:
    """What the votes of their neighbours say of the labels of images.

    Args:
        table: (N, K); no image is among its own neighbours.
        bank_ids, bank_labels: of all rows that may be neighbours.
        labels: (N,) of the images, from 0 to `classes` - 1.
    """
    n = len(labels)
    confidence = np.full(n, np.nan)
    for part, shares in _shares(table, bank_labels, vote, classes):
        confidence[part] = shares[np.arange(len(shares)), labels[part]]
    confidence[~_has_company(table.query_ids, labels, bank_ids, bank_labels, classes)] = np.nan
    judged = ~np.isnan(confidence)
    images = np.bincount(labels[judged], minlength=classes)
    total = np.bincount(labels[judged], confidence[judged], minlength=classes)
    usual = np.divide(total, images, out=np.full(classes, np.inf), where=images > 0)  # (C,)
    suggested, suggested_confidence = np.full(n, UNLABELLED), np.full(n, np.nan)
    for part, shares in _shares(table, bank_labels, vote, classes):
        confident = np.where(shares >= usual, shares, -1)  # (N, C)
        best = confident.argmax(1)
        share = confident[np.arange(len(best)), best]
        rows = np.flatnonzero((best != labels[part]) & (share > confidence[part]))
        suggested[part.start + rows], suggested_confidence[part.start + rows] = (
            best[rows],
            share[rows],
        )
    return Judgement(confidence, suggested, suggested_confidence)


def unjudged(n: int) -> Judgement:
    """For n images that nobody votes on."""
    nothing = np.full(n, np.nan)
    return Judgement(nothing, np.full(n, UNLABELLED), nothing)


def find_suspects(
    table: Neighbours,
    bank_labels: Labels,
    labels: Labels,
    judgement: Judgement,
    threshold: float | None,
) -> Suspects:
    """All images whose label something contradicts.

    Those that the votes contradict come first, by how far the given class is behind the
    suggested one; then nearly copies, by similarity; then the same pixels.

    Args:
        table: (N, K), the most similar first.
        labels: (N,).
        threshold: the similarity above which a neighbour is nearly a copy; None: none is.
    """
    copy_columns = contradicting_copies(table, bank_labels, labels, threshold)
    twins = twin_labels(table.query_ids, labels)
    by_votes, by_copy, by_twin = (
        judgement.suggested >= 0,
        copy_columns >= 0,
        twins >= 0,
    )
    rows = np.flatnonzero(by_votes | by_copy | by_twin)
    columns = copy_columns[rows]
    copied = bank_labels[table.indices[rows, columns]]  # wrong where the column is -1
    suggested = np.where(
        by_votes[rows],
        judgement.suggested[rows],
        np.where(by_copy[rows], copied, twins[rows]),
    )
    of_suggested = bank_labels[table.indices[rows]] == suggested[:, None]  # (M, K)
    columns = np.where(of_suggested.any(1), of_suggested.argmax(1), -1)
    margin = judgement.confidence[rows] - judgement.suggested_confidence[rows]
    likeness = np.where(by_copy[rows], table.similarities[rows, columns], -1)
    order = np.lexsort((-likeness, np.where(by_votes[rows], margin, 1)))
    rows = rows[order]
    return Suspects(
        rows,
        suggested[order],
        judgement.confidence[rows],
        judgement.suggested_confidence[rows],
        by_votes[rows],
        by_copy[rows],
        by_twin[rows],
        columns[order],
    )


def twin_labels(ids: Ids, labels: Labels) -> Labels:
    """For each image (N,) the least other label of the same pixels; -1 where there is none."""
    twins = np.full(len(ids), UNLABELLED)
    labels_of: dict[int, set[int]] = defaultdict(set)
    rows = np.flatnonzero(np.isin(ids, conflicting_ids(ids, labels)) & (labels >= 0)).tolist()
    for row in rows:
        labels_of[int(ids[row])].add(int(labels[row]))
    for row in rows:
        twins[row] = min(labels_of[int(ids[row])] - {int(labels[row])})
    return twins


def contradicting_copies(
    table: Neighbours, bank_labels: Labels, labels: Labels, threshold: float | None
) -> npt.NDArray[np.int64]:
    """For each image (N,) the first neighbour that is nearly a copy and of another class.

    Args:
        table: (N, K), the most similar first.
        threshold: the similarity above which a neighbour is nearly a copy; None: none is.

    Returns:
        Columns of the table; -1 where there is no such neighbour.
    """
    columns = np.full(len(labels), -1)
    if threshold is None:
        return columns
    for part in _parts(len(labels)):
        neighbour_labels = bank_labels[table.indices[part]]
        copies = (table.similarities[part] > threshold) & (neighbour_labels >= 0)
        copies &= neighbour_labels != labels[part, None]
        columns[part] = np.where(copies.any(1), copies.argmax(1), -1)
    return columns


def _shares(
    table: Neighbours, bank_labels: Labels, vote: Vote, classes: int
) -> Iterator[tuple[slice, Shares]]:
    """Shares of the votes (N, C), part by part; nan where nobody votes."""
    for part in _parts(len(table.query_ids)):
        counts = vote(table.similarities[part], bank_labels[table.indices[part]], classes)
        total = counts.sum(1, keepdims=True)
        yield part, np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def _has_company(
    ids: Ids, labels: Labels, bank_ids: Ids, bank_labels: Labels, classes: int
) -> npt.NDArray[np.bool_]:
    """Whether the bank has another image of each image's class (N,)."""
    of_task = (bank_labels >= 0) & (bank_labels < classes)
    _, first = np.unique(bank_ids[of_task], return_index=True)
    others = np.bincount(bank_labels[of_task][first], minlength=classes)[labels]
    return np.asarray(others - np.isin(ids, bank_ids) > 0)


def _parts(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
