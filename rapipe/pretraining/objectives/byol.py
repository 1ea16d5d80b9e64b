"""BYOL: predict the momentum encoder's embedding of another view.

With lightly's heads and loss. The two terms are summed, as in the paper.
"""

from __future__ import annotations

from torch import Tensor

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import ObjectiveSpec
from rapipe.pretraining.objectives.momentum import MomentumObjective
from rapipe.pretraining.objectives.parts import mlp

HEAD = (1024, 256)


class BYOL(MomentumObjective):
    """Predicts, from one view of an image, the momentum encoder's embedding of another view.

    Heads F-1024-256 and 256-1024-256, or of the spec's widths; the momentum
    rises from .99 to 1.

    Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020.
    """

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import NegativeCosineSimilarity  # seconds: only for those who use it

        widths = spec.head or HEAD
        super().__init__(encoder, spec, mlp(encoder.features, widths))
        self.predictor = mlp(widths[-1], (widths[0], widths[-1]))
        self.similarity = NegativeCosineSimilarity()

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        p0, p1 = (self.predictor(self.embed(view)) for view in views)
        z0, z1 = (self.momentum_embed(view) for view in views)
        total: Tensor = self.similarity(p0, z1) + self.similarity(p1, z0)
        return total
