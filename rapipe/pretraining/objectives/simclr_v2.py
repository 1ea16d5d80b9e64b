"""SimCLR v2: SimCLR with a deeper head, and with MoCo's memory of earlier images.

The rest of the method is classifiers: they are fine-tuned from the middle of the head
(`NAME+pretrained+projection`), and their predictions are distilled (`+distilled`).

Letters: B batch, D embedding, F features, Q keys in the queue.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.encoder.backbones import Backbone
from rapipe.errors import ArgumentError
from rapipe.pretraining.objectives.base import ObjectiveSpec
from rapipe.pretraining.objectives.momentum import MomentumObjective
from rapipe.pretraining.objectives.parts import mlp, of_whole_batch, persist_queue

OUT = 128
TEMPERATURE = 0.1
QUEUE = 4096
"""Keys, two of each image, as of `moco`; the paper's 65,536 are for ImageNet."""
LAYER = 3
"""Modules of a layer of the head: linear, BatchNorm, ReLU."""


class SimCLRv2(MomentumObjective):
    """Pulls two views together, away from the batch and from earlier images in a queue.

    Head F-F-F-128, from whose first layer classifiers with the head `projection` are
    fine-tuned; a head of other widths begins with F too. Temperature .1; the queue's 4096
    keys are a momentum encoder's, whose momentum stays .99.

    Source: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners",
    NeurIPS 2020.
    """

    ignores = ("local_crops",)
    last_momentum = 0.99

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.models.modules.memory_bank import MemoryBankModule

        f = encoder.features
        widths = spec.head or (f, f, OUT)
        if len(widths) < 2 or widths[0] != f:
            raise ArgumentError(
                f"`head` is {list(widths)}, but with `objective` simclr-v2 classifiers start from "
                f"its first layer, which must be as wide as the {f} features of `encoder`, with "
                f"at least one layer behind it: such as {[f, OUT]}"
            )
        super().__init__(encoder, spec, mlp(f, widths))
        self.temperature = spec.temperature or TEMPERATURE
        self.queue = MemoryBankModule((QUEUE, widths[-1]))
        persist_queue(self.queue)

    @property
    def middle(self) -> nn.Module:  # type: ignore[override]
        head: Any = self.projector
        layers: nn.Module = head.layers[:LAYER]
        return layers

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        embeddings = [self.embed(view) for view in views]  # (B, D) each
        keys = [self.momentum_embed(view) for view in views]
        return of_whole_batch(self._contrast, *embeddings, *keys)

    def _contrast(self, *outputs: Tensor) -> Tensor:
        """Cross entropy of the other view among all others of the batch, and the queue's keys.

        Args:
            outputs: embeddings (B, D) of both views, then keys.
        """
        z, keys = (F.normalize(torch.cat(part)) for part in (outputs[:2], outputs[2:]))  # (2B, D)
        _, negatives = self.queue(keys, update=True)  # (D, Q), as it was
        n = len(z)
        logits = torch.cat((z @ z.T, z @ negatives), dim=1) / self.temperature  # (2B, 2B + Q)
        self_pairs = torch.eye(n, logits.shape[1], dtype=torch.bool, device=z.device)
        other_view = (torch.arange(n, device=z.device) + n // 2) % n
        return F.cross_entropy(logits.masked_fill(self_pairs, -torch.inf), other_view)
