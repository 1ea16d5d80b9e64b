"""Labels that neighbours contradict: planted errors are found, and nothing else is said."""

from __future__ import annotations

import numpy as np
import pytest

from rapipe.evaluation import label_errors
from rapipe.evaluation.label_errors import Suspects
from rapipe.records import Ids, Labels, Neighbours, Vectors
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.retrieval.votes import Vote

C, N, VALIDATION = 4, 800, 200


def clusters(spread: float) -> tuple[Vectors, Labels]:
    """Unit vectors (N, 8) around a centre a class, and their classes."""
    rng = np.random.default_rng(0)
    classes = np.arange(N) % C
    vectors = np.eye(8)[classes] + spread * rng.standard_normal((N, 8))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32), classes


def suspects_of(
    vectors: Vectors, labels: Labels, ids: Ids | None = None, threshold: float | None = None
) -> Suspects:
    """The first images are validation, the others train and the bank."""
    ids = np.arange(N) if ids is None else ids
    bank, bank_labels = VectorsWithIds(ids[VALIDATION:], vectors[VALIDATION:]), labels[VALIDATION:]
    table = search(vectors, bank, label_errors.K, ids)
    validation = table.take(np.arange(VALIDATION))
    vote = label_errors.choose_vote(validation, bank_labels, labels[:VALIDATION], C)
    assert vote
    judgement = label_errors.judge(table, bank.ids, bank_labels, labels, vote, C)
    return label_errors.find_suspects(table, bank_labels, labels, judgement, threshold)


@pytest.mark.parametrize(("spread", "precision", "recall"), [(0.2, 0.97, 0.8), (0.45, 0.4, 0.6)])
def test_flipped_labels_are_found(
    spread: float, precision: float, recall: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_errors, "CHUNK", 77)
    vectors, classes = clusters(spread)
    flipped = np.random.default_rng(1).random(N) < 0.06
    labels = np.where(flipped, (classes + 1) % C, classes)
    suspects = suspects_of(vectors, labels)
    right = flipped[suspects.rows]
    assert right.mean() >= precision  # chance is 0.06
    assert right.sum() >= recall * flipped.sum()
    assert right[:20].mean() >= precision
    assert (suspects.suggested[right] == classes[suspects.rows[right]]).mean() > 0.9
    assert {*(suspects.rows[right] < VALIDATION).tolist()} == {True, False}
    margins = suspects.confidence - suspects.suggested_confidence
    assert (np.diff(margins) >= 0).all()
    assert margins.max() < 0
    assert not suspects.by_near_duplicate.any()


def test_right_labels_are_left_alone() -> None:
    vectors, classes = clusters(0.1)
    assert not len(suspects_of(vectors, classes).rows)


def table_of(neighbour_labels: list[list[int]], similarity: float = 0.9) -> tuple:
    """A table whose neighbours have these labels, each a row of its own, and the bank's labels."""
    labels = np.array(neighbour_labels)
    indices = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    similarities = np.full(labels.shape, similarity, np.float32)
    ids = 1000 + np.arange(len(labels))
    return Neighbours(ids, indices, similarities), np.arange(labels.size), labels.reshape(-1)


def test_the_rule_is_that_of_confident_learning() -> None:
    """The shares of class 0 and 1 on average: (1 + .5 + .25) / 3 and (1 + .75) / 2."""
    neighbours = [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    labels = np.array([0, 0, 0, 1, 1])
    table, ids, bank_labels = table_of(neighbours)
    vote = Vote("softmax", 4, 0.0)
    judgement = label_errors.judge(table, ids, bank_labels, labels, vote, 2)
    assert judgement.confidence.tolist() == pytest.approx([1, 0.5, 0.25, 1, 0.75])
    # The third has .75 of class 1, which has .875 on average: it is not contradicted.
    assert judgement.suggested.tolist() == [-1] * 5
    neighbours[2] = [1, 1, 1, 1]
    table, ids, bank_labels = table_of(neighbours)
    judgement = label_errors.judge(table, ids, bank_labels, labels, vote, 2)
    assert judgement.suggested.tolist() == [-1, -1, 1, -1, -1]
    assert judgement.suggested_confidence[2] == pytest.approx(1)


def test_who_has_no_company_or_no_votes_is_not_judged() -> None:
    table, ids, bank_labels = table_of([[0, 0, 0], [-1, -1, -1], [0, 0, 1], [0, 5, 0]])
    labels = np.array([2, 0, 1, 0])  # nobody else is of class 2; class 5 is unknown to the task
    vote = Vote("softmax", 3, 0.0)
    judgement = label_errors.judge(table, ids, bank_labels, labels, vote, 3)
    assert np.isnan(judgement.confidence).tolist() == [True, True, False, False]
    assert judgement.confidence[3] == pytest.approx(1)
    alone = table.query_ids.copy()
    alone[2] = ids[8]  # the only image of class 1 is the query itself
    table = Neighbours(alone, table.indices, table.similarities)
    judgement = label_errors.judge(table, ids, bank_labels, labels, vote, 3)
    assert np.isnan(judgement.confidence[2])


def test_the_vote_takes_many_neighbours_unless_classes_are_small() -> None:
    vectors, classes = clusters(0.2)
    bank = VectorsWithIds(np.arange(VALIDATION, N), vectors[VALIDATION:])
    table = search(vectors[:VALIDATION], bank, label_errors.K, np.arange(VALIDATION))
    vote = label_errors.choose_vote(table, classes[VALIDATION:], classes[:VALIDATION], C)
    assert vote
    assert vote.k == label_errors.K
    assert vote.validation_top1 > 0.95
    few = np.repeat(np.arange(12), 50).reshape(12, 50) % 12
    few[:, 6:] = (few[:, 6:] + 1) % 12  # only the six nearest are of the image's class
    table, _, bank_labels = table_of(few.tolist())
    vote = label_errors.choose_vote(table, bank_labels, np.arange(12), 12)
    assert vote
    assert vote.k in (5, 10)
    assert label_errors.choose_vote(table, np.full(600, -1), np.arange(12), 12) is None
    assert label_errors.choose_vote(table.take(np.arange(0)), bank_labels, few[:0, 0], 12) is None


def test_copies_and_twins_of_another_class_are_suspects() -> None:
    similarities = np.array([[0.99, 0.98, 0.5], [0.999, 0.9, 0.8], [0.7, 0.6, 0.5]], np.float32)
    indices = np.arange(9, dtype=np.int32).reshape(3, 3)
    bank_labels = np.array([0, 1, 1, -1, 0, 0, 1, 1, 1])
    table = Neighbours(np.array([7, 8, 8]), indices, similarities)
    labels = np.array([0, 1, 0])
    judgement = label_errors.unjudged(3)
    suspects = label_errors.find_suspects(table, bank_labels, labels, judgement, 0.95)
    assert suspects.rows.tolist() == [0, 1, 2]
    assert suspects.suggested.tolist() == [1, 0, 1]
    assert suspects.by_near_duplicate.tolist() == [True, False, False]  # not without a label
    assert suspects.by_same_pixels.tolist() == [False, True, True]
    assert suspects.columns.tolist() == [1, 1, 0]
    assert np.isnan(suspects.confidence).all()
    nothing = label_errors.find_suspects(
        table.take(np.array([0])), bank_labels, labels[:1], label_errors.unjudged(1), None
    )
    assert not len(nothing.rows)


def test_twins() -> None:
    ids, labels = np.array([3, 3, 4, 4, 5, 5, 5]), np.array([1, 0, 2, 2, 2, -1, 1])
    assert label_errors.twin_labels(ids, labels).tolist() == [0, 1, -1, -1, 1, -1, 2]
