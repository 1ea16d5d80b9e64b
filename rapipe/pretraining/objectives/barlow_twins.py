"""Barlow Twins: outputs of two views correlate feature by feature, and with no other feature."""

from __future__ import annotations

from torch import Tensor

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.pretraining.objectives.parts import mlp, of_whole_batch

HEAD = (2048, 2048)
"""lightly's for CIFAR-10; the paper's three layers of 8192 are for ImageNet."""


class BarlowTwins(Objective):
    """Makes every output agree between two views, and no two outputs say the same.

    The loss is a sum over the outputs, so learning rates are lower than those of
    other objectives (lightly's for CIFAR-10 is .06 with SGD at batch size 128).

    Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy
    Reduction", ICML 2021.
    """

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import BarlowTwinsLoss

        super().__init__(encoder, spec)
        self.projector = mlp(encoder.features, spec.head or HEAD)
        self.decorrelate = BarlowTwinsLoss()

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        z0, z1 = (self.projector(self.encoder(view)) for view in views)
        return of_whole_batch(self.decorrelate, z0, z1)
