"""What an encoder is worth downstream, on test images, by how it is used.

Letters: S seeds, N test images, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.classifier.train import train_classifier
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.evaluation.encoder_baselines import (
    EncoderBaseline,
    LabelledVectors,
    choose_probe,
    choose_vote,
)
from rapipe.evaluation.statistics import Correct, interval_of_mean
from rapipe.evaluation.uses import FINE_TUNED, PROBE, VOTE
from rapipe.records import UNLABELLED, Images
from rapipe.specs import TrainingRecipe

Row = dict[str, Any]


def as_it_is(encoder: Encoder, images: Mapping[str, Images], seed: int) -> list[Row]:
    """The vote of neighbours and the linear probe, both chosen on validation: a row each.

    Args:
        images: by split; training images without a label are left out.
        seed: of the intervals, over the choice of test images.
    """
    labelled = {name: _labelled(part) for name, part in images.items()}
    encoder = encoder.to(device())
    train, validation, test = (
        LabelledVectors(part.ids, encoder.embed(part.pixels), part.labels)
        for part in (labelled[name] for name in ("train", "validation", "test"))
    )
    chosen: tuple[EncoderBaseline, ...] = (
        choose_vote(train, validation, len(images["train"].classes)),
        choose_probe(train, validation),
    )
    return [
        _row(use, baseline.answer(test).correct[None], seed)
        for use, baseline in zip((VOTE, PROBE), chosen, strict=True)
    ]


def fine_tuned(
    encoder: Encoder,
    images: Mapping[str, Images],
    recipe: TrainingRecipe,
    seeds: Sequence[int],
    seed: int,
    checkpoints: Path,
) -> Row:
    """A classifier that starts from the encoder, once a seed; the epoch is chosen on validation.

    Args:
        seed: of the interval, over test images and, where there are several, seeds.
        checkpoints: a folder of this encoder alone, with one for each seed.
    """
    test, learned = _labelled(images["test"]), {**images}
    del learned["test"]
    correct = []
    for number in seeds:
        trained = train_classifier(
            learned,
            network=replace(encoder.spec, precision="fp32"),
            initial=encoder.backbone,
            recipe=recipe,
            seed=number,
            checkpoints=checkpoints / str(number),
        )
        logits = trained.classifier.to(device()).predict(test.pixels)
        correct.append(logits.argmax(axis=1) == test.labels)
    return _row(FINE_TUNED, np.stack(correct), seed)


def _labelled(images: Images) -> Images:
    return images.take(np.flatnonzero(images.labels != UNLABELLED))


def _row(use: str, correct: Correct, seed: int) -> Row:
    """Accuracy of answers (S, N), from 0 to 1, with its 95 % interval."""
    low, high = interval_of_mean(correct, seed)
    top1 = float(correct.mean())
    return {"use": use, "top1": top1, "low": max(0.0, low), "high": min(1.0, high)}
