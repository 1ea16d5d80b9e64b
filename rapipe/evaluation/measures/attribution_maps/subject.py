"""What an attribution map explains: why a classifier predicts a class for one image.

Neighbours stay those of the clean image while its pixels vary. So a map of a classifier with
neighbours says what the pixels do given these neighbours, and not what other pixels would have
retrieved: `embedding -> search -> neighbours` is no part of the function that is explained.

Letters: B batch, S side in pixels, C classes, R references.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.batches.loader import ArrayField, BatchLoader
from rapipe.batches.transforms import to_float
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import (
    DeviceBank,
    NeighbourBatch,
    Shown,
    fields_of,
    join,
)
from rapipe.records import Labels, Neighbours, Pixels


class FixedNeighbours(nn.Module):
    """A classifier as a function of the pixels of one image.

    Args:
        neighbours: those of the image, a batch of one; None without.
    """

    def __init__(self, classifier: Classifier, neighbours: NeighbourBatch | None) -> None:
        super().__init__()
        self.classifier = classifier.eval()
        self.neighbours = neighbours

    def forward(self, images: Tensor) -> Tensor:
        """Variants of the image (B, 3, S, S) in [0, 1] -> logits (B, C) less their mean.

        The softmax does not see what all logits share, and so no map should.
        """
        shown = self.neighbours
        if shown is not None:
            shown = shown.repeated(len(images))
        logits: Tensor = self.classifier(images, shown).float()
        return logits - logits.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class Subject:
    """An image, a class, and the function whose value is explained: the centred logit of the class.

    Args:
        baseline: the image that stands for "nothing there", of one colour.
        references: images that GradientSHAP compares with.
        seed: of random numbers.
    """

    network: FixedNeighbours
    image: Tensor  # (1, 3, S, S) in [0, 1]
    target: int
    baseline: Tensor  # (1, 3, S, S)
    references: Tensor  # (R, 3, S, S)
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Variants of the image that are computed at once."""
        return self.network.classifier.preprocess.batch_size

    def logits(self, images: Tensor) -> Tensor:
        """Centred logits (B, C) of variants of the image, without a graph."""
        with torch.inference_mode():
            return torch.cat([self.network(part) for part in torch.split(images, self.batch_size)])

    @cached_property
    def difference(self) -> float:
        """f(image) - f(baseline), which a complete map sums to."""
        image, baseline = self.logits(torch.cat([self.image, self.baseline]))[:, self.target]
        return float(image - baseline)


def subjects(
    classifier: Classifier,
    pixels: Pixels,
    targets: Labels,
    bank: DeviceBank | None = None,
    neighbours: Neighbours | None = None,
    references: Pixels | None = None,
    seed: int = 0,
) -> Iterator[Subject]:
    """One an image (N, S, S, 3).

    The baseline has the mean colour of the images that the classifier was trained on: it is 0 in
    all channels once it is normalised.

    Args:
        targets: (N,) the class to explain.
        bank, neighbours: what the images are shown, with the same rows; None without.
        references: (R, S, S, 3); the baseline unless given.
    """
    device = classifier.device
    fields = fields_of(Shown.of(bank, neighbours), device, classifier.inputs, resident=False)
    loader = BatchLoader(device, ArrayField(pixels, device, resident=False), *fields)
    batches = loader.batches(np.arange(len(pixels)), 1)
    for target, (stored, *parts) in zip(targets.tolist(), batches, strict=True):
        image = to_float(stored)
        mean = torch.tensor(classifier.spec.network.mean, device=device).view(1, 3, 1, 1)
        baseline = mean.expand_as(image).contiguous()
        others = baseline if references is None else to_float(torch.tensor(references).to(device))
        network = FixedNeighbours(classifier, join(parts))
        yield Subject(network, image, target, baseline, others, seed)
