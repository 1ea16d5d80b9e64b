"""SimCLR: two views of an image are alike, and unlike all other images of the batch.

With lightly's NT-Xent. Its negatives are the batch, so larger batches are harder.
"""

from __future__ import annotations

from torch import Tensor

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.pretraining.objectives.parts import mlp, of_whole_batch

HEAD = (512, 128)
TEMPERATURE = 0.5


class SimCLR(Objective):
    """Pulls two views of an image together, and pushes all other images of the batch away.

    Head F-512-128, or linear or an MLP of the spec's widths; temperature .5.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020.
    """

    ignores = ("local_crops",)

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import NTXentLoss

        super().__init__(encoder, spec)
        self.projector = mlp(encoder.features, spec.head or HEAD)
        self.contrast = NTXentLoss(spec.temperature or TEMPERATURE)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        z0, z1 = (self.projector(self.encoder(view)) for view in views)
        return of_whole_batch(self.contrast, z0, z1)
