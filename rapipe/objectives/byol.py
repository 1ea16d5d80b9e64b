"""BYOL: predict what a slow copy of oneself sees in another view.

Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, with lightly's heads
and loss. The two terms are summed, as in the paper. The slow copy's BatchNorm
stays in training mode: parameters move, buffers do not.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rapipe.backbones import Backbone
from rapipe.objectives.base import Objective

HIDDEN = 1024
OUT = 256
MOMENTUM = 0.99
"""Of the slow copy at the start; it rises to 1 along a cosine."""


class BYOL(Objective):
    """Heads F-1024-256 and 256-1024-256."""

    def __init__(self, encoder: Backbone) -> None:
        from lightly.loss import NegativeCosineSimilarity  # seconds: only for those who use it
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        self.encoder = encoder
        self.projector = BYOLProjectionHead(encoder.features, HIDDEN, OUT)
        self.predictor = BYOLPredictionHead(OUT, HIDDEN, OUT)
        self.slow_encoder = copy.deepcopy(self.encoder)
        self.slow_projector = copy.deepcopy(self.projector)
        deactivate_requires_grad(self.slow_encoder)
        deactivate_requires_grad(self.slow_projector)
        self.similarity = NegativeCosineSimilarity()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        p0, p1 = (self.predictor(self.projector(self.encoder(v))) for v in (first, second))
        with torch.no_grad():
            z0, z1 = (self.slow_projector(self.slow_encoder(v)) for v in (first, second))
        total: Tensor = self.similarity(p0, z1) + self.similarity(p1, z0)
        return total

    def before_step(self, step: int, steps: int) -> None:
        from lightly.utils.scheduler import cosine_schedule

        # All at once: lightly's `update_momentum`, one by one, takes 2 to 4 times as long.
        momentum = cosine_schedule(step, steps, MOMENTUM, 1.0)
        move = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for slow, fast in (
                (self.slow_encoder, self.encoder),
                (self.slow_projector, self.projector),
            ):
                move(list(slow.parameters()), list(fast.parameters()), step)
