"""BYOL: predict what a slow copy of oneself sees in another view.

With lightly's heads and loss. The two terms are summed, as in the paper.
"""

from __future__ import annotations

from torch import Tensor

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Recipe
from rapipe.pretraining.objectives.parts import mlp
from rapipe.pretraining.objectives.slow import SlowCopy

HEAD = (1024, 256)


class BYOL(SlowCopy):
    """Predicts, from one view of an image, what a slow copy of the network makes of another.

    Heads F-1024-256 and 256-1024-256, or of the recipe's widths; the slow copy's
    momentum rises from .99 to 1.

    Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020.
    """

    def __init__(self, encoder: Backbone, recipe: Recipe) -> None:
        from lightly.loss import NegativeCosineSimilarity  # seconds: only for those who use it

        widths = recipe.head or HEAD
        super().__init__(encoder, recipe, mlp(encoder.features, widths))
        self.predictor = mlp(widths[-1], (widths[0], widths[-1]))
        self.similarity = NegativeCosineSimilarity()

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        p0, p1 = (self.predictor(self.fast(view)) for view in views)
        z0, z1 = (self.slow(view) for view in views)
        total: Tensor = self.similarity(p0, z1) + self.similarity(p1, z0)
        return total
