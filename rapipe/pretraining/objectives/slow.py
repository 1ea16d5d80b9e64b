"""The slow copy of a network that BYOL, MoCo and DINO learn from.

Its parameters are a moving average of the learned ones; its BatchNorm stays in
training mode, so buffers do not follow.

Letters: B batch, D embedding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Objective, Recipe


class SlowCopy(Objective):
    """An objective with a slow copy of its encoder and projector.

    Args:
        projector: head of the encoder.
        slow_projector: a copy of it, for one that cannot be copied by `deepcopy`.

    Attributes:
        momentum: of the slow copy at the first step.
        last_momentum: at the last step; between them it follows a cosine.
    """

    momentum: float = 0.99
    last_momentum: float = 1.0

    def __init__(
        self,
        encoder: Backbone,
        recipe: Recipe,
        projector: nn.Module,
        slow_projector: nn.Module | None = None,
    ) -> None:
        from lightly.models.utils import deactivate_requires_grad

        super().__init__(encoder, recipe)
        self.projector = projector
        self.slow_encoder = copy.deepcopy(encoder)
        self.slow_projector = slow_projector or copy.deepcopy(projector)
        deactivate_requires_grad(self.slow_encoder)
        deactivate_requires_grad(self.slow_projector)

    def fast(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of the networks that learn."""
        embeddings: Tensor = self.projector(self.encoder(view))
        return embeddings

    def slow(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of the slow copy, without gradients."""
        with torch.no_grad():
            embeddings: Tensor = self.slow_projector(self.slow_encoder(view))
        return embeddings

    def before_step(self, step: int, steps: int) -> None:
        from lightly.utils.scheduler import cosine_schedule

        # All at once: lightly's `update_momentum`, one by one, takes 2 to 4 times as long.
        momentum = cosine_schedule(step, steps, self.momentum, self.last_momentum)
        move = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for slow, fast in (
                (self.slow_encoder, self.encoder),
                (self.slow_projector, self.projector),
            ):
                move(list(slow.parameters()), list(fast.parameters()), step)
