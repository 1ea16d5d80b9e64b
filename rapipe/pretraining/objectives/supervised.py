"""Cross entropy on labels: what an encoder that sees them would be worth."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.encoder.backbones import Backbone
from rapipe.errors import ArgumentError
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.records import UNLABELLED
from rapipe.training.ranks import collected, gathered


class Supervised(Objective):
    """Learns the labels themselves through a linear head: a reference for those that do not.

    Images without a label add nothing to the loss.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", NeurIPS 2012 (whose figure 4 looks up neighbours by such features).
    """

    views = 1
    caution = (
        "this encoder sees the labels of its training images, so what it finds is no result of "
        "learning without them"
    )
    ignores = ("head", "temperature", "local_crops")

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        super().__init__(encoder, spec)
        if not spec.classes:
            raise ArgumentError(
                "`objective` is supervised, but `images` have no labels: choose an objective that "
                "needs none, such as byol"
            )
        self.head = nn.Linear(encoder.features, spec.classes)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        logits = gathered(self.head(self.encoder(views[0])).float())  # (B, classes)
        labels = collected(labels)
        total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
        return total / (labels != UNLABELLED).sum().clamp(min=1)
