"""All test images with what a classifier says: which are wrong, and whether retrieval was.

Letters: N images, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import metrics
from rapipe.classifier.neighbour_batch import Shown
from rapipe.explore.explorer import NONE, Explorer
from rapipe.explore.project import Row
from rapipe.explore.questions import Hidden, choose
from rapipe.retrieval.votes import count_votes

RIGHT, WRONG = "right", "wrong"
RETRIEVAL, FUSION, SAVED = "retrieval failed", "fusion failed", "right against its neighbours"
LISTED = 50
"""Rows of the bank that are named, of the most harmful and of the most helpful."""


def mistakes(explorer: Explorer, name: str) -> Row:
    """What a classifier says of every clean test image.

    Returns:
        `rows`, one an image with `id`, `truth`, `predicted` (numbers of classes), `confidence`,
        `outcome`, `purity` and `similarity` (None without neighbours); `confusion` (C, C), counts
        by truth and prediction; `duplicates`, and `harmful` and `helpful` rows of the bank.

        An outcome is `right` or `wrong` where nothing was retrieved. Otherwise a wrong one is
        `retrieval failed` if most neighbours have another class than the image, else `fusion
        failed`; and a right one may be `right against its neighbours`.

    Raises:
        ArgumentError: there is no such classifier.
    """
    choose(name, explorer.project.classifiers, "classifier")
    with explorer.lock:
        return _mistakes(explorer, name)


def _mistakes(explorer: Explorer, name: str) -> Row:
    project, test = explorer.project, explorer.project.test
    trained, classifier = project.classifiers[name], explorer.classifier(name)
    shown, neighbours, bank = Shown(), None, None
    if trained.retrieval != NONE:
        bank, on_device = explorer.view(Hidden())
        neighbours = explorer.retriever(trained, 0, bank).retrieve(test)
        shown = Shown.of(on_device, neighbours)
    logits = classifier.predict(test.pixels, *shown)
    predicted, truth, classes = logits.argmax(axis=1), test.labels, len(test.classes)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    right = predicted == truth
    outcome = np.where(right, RIGHT, WRONG).astype(object)
    columns: dict[str, list[Any]] = {"purity": [None] * len(test), "similarity": [None] * len(test)}
    if neighbours and neighbours.k and bank:
        labels = bank.labels[neighbours.indices]  # (N, K)
        counts = count_votes(labels, np.ones(labels.shape), classes)
        found = (counts.argmax(axis=1) == truth) & (counts.max(axis=1) > 0)
        outcome[~right & ~found], outcome[~right & found] = RETRIEVAL, FUSION
        outcome[right & ~found] = SAVED
        columns["purity"] = (labels == truth[:, None]).mean(axis=1).round(4).tolist()
        columns["similarity"] = neighbours.similarities.max(axis=1).round(4).tolist()
    columns |= {
        "id": [str(image_id) for image_id in test.ids],
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "confidence": metrics.softmax(logits).max(axis=1).round(4).tolist(),
        "outcome": outcome.tolist(),
    }
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    influence = [as_text(row) for row in trained.influence()]
    harmful = [row for row in influence if float(row["effect"]) < 0][:LISTED]
    helpful = [row for row in influence[::-1] if float(row["effect"]) > 0][:LISTED]
    duplicates = project.memory.duplicates if project.memory else ()
    return {
        "classifier": name,
        "top1": float(right.mean()),
        "rows": rows,
        "confusion": confusion.tolist(),
        "duplicates": [as_text(row) for row in duplicates],
        "harmful": harmful,
        "helpful": helpful,
    }


def as_text(row: Row) -> Row:
    """A row whose ids are texts, since JavaScript rounds large numbers."""
    return {key: str(v) if key == "id" or key.endswith("_id") else v for key, v in row.items()}
