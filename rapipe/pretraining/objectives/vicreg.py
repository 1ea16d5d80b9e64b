"""VICReg: views agree (invariance), outputs vary (variance) and do not repeat (covariance)."""

from __future__ import annotations

from torch import Tensor

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.pretraining.objectives.parts import mlp, of_whole_batch

HEAD = (2048, 2048, 2048)


class VICReg(Objective):
    """Makes two views agree while every output varies over images and no two vary together.

    Weights 25, 25 and 1, as in the paper; a head of 2048s in place of its 8192s. The
    weights make its gradients large: with SGD, learning rates are below those of other
    objectives.

    Source: Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", ICLR 2022.
    """

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import VICRegLoss

        super().__init__(encoder, spec)
        self.projector = mlp(encoder.features, spec.head or HEAD)
        self.regularise = VICRegLoss()

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        z0, z1 = (self.projector(self.encoder(view)) for view in views)
        return of_whole_batch(self.regularise, z0, z1)
