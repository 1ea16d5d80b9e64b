"""SimSiam: BYOL without a momentum encoder; what keeps it from collapse is a stopped gradient."""

from __future__ import annotations

from torch import Tensor, nn

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.pretraining.objectives.parts import mlp

HEAD = (2048, 2048)


class SimSiam(Objective):
    """Predicts, from one view of an image, the network's own embedding of another view.

    Heads F-2048-2048, normalised at the end, and 2048-512-2048, as in the paper's
    experiments with CIFAR-10, or of the spec's widths, the predictor's narrowest
    layer a quarter of the output.

    Source: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021.
    """

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import NegativeCosineSimilarity

        super().__init__(encoder, spec)
        widths = spec.head or HEAD
        out = widths[-1]
        self.projector = mlp(encoder.features, widths, last=nn.BatchNorm1d(out, affine=False))
        self.predictor = mlp(out, (max(1, out // 4), out))
        self.similarity = NegativeCosineSimilarity()

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        z0, z1 = (self.projector(self.encoder(view)) for view in views)
        total: Tensor = self.similarity(self.predictor(z0), z1.detach()) + self.similarity(
            self.predictor(z1), z0.detach()
        )
        return total / 2
