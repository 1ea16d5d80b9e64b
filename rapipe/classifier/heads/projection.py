"""A layer like the first one of a projection head, between the features and the classes.

Pretraining by `simclr-v2` throws the projection head away but for its first layer, and
classifiers are fine-tuned from there. Without those weights the layer starts random.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

from torch import Tensor, nn

from rapipe.classifier.heads.base import Head


class Projection(Head):
    """A layer as wide as the features, then a linear one: fine-tuning from a head's middle.

    Behind `+pretrained` by simclr-v2, and behind the memory's `encoder`, it starts as the first
    layer of the projection head; elsewhere it starts random, as a control. The layer
    normalises batches, then ReLU; it learns even behind `+frozen`.

    Source: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners",
    NeurIPS 2020.
    """

    wants_tokens = False
    normalises = True

    def __init__(self, channels: int, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(  # as in rapipe.pretraining.objectives.parts.mlp
            nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()
        )
        self.out = nn.Linear(features, classes)

    def forward(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        logits: Tensor = self.out(self.layers(features))
        return logits
