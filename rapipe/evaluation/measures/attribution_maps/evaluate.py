"""Maps of a trained classifier for some images, and what the sanity checks say of them.

Letters: N images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.evaluation.measures.attribution_maps.methods import (
    STEPS,
    DoesNotApplyError,
    completeness_error,
    deep_lift,
    integrated_gradients,
)
from rapipe.evaluation.measures.attribution_maps.record import AttributionMaps
from rapipe.evaluation.measures.attribution_maps.sanity import areas, map_correlation, randomised
from rapipe.evaluation.measures.attribution_maps.subject import (
    FixedNeighbours,
    Subject,
    subjects,
)
from rapipe.progress import track
from rapipe.records import Images, Labels, Neighbours

METHOD = "integrated-gradients"
"""It applies to every network, and its maps can be checked for completeness."""


def spread(labels: Labels, count: int) -> np.ndarray:
    """Rows (at most `count`) of as many classes as there can be, ascending."""
    before = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        before[rows] = np.arange(len(rows))
    return np.sort(np.lexsort((labels, before))[:count])


def evaluate_maps(
    classifier: Classifier,
    images: Images,
    bank: DeviceBank | None = None,
    neighbours: Neighbours | None = None,
    seed: int = 0,
) -> tuple[AttributionMaps, dict[str, Any]]:
    """A map of each image for the class that is predicted, and the figures of all.

    Args:
        images: N of them; a few.
        bank, neighbours: what they are shown, with the same rows; None without.
        seed: of randomised weights and random orders.

    Returns:
        The figures are means over images: `randomised_correlation` with the map of the same
        network before any training; `completeness_error` of the maps and
        `deep_lift_completeness_error` (None where DeepLIFT does not apply); `deletion`,
        `insertion` and `random_order`, areas under the probability of the class.
    """
    shown = Shown.of(bank, neighbours)
    probabilities = metrics.softmax(classifier.predict(images.pixels, *shown))  # (N, classes)
    predicted = probabilities.argmax(axis=1)
    explained = subjects(classifier, images.pixels, predicted, bank, neighbours, seed=seed)
    untrained = randomised(classifier, seed)
    maps: list[Tensor] = []
    random_maps: list[Tensor] = []
    rows: list[dict[str, float]] = []
    deep_lift_errors: list[float] | None = []
    for subject in track(explained, "attributing", len(images)):
        map_ = integrated_gradients(subject)
        network = FixedNeighbours(untrained, subject.network.neighbours)
        random_maps.append(integrated_gradients(replace(subject, network=network), STEPS))
        maps.append(map_)
        names = ("deletion", "insertion", "random_order")
        figures = dict(zip(names, areas(subject, map_), strict=True))
        error = completeness_error(subject, map_)
        rows.append({"completeness_error": error, **figures})
        if deep_lift_errors is not None:
            deep_lift_errors = _append_deep_lift(subject, deep_lift_errors)
    facts: dict[str, Any] = {"method": METHOD, "images": len(images)}
    facts |= {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    facts["deep_lift_completeness_error"] = deep_lift_errors and float(np.mean(deep_lift_errors))
    facts["randomised_correlation"] = map_correlation(maps, random_maps)
    columns = probabilities.max(axis=1).astype(np.float32), torch.stack(maps).cpu().numpy()
    return AttributionMaps(images.ids, predicted, *columns, METHOD), facts


def _append_deep_lift(subject: Subject, errors: list[float]) -> list[float] | None:
    """The errors and that of another image; None if DeepLIFT does not apply."""
    try:
        return [*errors, completeness_error(subject, deep_lift(subject))]
    except DoesNotApplyError:
        return None
