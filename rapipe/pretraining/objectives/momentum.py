"""The momentum encoder that BYOL, MoCo and DINO learn from.

Papers also call it target network (BYOL), key encoder (MoCo) and teacher (DINO). Its
parameters are a moving average of the learned ones; its BatchNorm stays in training mode,
so buffers do not follow.

Letters: B batch, D embedding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec


class MomentumObjective(Objective):
    """An objective with a momentum encoder, and a momentum projector.

    Args:
        projector: head of the encoder.
        momentum_projector: a copy of it, for one that `deepcopy` cannot copy.

    Attributes:
        momentum: of the moving average at the first step.
        last_momentum: at the last step; between them it follows a cosine.
    """

    momentum: float = 0.99
    last_momentum: float = 1.0

    def __init__(
        self,
        encoder: Backbone,
        spec: ObjectiveSpec,
        projector: nn.Module,
        momentum_projector: nn.Module | None = None,
    ) -> None:
        from lightly.models.utils import deactivate_requires_grad

        super().__init__(encoder, spec)
        self.projector = projector
        self.momentum_encoder = copy.deepcopy(encoder)
        self.momentum_projector = momentum_projector or copy.deepcopy(projector)
        deactivate_requires_grad(self.momentum_encoder)
        deactivate_requires_grad(self.momentum_projector)

    def embed(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of the encoder and projector that learn."""
        embeddings: Tensor = self.projector(self.encoder(view))
        return embeddings

    def momentum_embed(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of the momentum encoder and projector, without gradients."""
        with torch.no_grad():
            embeddings: Tensor = self.momentum_projector(self.momentum_encoder(view))
        return embeddings

    def before_step(self, step: int, steps: int) -> None:
        from lightly.utils.scheduler import cosine_schedule

        # All at once: lightly's `update_momentum`, one by one, takes 2 to 4 times as long.
        momentum = cosine_schedule(step, steps, self.momentum, self.last_momentum)
        update = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for average, network in (
                (self.momentum_encoder, self.encoder),
                (self.momentum_projector, self.projector),
            ):
                update(list(average.parameters()), list(network.parameters()), step)
