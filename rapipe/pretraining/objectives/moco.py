"""MoCo v2: SimCLR's loss, with negatives from a queue that a momentum encoder fills.

With lightly's loss and memory bank. Each view is query once and key once, as in
lightly's benchmark of CIFAR-10, but all queries see the queue as it was before the
step: else the second half of them would find keys of their own images in it. The
momentum encoder normalises over parts of the shuffled batch ("shuffling BN"): over the
whole of it, statistics would give away which key belongs to which query.

Letters: B batch, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rapipe.encoder.backbones import Backbone
from rapipe.pretraining.objectives.base import ObjectiveSpec
from rapipe.pretraining.objectives.momentum import MomentumObjective
from rapipe.pretraining.objectives.parts import mlp, of_whole_batch, persist_queue
from rapipe.training.ranks import count, rank

HEAD = (512, 128)
TEMPERATURE = 0.2
QUEUE = 4096
"""Keys, two of each image: in a corpus of fewer images than half of it, every image meets
older keys of its own as negatives."""
PARTS = 4
"""Of a batch, which the momentum encoder normalises apart, each of at least two images."""


class MoCo(MomentumObjective):
    """Tells an image's other view from thousands of earlier images in a momentum encoder's queue.

    Version 2. Head F-512-128 without normalisation, temperature .2, 4096 keys; the
    momentum stays .99.

    Source: Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv 2020.
    """

    ignores = ("local_crops",)
    draws = True
    last_momentum = 0.99

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import NTXentLoss

        widths = spec.head or HEAD
        super().__init__(encoder, spec, mlp(encoder.features, widths, norm=False))
        self.contrast = NTXentLoss(spec.temperature or TEMPERATURE, (QUEUE, widths[-1]))
        persist_queue(self.contrast.memory_bank)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        first, second = views
        queries = self.embed(first), self.embed(second)  # (B, D) each
        return of_whole_batch(self._contrast, *queries, self.keys(second), self.keys(first))

    def _contrast(self, *outputs: Tensor) -> Tensor:
        """Of the queries of both views, and of their keys."""
        loss: Tensor = self.contrast(torch.cat(outputs[:2]), torch.cat(outputs[2:]))
        return loss

    def keys(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of the momentum encoder, from parts of the batch in a random order.

        A rank shuffles its share of the batch.
        """
        b = len(view)
        first = rank() * b
        order = torch.randperm(count() * b)
        order = (order[(order >= first) & (order < first + b)] - first).to(view.device)
        parts = order.tensor_split(max(1, min(PARTS, b // 2)))
        return torch.cat([self.momentum_embed(view[part]) for part in parts])[order.argsort()]
