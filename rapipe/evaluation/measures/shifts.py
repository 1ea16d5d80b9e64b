"""How well does a classifier do on corrupted images, and on images from elsewhere?

Both are rows like those of a noise level, beside the vote of the same neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.corruptions import CORRUPTIONS, parse
from rapipe.evaluation.measures.noise_levels import predict, scores
from rapipe.progress import track
from rapipe.records import Images, Pixels
from rapipe.retrieval.votes import Vote

Row = dict[str, Any]


def evaluate_shifts(
    classifier: Classifier,
    images: Images,
    corruptions: Sequence[str],
    shifts: Mapping[str, Images],
    retriever: Retriever | None,
    bank: DeviceBank | None,
    vote: Vote | None,
    seed: int,
) -> tuple[list[Row], list[Row]]:
    """A row a corruption of the images, and a row a set of images from elsewhere.

    Args:
        corruptions: as NAME:SEVERITY.
        shifts: labelled images of the same classes, by name.
        retriever, bank: None for a classifier without retrieval.
        vote: of the neighbours, as chosen on validation images; None where none has a class.
        seed: of the corruptions.

    Returns:
        Rows with `corruption` and `severity`, or with `shift`; then the `scores` of a level, and
        `vote_top1` where neighbours vote.
    """

    def measured(images: Images, pixels: Pixels) -> Row:
        level = predict(classifier, images, pixels, retriever, bank)
        row: Row = scores(level, images, bank)
        if vote and level.retrieval:
            counts = vote(*level.retrieval.voters, len(images.classes))
            row["vote_top1"] = metrics.top_k(counts, images.labels, 1)
        return row

    corrupted = [
        {"corruption": name, "severity": severity, **measured(images, pixels)}
        for name, severity, pixels in _corrupted(images, corruptions, seed)
    ]
    elsewhere = [{"shift": name, **measured(part, part.pixels)} for name, part in shifts.items()]
    return corrupted, elsewhere


def _corrupted(
    images: Images, corruptions: Sequence[str], seed: int
) -> Iterator[tuple[str, int, Pixels]]:
    for text in track(corruptions, "corrupting", len(corruptions)):
        name, severity = parse(text)
        yield name, severity, CORRUPTIONS[name](images.pixels, images.ids, severity, seed)
